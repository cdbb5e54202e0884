"""The events of all jobs in one order, as the history reads them."""

from __future__ import annotations

from avtomatika.jobs import FanOut, Job, JobStatus, Result, TaskState
from avtomatika.state.base import NewTask
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, a_message, an_event, change, creation, fanned_out


async def _stored(kit: Kit, job_id: str = "j") -> Job:
    job = a_job(id=job_id)
    assert (await kit.store.commit(creation(job, events=(an_event(job),), messages=(a_message("k"),)))).applied
    return job


async def test_events_come_in_order_with_their_places(kit: Kit) -> None:
    first, second = await _stored(kit, "a"), await _stored(kit, "b")
    await kit.committed(change(first, {"events": (an_event(first, 1), an_event(first, 2))}))
    await kit.committed(change(second, {"events": (an_event(second, 1),)}))

    entries = await kit.store.feed()

    assert [(entry.event.job_id, entry.place) for entry in entries] == [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)]
    assert [entry.event for entry in entries if entry.event.job_id == "a"] == await kit.store.events("a")
    assert await kit.store.feed(entries[1].id, limit=2) == entries[2:4]
    assert await kit.store.feed(entries[-1].id) == []
    assert await kit.store.feed_length() == 5


async def test_the_record_is_told_where_a_job_begins_ends_or_is_tried_again(kit: Kit) -> None:
    job = await _stored(kit)

    async def follows(job: Job, status: JobStatus) -> Job:
        return await kit.committed(change(job, {"events": (an_event(job, 1), an_event(job, 2))}, status=status))

    running = await follows(job, JobStatus.RUNNING)
    failed = await follows(running, JobStatus.FAILED)
    again = await follows(failed, JobStatus.RUNNING)

    assert [entry.job for entry in await kit.store.feed()] == [job, None, None, None, failed, None, again]


async def test_branches_are_in_it(kit: Kit) -> None:
    job = await _stored(kit)
    commit, fanout, (one, two) = fanned_out(job, 2)
    waiting = await kit.committed(commit)
    assert isinstance(waiting.waiting, FanOut)
    done, lost = an_event(waiting, 7, event_type="branch_finished"), an_event(waiting, 8, event_type="branch_lost")
    await kit.store.branch_done(job.id, fanout.id, one.id, Result.success({}), done, ["k"], a_message())
    again = NewTask(two.again(now=NOW), TaskState.DELAYED)
    assert (await kit.store.replace_branch_task(two, again, lost)).applied

    assert [(entry.event, entry.place) for entry in await kit.store.feed()][1:] == [(done, 2), (lost, 3)]


async def test_what_has_been_read_is_dropped_unless_it_is_young(kit: Kit) -> None:
    job = await _stored(kit)
    for number in range(1, 5):
        await kit.committed(change(job, {"events": (an_event(job, number),)}))
        job = a_job(id=job.id, version=number)
    entries = await kit.store.feed()

    assert await kit.store.trim_feed(entries[2].id, NOW / 2) == 0
    assert await kit.store.trim_feed(entries[2].id, NOW * 2) == 3

    assert await kit.store.feed() == entries[3:]
    assert await kit.store.feed(entries[0].id) == entries[3:]
    assert await kit.store.trim_feed("", NOW / 2) == 0
    assert await kit.store.trim_feed("", NOW * 2) == 2
    assert await kit.store.feed_length() == 0


async def test_a_picked_task_is_in_it(kit: Kit, line) -> None:
    worker = await line.worker()
    task = await line.pick()
    await line.assign(task, worker)

    entries = [entry for entry in await kit.store.feed() if entry.event.event_type == "task_assigned"]

    assert [entry.event for entry in entries] == list(await kit.store.events(entries[0].event.job_id))[-1:]
