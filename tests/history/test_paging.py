"""Pages of jobs: some in the store, some in the history only, most in both."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event

from avtomatika.api.listing import Cursor, Pager
from avtomatika.errors import HistoryUnavailableError
from avtomatika.history import Archive
from avtomatika.history.queries import JobFilter, find_jobs
from avtomatika.jobs import Client, Job, JobStatus
from avtomatika.state.memory import MemoryStore
from tests.support.history import Place, write_all
from tests.support.records import NOW


def _everywhere(place: Place) -> MemoryStore:
    assert isinstance(place.store, MemoryStore)
    return place.store


async def _jobs(place: Place, archive: Archive, count: int = 60) -> list[Job]:
    """Jobs of two clients, some of one very time; the older half has left the store. Newest first."""
    store, jobs = _everywhere(place), []
    for number in range(count):
        place.now = NOW + number // 3 * 10
        fields = {"id": f"job-{(number * 7) % count:03}", "client": Client("me" if number % 2 else "you")}
        job = await place.job(**fields, blueprint_name="abc"[number % 3], tags=("odd",) if number % 2 else ())
        jobs.append(await place.change(job, "job_finished", JobStatus.FINISHED if number % 4 else JobStatus.FAILED))
    await write_all(place.historian(archive))
    for job in jobs[: count // 2]:
        del store._jobs[job.id]
    return sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)


async def _pages(
    place: Place, archive: Archive | None, wanted: JobFilter, limit: int, kept_since: float = NOW
) -> list[list[str]]:
    pages, cursor = [], None
    while True:
        pager = Pager(place.store, archive, wanted, lambda job: True, kept_since)
        jobs, cursor = await pager.page(Cursor.parse(str(cursor)) if cursor else None, 0, limit)
        pages.append([job.id for job in jobs])
        if cursor is None:
            return pages


@pytest.mark.parametrize("limit", [7, 200])
async def test_each_job_is_on_one_page(place: Place, archive: Archive, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.api.listing._CHUNK", 8)
    jobs = await _jobs(place, archive)

    def expected(wanted: JobFilter) -> list[str]:
        return [
            job.id
            for job in jobs
            if wanted.client in (None, job.client.name)
            and wanted.status in (None, job.status)
            and wanted.blueprint in (None, job.blueprint_name)
            and (wanted.since is None or job.created_at >= wanted.since)
        ]

    for wanted in (
        JobFilter(),
        JobFilter(client="me"),
        JobFilter(status=JobStatus.FAILED),
        JobFilter(blueprint="b", client="you"),
        JobFilter(since=NOW + 60),
        JobFilter(since=NOW + 150),
        JobFilter(client="nobody"),
    ):
        pages = await _pages(place, archive, wanted, limit, kept_since=NOW + 95)
        assert [job_id for page in pages for job_id in page] == expected(wanted)
        assert all(len(page) <= limit for page in pages)


async def test_pages_stay_as_they_are_while_jobs_come_end_and_leave_the_store(place: Place, archive: Archive) -> None:
    jobs = await _jobs(place, archive, 40)
    store, historian, rng = _everywhere(place), place.historian(archive), random.Random(7)
    seen: list[str] = []
    cursor, number = None, 0
    while True:
        found, cursor = await Pager(store, archive, JobFilter(), lambda job: True, NOW).page(cursor, 0, 5)
        seen += [job.id for job in found]
        if cursor is None:
            break
        for _ in range(5):  # new ones, of which some are over and gone at once
            number += 1
            place.now = NOW + 1000 + number
            job = await place.whole_job(id=f"new-{number}")
            if number % 2:
                await write_all(historian)
                del store._jobs[job.id]
        left = [job.id for job in jobs if job.id in store._jobs]
        for job_id in rng.sample(left, min(3, len(left))):
            del store._jobs[job_id]

    assert seen == [job.id for job in jobs]


async def test_what_the_store_has_is_shown_as_the_store_has_it(place: Place, archive: Archive) -> None:
    job = await place.whole_job(status=JobStatus.FAILED)
    await write_all(place.historian(archive))
    await place.change(job, "job_retried", JobStatus.RUNNING)  # the history does not know that yet

    assert await _pages(place, archive, JobFilter(status=JobStatus.FAILED), 5, NOW + 1) == [[]]
    assert await _pages(place, archive, JobFilter(status=JobStatus.RUNNING), 5, NOW + 1) == [[job.id]]


@pytest.fixture
def away() -> Iterator[Archive]:
    archive = Archive("postgresql://nobody@127.0.0.1:1/none")
    yield archive
    archive.database.engine.dispose()


@pytest.mark.parametrize("uri", ["sqlite"], indirect=True)
async def test_a_page_that_needs_no_history_comes_without_it(place: Place, away: Archive) -> None:
    for number in range(6):
        place.now = NOW + number
        await place.job(id=f"job-{number}")

    def page(cursor: Cursor | None, kept_since: float, **wanted: float):
        return Pager(place.store, away, JobFilter(**wanted), lambda job: True, kept_since).page(cursor, 0, 4)

    young, cursor = await page(None, NOW - 1)
    assert [job.id for job in young] == ["job-5", "job-4", "job-3", "job-2"]
    rest, cursor = await page(cursor, NOW - 1)
    assert [job.id for job in rest] == ["job-1", "job-0"]
    assert cursor is not None  # whether there is more only the history knows
    with pytest.raises(HistoryUnavailableError):
        await page(cursor, NOW - 1)
    some, cursor = await page(None, NOW + 3)  # beside older ones there may be others that have left the store
    assert [job.id for job in some] == ["job-5", "job-4"]
    assert str(cursor) == f"{NOW + 4!r}~job-4"
    all_of_them, cursor = await page(None, NOW + 3, since=NOW + 4)
    assert ([job.id for job in all_of_them], cursor) == (["job-5", "job-4"], None)


async def test_pages_are_found_by_key_and_through_an_index(place: Place, archive: Archive) -> None:
    def plan(connection: Connection) -> str:
        """How the database finds the page, where it is made to believe that the table is large."""
        asked: list[tuple[str, Any]] = []
        event.listen(connection, "before_cursor_execute", lambda *args: asked.append((args[2], args[3])))
        find_jobs(connection, JobFilter(client="me"), (NOW, "x"), 10)
        [(statement, values)] = asked
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
            return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", values))
        return "\n".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))

    found = await archive.database.read(plan)

    assert "job_client_created" in found
    assert "sort" not in found.lower().replace("_", " ").split()
    assert "TEMP B-TREE" not in found


async def test_a_page_of_jobs_of_one_very_time(place: Place, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.api.listing._CHUNK", 4)
    for number in range(30):
        await place.whole_job(id=f"job-{number:02}", changes=0)
    await write_all(place.historian(archive))
    for number in range(0, 30, 3):
        del _everywhere(place)._jobs[f"job-{number:02}"]

    pages = await _pages(place, archive, JobFilter(), 7, NOW + 1)

    assert [job_id for page in pages for job_id in page] == [f"job-{number:02}" for number in reversed(range(30))]
