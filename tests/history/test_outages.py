"""The database is away, or the writer is killed: the history is complete afterwards."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from avtomatika.engine import historian
from avtomatika.history import Archive
from avtomatika.history.verify import Counts, verify
from avtomatika.state.redis import RedisStore, connect
from tests.support.history import Place
from tests.support.polling import eventually_async
from tests.support.processes import ManagedProcess
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer

WRITER = Path(__file__).parents[1] / "support" / "apps" / "history_writer.py"


@asynccontextmanager
async def _running(place: Place, archive: Archive) -> AsyncIterator[None]:
    task = asyncio.create_task(place.historian(archive).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _written(place: Place, archive: Archive, job_id: str) -> None:
    """Waits until the history has what the store has of this job."""
    told = list(await place.store.events(job_id))

    async def look() -> bool:
        return await archive.events(job_id) == told

    await eventually_async(look, retry=(AssertionError, OSError, historian.HistoryUnavailableError))


async def _sound(archive: Archive) -> Counts:
    counts = Counts()
    assert await archive.database.read(lambda c: list(verify(c, None, counts))) == []
    return counts


@pytest.fixture
def proxy(postgres_uri: str) -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(postgres_uri).port or 5432)
    yield proxy
    proxy.close()


async def test_a_database_that_refuses_for_a_while(
    postgres_uri: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(historian, "MAX_PAUSE_SECONDS", 0.5)
    parts = urlsplit(postgres_uri)
    place = Place(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl())
    archive, through = Archive(postgres_uri, upgrades=True), place.archive()
    async with _running(place, through):
        first = await place.whole_job()
        await _written(place, archive, first.id)
        proxy.refuse()
        jobs = [await place.whole_job(changes=10) for _ in range(50)]
        await eventually_async(lambda: _said(caplog, "history_waits"))
        with pytest.raises(historian.HistoryUnavailableError):
            await through.job(first.id)
        jobs += [await place.whole_job() for _ in range(10)]
        proxy.accept()
        for job in jobs:
            await _written(place, archive, job.id)
        proxy.cut()  # once more, between two batches
        jobs.append(await place.whole_job())
        await _written(place, archive, jobs[-1].id)

    counts = await _sound(archive)
    assert (counts.jobs, counts.events) == (62, 4 + 50 * 12 + 11 * 4)
    await archive.close()


async def _said(caplog: pytest.LogCaptureFixture, action: str) -> bool:
    return any(getattr(record, "action", "") == action for record in caplog.records)


async def test_a_folder_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(historian, "MAX_PAUSE_SECONDS", 0.5)
    place = Place(f"sqlite:///{tmp_path / 'later' / 'history.sqlite3'}")
    job = await place.whole_job()
    async with _running(place, place.archive()):
        await eventually_async(lambda: _said(caplog, "history_waits"))
        (tmp_path / "later").mkdir()
        archive = place.archive()
        await _written(place, archive, job.id)
    await _sound(archive)
    await archive.close()


async def test_a_feed_at_its_bound_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(historian, "MAX_PAUSE_SECONDS", 0.5)
    place = Place(f"sqlite:///{tmp_path / 'nowhere' / 'history.sqlite3'}", overrides={"event_stream_length": 1000})
    job = await place.job()
    for _ in range(999):
        job = await place.change(job)
    async with _running(place, place.archive()):
        await eventually_async(lambda: _said(caplog, "history_full"))
    [said] = [record for record in caplog.records if getattr(record, "action", "") == "history_full"]
    assert said.levelname == "ERROR"
    assert "1000 events behind" in said.getMessage()


async def test_a_writer_that_is_killed_while_it_writes(
    uri: str, redis_server: RedisServer, namespace: str, processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(connect(redis_server.url), namespace, snapshots=True)
    place = Place(uri, store, now=time.time())
    jobs = [await place.whole_job(changes=8) for _ in range(60)]
    archive = place.archive()
    await archive.prepare()

    async def written(count: int) -> bool:
        return (await _events(archive)) >= count

    def start(number: int) -> ManagedProcess:
        argv = [sys.executable, str(WRITER), redis_server.url, namespace, uri, "7"]
        return processes.make(ManagedProcess, name=f"writer-{number}", argv=argv)

    first = start(1)
    await eventually_async(lambda: written(20))
    second = start(2)  # it waits for the lock
    await eventually_async(lambda: written(60))
    first.kill()
    jobs += [await place.whole_job(changes=8) for _ in range(10)]
    for job in jobs:
        await _written(place, archive, job.id)
    second.kill()

    counts = await _sound(archive)
    assert (counts.jobs, counts.events) == (70, 700)
    assert [await archive.job(job.id) for job in jobs] == jobs
    await archive.close()
    await store.close()


async def _events(archive: Archive) -> int:
    counts = Counts()
    await archive.database.read(lambda c: list(verify(c, None, counts)))
    return counts.events
