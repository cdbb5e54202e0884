"""Transfers as queue tasks: through the orchestrator and a worker's process, paused, gone on with, cancelled, taken over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from avtomatika.jobs import JobStatus, TaskInfo
from tests.support.engine import Engine
from tests.support.operations import Site, make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.servers import Broker
from tests.support.sshd import Sshd, running
from tests.support.transfers import MIB, content, parts_in, policy_for

SIZE = 12 * MIB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    return tmp_path


@pytest.fixture
def site(server: Sshd, redis_broker: Broker, processes: Processes, folder: Path) -> Site:
    site = make_site(
        redis_broker,
        processes,
        folder,
        server.config(policy_for(folder)),
        WORKER_HEALTH_CHECK_INTERVAL_SECONDS="3",
        WATCHER_INTERVAL_SECONDS="1",
    )
    site.orchestrator()
    return site


async def progress_of(engine: Engine, job_id: str) -> float:
    """What the task that the job waits for says."""
    store = engine.service.store
    job = await store.load(job_id)
    if job is None or not isinstance(job.waiting, TaskInfo):
        return 0.0
    found = await store.progress_of([job.waiting.id])
    return found[job.waiting.id].value if job.waiting.id in found else 0.0


async def test_a_pause_keeps_what_is_done_and_a_cancel_does_not(site: Site, folder: Path) -> None:
    data = content(MIB) * (SIZE // MIB)
    (folder / "here/big").write_bytes(data)
    params = {
        "host": "box",
        "source_path": f"{folder}/here/big",
        "destination_path": f"{folder}/there/big",
        "bandwidth_limit": "2MiB",
        "checksum": True,
    }
    site.worker("ssh")
    async with site.engine() as engine:
        job = await push(engine, "scp_upload", params)
        await eventually_async(lambda: _reaches(engine, job.id, 0.1))
        before = await progress_of(engine, job.id)
        await engine.service.orders.pause(job.id)
        await engine.reaches(job.id, JobStatus.PAUSED)
        (part,) = parts_in(folder / "there")
        stopped = (folder / "there" / part).stat().st_size
        assert 0.1 * SIZE <= stopped < SIZE
        assert not (folder / "there/big").exists()

        await engine.service.orders.resume(job.id)
        await eventually_async(lambda: _reaches(engine, job.id, 0.01))
        assert await progress_of(engine, job.id) >= before
        ended = await engine.ended(job.id)

        assert ended.status is JobStatus.FINISHED, ended.error_message
        assert ended.result["resumed_at"] == stopped
        assert ended.result["bytes_transferred"] == SIZE - stopped
        assert ended.result["sha256"] == hashlib.sha256(data).hexdigest()
        assert (folder / "there/big").read_bytes() == data
        assert parts_in(folder / "there") == []
        log = [line.text for line in await engine.service.store.job_log(job.id)]
        assert any(f"goes on at {stopped} of {SIZE} bytes" in line for line in log)

        job = await push(engine, "scp_upload", {**params, "destination_path": f"{folder}/there/second"})
        await eventually_async(lambda: _reaches(engine, job.id, 0.2))
        await engine.service.orders.cancel(job.id)
        ended = await engine.ended(job.id)
        assert ended.status is JobStatus.CANCELLED
        await eventually_async(lambda: _gone(folder / "there"))
        assert [path.name for path in (folder / "there").iterdir()] == ["big"]


async def _reaches(engine: Engine, job_id: str, fraction: float) -> bool:
    return await progress_of(engine, job_id) >= fraction


async def _gone(folder: Path) -> bool:
    return parts_in(folder) == []


async def test_another_worker_goes_on_when_one_is_killed(site: Site, folder: Path) -> None:
    data = content(MIB) * (SIZE // MIB)
    (folder / "there/big").write_bytes(data)
    params = {
        "host": "box",
        "source_path": f"{folder}/there/big",
        "destination_path": f"{folder}/here/",
        "bandwidth_limit": "3MiB",
    }
    worker = site.worker("ssh", name="first")
    async with site.engine() as engine:
        job = await push(engine, "scp_download", params)
        await eventually_async(lambda: _reaches(engine, job.id, 0.2))
        worker.kill_all()
        (part,) = parts_in(folder / "here")
        stopped = (folder / "here" / part).stat().st_size
        assert not (folder / "here/big").exists()
        site.worker("ssh", name="second")

        ended = await engine.ended(job.id)

        assert ended.status is JobStatus.FINISHED, ended.error_message
        assert ended.result["resumed_at"] == stopped >= 0.2 * SIZE
        assert (folder / "here/big").read_bytes() == data
        assert parts_in(folder / "here") == []
