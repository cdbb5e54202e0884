"""What is too old leaves the database some rows at a time, and the rest stays whole."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event as sql_event
from sqlalchemy import func, select

from avtomatika.history import Archive, retention
from avtomatika.history.queries import JobFilter
from avtomatika.history.tables import event as events
from avtomatika.history.tables import job as jobs
from avtomatika.history.tables import worker as workers
from avtomatika.history.verify import Counts, verify
from avtomatika.jobs import JobStatus
from tests.support.history import Place, write_all
from tests.support.records import NOW, a_worker


async def _counts(archive: Archive) -> dict[str, int]:
    def count(connection: Any) -> dict[str, int]:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (jobs, events, workers)
        }

    return await archive.database.read(count)


async def test_old_jobs_go_and_young_and_open_ones_stay(place: Place, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "JOBS_AT_ONCE", 4)
    monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 7)
    open_job = await place.job()
    old = [await place.whole_job(changes=3) for _ in range(10)]
    await place.store.register(a_worker("old"), place.now, 10)
    historian = place.historian(archive)
    await write_all(historian)
    place.now = NOW + 1000
    young = await place.whole_job(changes=3)
    await place.store.register(a_worker("new", "boot2"), place.now, 1e9)
    await write_all(historian)
    deleted: list[int] = []

    def deletes(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM event"):
            deleted.append(cursor.rowcount)

    sql_event.listen(archive.database.engine, "after_cursor_execute", deletes)

    assert await historian.forget(NOW + 500, most=5) is False  # then what waits is written first
    assert await historian.forget(NOW + 500) is True

    assert deleted == [7] * 7 + [1, 0]
    assert await _counts(archive) == {"job": 2, "event": 6, "worker": 1}
    assert [await archive.job(job.id) for job in old] == [None] * 10
    assert [await archive.job(job.id) for job in (young, open_job)] == [young, open_job]
    assert await archive.database.read(lambda c: list(verify(c, None, Counts()))) == []
    assert await historian.forget(NOW + 500, most=1) is True


async def test_nobody_sees_a_job_that_is_half_deleted(place: Place, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 2)
    job = await place.whole_job()
    await write_all(place.historian(archive))
    for step in (retention.mark, retention.delete_events):
        assert await archive.database.write(step, NOW + 1) > 0

    assert await _counts(archive) == {"job": 1, "event": 2, "worker": 0}
    assert await archive.job(job.id) is None
    assert await archive.jobs(JobFilter(), None, 10) == []
    assert await archive.database.read(lambda c: list(verify(c, None, Counts()))) == []


async def test_the_writer_deletes_by_itself_or_keeps_for_ever(uri: str) -> None:
    for keep, left in ((0, 1), (100, 0)):
        place = Place(uri, overrides={"history_retention_seconds": keep})
        archive = place.archive()
        await archive.prepare()
        historian = place.historian(archive)
        await place.whole_job(id="old", status=JobStatus.FAILED)
        await write_all(historian)
        place.now += 101

        await historian.tidy()

        assert len(await archive.jobs(JobFilter(), None, 10)) == left
        await archive.close()
