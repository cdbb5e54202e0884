"""Schedules: one job a due time whoever makes it, pause and resume, and what stays of one that says something else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from avtomatika.jobs import Message
from avtomatika.schedules.records import Firing, Pause, Schedule, ScheduleRecord
from avtomatika.state.base import Commit, CommitResult, Store
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, a_message, an_event, creation

HOUR = 3600.0
DUE = NOW + HOUR


def a_schedule(name: str = "nightly", **fields: Any) -> Schedule:
    return Schedule(**{"name": name, "blueprint": "b", "every": HOUR, "origin": "schedules.toml:1", **fields})


def a_record(name: str = "nightly", next_due: float | None = DUE, **fields: Any) -> ScheduleRecord:
    return ScheduleRecord(a_schedule(name, **fields), NOW, next_due)


async def stored(store: Store, record: ScheduleRecord | None = None) -> ScheduleRecord:
    record = record or a_record()
    assert await store.put_schedule(record, "", retimed=True)
    found = await store.schedule(record.schedule.name)
    assert found == record
    return found


def a_firing(record: ScheduleRecord, *messages: Message) -> tuple[Commit, Firing]:
    """The job of the record's due time."""
    assert record.next_due is not None
    job = a_job(id=record.schedule.job_id("n", record.next_due), updated_at=DUE + 1)
    return creation(job, events=(an_event(job),), messages=messages), Firing(record.next_due, DUE + 1, job.id)


async def fired(store: Store, record: ScheduleRecord, then: float | None = DUE + HOUR, *messages: Message) -> CommitResult:
    return await store.fire_schedule(record, then, *a_firing(record, *messages))


async def due(store: Store, now: float, limit: int = 100) -> list[str]:
    return [record.schedule.name for record in await store.due_schedules(now, limit)]


async def test_what_is_put_is_found(kit: Kit) -> None:
    store = kit.store
    second = await stored(store, a_record("b", client=replace(a_job().client, name="acme", params={"x": [1]}), tags=("t",)))
    first = await stored(store, a_record("a", cron="0 0 * * *", every=None, timezone="Europe/Berlin", initial_data={"x": None}))

    assert await store.schedules() == [first, second]
    assert await store.schedules(limit=1, offset=1) == [second]
    assert await store.schedules(offset=2) == []
    assert await store.schedule("c") is None
    assert await store.schedule_digests() == {"a": first.schedule.digest, "b": second.schedule.digest}


async def test_due_ones_longest_first(kit: Kit) -> None:
    store = kit.store
    for name, at in (("late", DUE + 0.5), ("early", DUE), ("never", None), ("next", DUE + 1)):
        await stored(store, a_record(name, at))

    assert await due(store, DUE - 0.001) == []
    assert await due(store, DUE) == ["early"]
    assert await due(store, DUE + 1) == ["early", "late", "next"]
    assert await due(store, DUE + 1, limit=2) == ["early", "late"]


async def test_one_that_moved_on_between_two_questions_is_not_due(kit: Kit) -> None:
    record = await stored(kit.store)
    if kit.redis is None:
        await kit.store.fire_schedule(record, DUE + HOUR)
    else:  # its place in the index is still the old one
        await kit.redis.hset(f"{kit.namespace}:schedule:nightly", "at", repr(DUE + HOUR))

    assert await due(kit.store, DUE) == []


async def test_a_firing_makes_the_job_and_moves_the_schedule_on(kit: Kit) -> None:
    store, record, message = kit.store, await stored(kit.store), a_message(key="step:1")
    commit, firing = a_firing(record, message)

    assert (await store.fire_schedule(record, DUE + HOUR, commit, firing)).applied

    assert await store.schedule("nightly") == replace(record, next_due=DUE + HOUR, last=firing)
    assert await store.load(commit.job.id) == commit.job
    assert [event.event_type for event in await store.events(commit.job.id)] == ["something"]
    assert await kit.bodies() == [message.body]
    assert (await due(store, DUE), await due(store, DUE + HOUR)) == ([], ["nightly"])


async def test_without_a_push_the_message_waits_in_the_outbox(kit: Kit) -> None:
    record, message = await stored(kit.apart), a_message(key="step:1")

    done = await fired(kit.apart, record, DUE + HOUR, message)

    assert [m for _, m in await kit.apart.outbox_messages(done.outbox)] == [message]


async def test_of_many_callers_one_makes_the_job(kit: Kit) -> None:
    store, record = kit.store, await stored(kit.store)

    done = await asyncio.gather(*(fired(store, record, DUE + HOUR, a_message(key=f"step:{n}")) for n in range(20)))

    assert sum(result.applied for result in done) == 1
    assert len(await kit.bodies()) == 1
    assert not (await fired(store, record)).applied  # and a late one does not either
    assert not (await store.fire_schedule(record, DUE + 9 * HOUR)).applied  # nor does it move anything
    assert await due(store, DUE + HOUR) == ["nightly"]


