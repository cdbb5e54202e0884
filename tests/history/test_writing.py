"""Every event reaches the database once, whatever dies or is away meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import func, select, text

from avtomatika.errors import HistoryUnavailableError
from avtomatika.history import Archive
from avtomatika.history.tables import event as events
from avtomatika.history.verify import Counts, verify
from avtomatika.jobs import Event, Job, JobStatus
from tests.support.history import Place, write_all


async def _problems(archive: Archive) -> list[str]:
    return await archive.database.read(lambda connection: [problem.what for problem in verify(connection, None, Counts())])


async def _count(archive: Archive) -> int:
    return await archive.database.read(
        lambda connection: connection.execute(select(func.count()).select_from(events)).scalar_one()
    )


async def _complete(place: Place, archive: Archive, jobs: Sequence[Job]) -> None:
    """The history has what the store has, each event once and in its order."""
    for job in jobs:
        assert await archive.events(job.id) == list(await place.store.events(job.id))
    assert await _count(archive) == sum([len(await place.store.events(job.id)) for job in jobs])
    assert await _problems(archive) == []


async def test_what_is_written_is_what_happened(place: Place, archive: Archive) -> None:
    jobs = [await place.whole_job(changes=number) for number in range(5)]
    odd = await place.job(initial_data={"file": "caf\udce9\0.png"}, blueprint_name="a\0b")
    odd = await place.change(odd, state="s\0\udce9", worker_id="w\0", details={"é": "🎈\0\udce9"})
    historian = place.historian(archive, batch=3)

    assert await write_all(historian) == sum(range(2, 7)) + 2
    assert await historian.step() == 0

    await _complete(place, archive, [*jobs, odd])
    assert [await archive.job(job.id) for job in jobs] == jobs
    found = await archive.job(odd.id)
    assert found is not None
    assert found.initial_data == odd.initial_data
    assert await archive.job("nobody") is None
    assert await archive.events("nobody") == []


async def test_a_job_that_is_tried_again_is_known_as_it_is(place: Place, archive: Archive) -> None:
    job = await place.whole_job(status=JobStatus.QUARANTINED)
    historian = place.historian(archive)
    await write_all(historian)
    again = await place.change(job, "job_retried", JobStatus.RUNNING)
    await write_all(historian)
    assert await archive.job(job.id) == again

    ended = await place.change(again, "job_finished", JobStatus.FINISHED)
    await write_all(historian)

    assert await archive.job(job.id) == ended
    await _complete(place, archive, [job])


async def test_two_writers_at_once_write_each_event_once(place: Place, archive: Archive) -> None:
    jobs = [await place.whole_job() for _ in range(6)]
    other_archive = place.archive()
    one, other = place.historian(archive, batch=4), place.historian(other_archive, batch=3)

    for _ in range(20):  # neither knows of the other; whoever is behind sees that at its next write
        await one.step()
        await other.step()

    await other_archive.close()
    await _complete(place, archive, jobs)


class _Gone(Exception):
    """The process ends here."""


@pytest.mark.parametrize("statement", ["INSERT INTO event", "INSERT INTO job", "UPDATE history_position", "COMMIT"])
async def test_a_writer_that_dies_in_the_middle_of_a_batch(place: Place, archive: Archive, statement: str) -> None:
    from sqlalchemy import event as sql_event

    jobs = [await place.whole_job() for _ in range(3)]
    doomed_archive = place.archive()
    await doomed_archive.prepare()
    engine = doomed_archive.database.engine

    def dies(*args: Any) -> None:
        if statement == "COMMIT" or args[2].startswith(statement):
            raise _Gone

    sql_event.listen(engine, "commit" if statement == "COMMIT" else "after_cursor_execute", dies)
    doomed = place.historian(doomed_archive, batch=7)
    doomed._next_workers = float("inf")
    with pytest.raises(_Gone):
        await write_all(doomed)
    await doomed_archive.close()
    assert await _count(archive) == 0

    await write_all(place.historian(archive, batch=7))

    await _complete(place, archive, jobs)


async def test_what_was_written_but_not_dropped_is_not_written_again(place: Place, archive: Archive) -> None:
    job = await place.whole_job()
    await write_all(place.historian(archive))
    await archive.database.write(lambda connection: connection.execute(text("UPDATE history_position SET entry = ''")))

    await write_all(place.historian(archive))

    await _complete(place, archive, [job])


async def test_what_left_the_feed_unwritten_comes_from_the_jobs_own_lists(place: Place, archive: Archive) -> None:
    job = await place.job()
    for _ in range(5):
        job = await place.change(job)
    await place.store.trim_feed("4", place.now + 1)  # as its bound would
    historian = place.historian(archive)
    await write_all(historian)
    for _ in range(4):
        job = await place.change(job)
    await place.store.trim_feed("9", place.now + 1)

    await write_all(historian)

    await _complete(place, archive, [job])
    assert await archive.job(job.id) is not None


async def test_what_is_lost_for_good_shows_as_missing(place: Place, archive: Archive) -> None:
    job = await place.job()
    for _ in range(3):
        job = await place.change(job)
    await place.store.trim_feed("2", place.now + 1)
    place.store._events[job.id][:2] = []  # type: ignore[attr-defined]

    await write_all(place.historian(archive))

    assert await _problems(archive) == ["events 1 to 2 are missing"]


async def test_an_event_that_no_database_takes_holds_up_no_other(place: Place, archive: Archive) -> None:
    job = await place.job()
    bad = await place.change(job, attempt=2**70)
    jobs = [await place.whole_job() for _ in range(2)]
    await place.change(bad)

    with pytest.raises(Exception):
        await archive.database.write(
            lambda connection: connection.execute(text("INSERT INTO event (attempt) VALUES (:n)"), {"n": 2**70})
        )
    await write_all(place.historian(archive))

    for other in jobs:
        assert await archive.events(other.id) == list(await place.store.events(other.id))
    assert [event.id for event in await archive.events(job.id)] == [f"{job.id}:0:0", f"{job.id}:2:0"]
    assert await _problems(archive) == ["event 2 is missing"]


async def test_the_feed_keeps_what_is_young_or_not_written(place: Place, archive: Archive) -> None:
    historian = place.historian(archive, kept=60)
    await place.whole_job()
    await write_all(historian)
    await historian.tidy()
    assert await place.store.feed_length() == 4
    place.now += 61
    await place.job()

    await historian.tidy()

    assert await place.store.feed_length() == 1
    place.now += 61
    await historian.tidy()
    assert await place.store.feed_length() == 1  # not written
    await write_all(historian)
    place.now += 61
    await historian.tidy()
    assert await place.store.feed_length() == 0


async def test_a_database_that_is_away_is_said_to_be(place: Place) -> None:
    away = Archive("postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(HistoryUnavailableError) as caught:
        await away.job("x")
    assert "secret" not in str(caught.value)
    await away.close()


async def test_events_that_were_never_told_of(place: Place, archive: Archive) -> None:
    """Only an event is left of a job: its row says so much."""
    event = Event("x:1", "x", "transition", place.now, state="middle")
    place.store._append([event])  # type: ignore[attr-defined]

    await write_all(place.historian(archive))

    found = await archive.job("x")
    assert found is not None
    assert (found.current_state, found.blueprint_name) == ("middle", "")
    assert await archive.events("x") == [event]