async def test_a_due_time_whose_job_is_there_makes_no_second_one(kit: Kit) -> None:
    store, record = kit.store, await stored(kit.store)
    assert (await fired(store, record)).applied
    now = await store.schedule("nightly")
    assert now is not None
    await store.drop_schedule("nightly", record.schedule.digest)
    await store.put_schedule(record, "", retimed=True)  # somebody sets it back

    assert not (await fired(store, record)).applied
    assert (await store.fire_schedule(record, DUE + HOUR)).applied  # it moves on, and keeps what it did last

    assert await store.schedule("nightly") == now


@pytest.mark.parametrize("then", [DUE + HOUR, None])
async def test_moving_on_without_a_job(kit: Kit, then: float | None) -> None:
    store, record = kit.store, await stored(kit.store)

    assert (await store.fire_schedule(record, then)).applied

    assert await store.schedule("nightly") == replace(record, next_due=then)
    assert await due(store, DUE) == []
    assert await due(store, DUE + 2 * HOUR) == (["nightly"] if then else [])
    assert await store.list_jobs() == []


async def test_a_paused_one_is_not_due_and_does_not_fire(kit: Kit) -> None:
    store, record, pause = kit.store, await stored(kit.store), Pause(NOW, "ada")

    assert await store.pause_schedule(record, pause)
    assert not await store.pause_schedule(record, Pause(NOW + 1, "bob"))

    paused = await store.schedule("nightly")
    assert paused == replace(record, pause=pause)
    assert await due(store, DUE + HOUR) == []
    assert not (await fired(store, record)).applied  # by one who read it before the pause

    assert not await store.resume_schedule(record, DUE + 2 * HOUR)  # by one who saw no pause
    assert await store.resume_schedule(paused, DUE + 2 * HOUR)
    assert not await store.resume_schedule(paused, DUE + 3 * HOUR)
    assert await store.schedule("nightly") == replace(record, next_due=DUE + 2 * HOUR)
    assert await due(store, DUE + 2 * HOUR) == ["nightly"]


async def test_one_that_says_something_else_keeps_what_happened(kit: Kit) -> None:
    store, record = kit.store, await stored(kit.store)
    await fired(store, record)
    before = await store.schedule("nightly")
    assert before is not None
    changed = a_record(priority=3.0, next_due=NOW)

    assert await store.put_schedule(changed, record.schedule.digest, retimed=False)

    assert await store.schedule("nightly") == replace(before, schedule=changed.schedule)
    assert not (await fired(store, before)).applied  # for what it no longer says
    assert not await store.pause_schedule(before, Pause(NOW))
    assert not await store.put_schedule(a_record(priority=4.0), record.schedule.digest, retimed=False)  # not what it replaces
    assert await store.put_schedule(changed, "whatever", retimed=True)  # it says so already: nothing is done
    assert await due(store, DUE + HOUR) == ["nightly"]


@pytest.mark.parametrize("paused", [False, True])
async def test_another_timing_keeps_the_pause(kit: Kit, paused: bool) -> None:
    store, record = kit.store, await stored(kit.store)
    if paused:
        assert await store.pause_schedule(record, Pause(NOW, "ada"))
    changed = replace(a_record(every=60.0, next_due=NOW + 90), anchor=NOW + 30)

    assert await store.put_schedule(changed, record.schedule.digest, retimed=True)

    assert await store.schedule("nightly") == replace(changed, pause=Pause(NOW, "ada") if paused else None)
    assert await due(store, DUE) == ([] if paused else ["nightly"])


async def test_a_dropped_one_is_gone_and_remembers_its_pause(kit: Kit) -> None:
    store, record = kit.store, await stored(kit.store)
    await fired(store, record)
    moved = await store.schedule("nightly")
    assert moved is not None
    assert await store.pause_schedule(moved, Pause(NOW, "ada"))

    assert not await store.drop_schedule("nightly", "another digest")
    assert await store.drop_schedule("nightly", record.schedule.digest)
    assert not await store.drop_schedule("nightly", record.schedule.digest)

    assert await store.schedules() == []
    assert await store.schedule("nightly") is None
    assert (await store.schedule_digests(), await due(store, DUE + 9 * HOUR)) == ({}, [])
    assert not (await fired(store, moved, DUE + 2 * HOUR)).applied
    if kit.redis is not None:
        assert 0 < await kit.redis.ttl(f"{kit.namespace}:schedule:nightly") <= 7 * 24 * 3600

    assert await store.put_schedule(record, "", retimed=True)
    assert await store.schedule("nightly") == replace(record, pause=Pause(NOW, "ada"), last=moved.last)
    assert await due(store, DUE) == []
    if kit.redis is not None:
        assert await kit.redis.ttl(f"{kit.namespace}:schedule:nightly") == -1
