"""Limits: how many tasks with a key run at once, how many start in a time; lanes are parked while one is used up."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from avtomatika.jobs import FanOut, JobStatus, Limit, Result, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import AssignOutcome, ClaimOutcome, Entry, NewTask
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_job, a_message, a_task, a_worker, an_event, change, creation

D, W, C = TaskState.DISPATCHED, TaskState.WAITING, TaskState.CLAIMED
ONE = (Limit("one", 1),)
TWO = (Limit("two", 2),)
RATE = (Limit("rate", 2, 10.0),)


@pytest.fixture(autouse=True)
async def _somebody(kit: Kit) -> None:
    """A worker that knows the tasks: what nobody knows waits for one."""
    tasks = ("work", "other", "x", "y")
    for store in (kit.store, kit.apart):
        await store.register(a_worker("somebody", "boot-somebody", tasks=tasks, supported_tasks=()), NOW, 1e6)


# --- At once -------------------------------------------------------------------------------------------------------------------


async def test_as_many_as_the_limit_says_go_and_the_lane_of_the_others_is_parked(kit: Kit, line: Line) -> None:
    infos = await line.pulls(4, limits=TWO)

    assert await line.states(infos) == [D, D, W, W]
    assert [(await line.record(info)).parked_on for info in infos] == [None, None, "two", "two"]
    assert (await line.record(infos[2])).waiting_since == NOW + 2
    assert await line.places(infos) == [None, None, 0, 1]
    assert await line.timers() == []


async def test_a_claim_ends_no_lease_and_the_end_of_the_attempt_does(kit: Kit, line: Line) -> None:
    infos = await line.pulls(3, limits=ONE)
    await line.claimed(infos[0].id, at=5)
    assert await line.states(infos) == [C, W, W]

    await line.finish(infos[0].id, at=6)

    assert await line.states(infos[1:]) == [D, W]
    record = await line.record(infos[1])
    assert (record.dispatched_at, record.waiting_since, record.parked_on) == (NOW + 6, NOW + 1, None)
    await line.drop(infos[0], at=7)
    assert await line.states(infos[1:]) == [D, W]


@pytest.mark.parametrize("claimed", [False, True])
async def test_a_lease_ends_as_its_attempt_is_dropped(kit: Kit, line: Line, claimed: bool) -> None:
    infos = await line.pulls(3, limits=ONE)
    if claimed:
        await line.claimed(infos[0].id)

    await line.drop(infos[0], at=8)

    assert await line.states(infos[1:]) == [D, W]


async def test_a_task_dropped_while_it_waits_ends_no_lease(kit: Kit, line: Line) -> None:
    infos = await line.pulls(4, limits=ONE)

    await line.drop(infos[1])

    assert await line.states([infos[0], *infos[2:]]) == [D, W, W]
    await line.drop(infos[0])
    assert await line.states(infos[2:]) == [D, W]


async def test_an_attempt_given_back_keeps_its_lease(kit: Kit, line: Line) -> None:
    infos = await line.pulls(2, limits=ONE)
    await line.claimed(infos[0].id)

    assert await kit.store.release_task(infos[0].id, "boot-w1", NOW + 3)
    assert await line.states(infos) == [D, W]
    await line.claimed(infos[0].id)
    await line.finish(infos[0].id)

    assert await line.states(infos[1:]) == [D]


async def test_of_racing_ends_each_lets_one_go(kit: Kit, line: Line) -> None:
    infos = await line.pulls(12, limits=(Limit("three", 3),))
    for info in infos[:3]:
        await line.claimed(info.id)

    await asyncio.gather(*(line.finish(info.id, at=20) for info in infos[:3]))

    assert await line.states(infos) == [TaskState.DONE] * 3 + [D] * 3 + [W] * 6


async def test_a_parked_lane_does_not_stop_the_others(kit: Kit, line: Line) -> None:
    infos = await line.pulls(3, limits=ONE)
    same_key, other = await line.pull(10), await line.pull(11, fairness_key="other")
    assert await line.states([*infos, same_key, other]) == [D, W, W, D, D]
    await line.pulls(3, at=12)

    urgent = await line.pull(20, limits=ONE, priority=10)
    await line.claimed(same_key.id, at=30)

    assert await line.states([*infos, urgent]) == [D, W, W, W]
    assert await line.places([urgent, *infos[1:]]) == [0, 1, 2]
    assert Counter(await line.states(infos))[D] == 1


async def test_the_same_key_with_two_counts(kit: Kit, line: Line) -> None:
    narrow, wide = (Limit("k", 1),), (Limit("k", 3),)
    few = await line.pulls(2, limits=narrow)
    many = await line.pulls(4, at=10, limits=wide)
    assert await line.states([*few, *many]) == [D, W, D, D, W, W]

    await line.drop(many[0], at=20)
    assert await line.states([few[1], *many[1:]]) == [W, D, D, W]
    await line.drop(many[1], at=21)
    await line.drop(many[2], at=22)
    await line.drop(many[3], at=23)
    assert (await line.record(few[1])).state is W
    await line.drop(few[0], at=24)

    assert (await line.record(few[1])).state is D


async def test_every_limit_must_have_room_and_none_is_used_before(kit: Kit, line: Line) -> None:
    both = (Limit("a", 1), Limit("b", 1))
    first = await line.pull(limits=(Limit("b", 1),))
    waiting = await line.pull(1, limits=both)
    assert (await line.record(waiting)).parked_on == "b"

    other = await line.pull(2, limits=(Limit("a", 1),))
    assert await line.states([first, waiting, other]) == [D, W, D]
    await line.drop(first, at=3)
    record = await line.record(waiting)
    assert (record.state, record.parked_on) == (W, "a")
    await line.drop(other, at=4)

    assert (await line.record(waiting)).state is D
    third = await line.pull(5, limits=(Limit("b", 1),))
    assert (await line.record(third)).parked_on == "b"


async def test_types_that_share_a_limit_take_turns(kit: Kit, line: Line) -> None:
    running = await line.pull(limits=ONE)
    waiting = {kind: [await line.pull(1 + n, type=kind, limits=ONE) for n in range(5)] for kind in ("x", "y")}

    for n in range(6):
        await line.drop(running, at=20 + n)
        (running,) = [i for infos in waiting.values() for i in infos if (r := await kit.store.get_task(i.id)) and r.state is D]

    gone = {kind: sum([await kit.store.get_task(info.id) is None for info in infos]) for kind, infos in waiting.items()}
    assert min(gone.values()) >= 2


async def test_a_plain_task_counts_against_its_limits_and_its_clock_starts_as_it_goes(kit: Kit, line: Line) -> None:
    infos = await line.pulls(3, queue="fleet", timeout_seconds=30, limits=ONE)
    assert await line.states(infos) == [D, W, W]
    assert await line.timers() == [Timer("timeout", infos[0].id, NOW + 30)]

    await line.drop(infos[0], at=50)

    assert await line.states(infos[1:]) == [D, W]
    assert await line.timers() == [Timer("timeout", infos[1].id, NOW + 80)]


async def test_a_fan_out_keeps_to_its_own_limit(kit: Kit, line: Line) -> None:
    job = await kit.created()
    fanout = FanOut(new_id(), "merge", 8)
    limits = (Limit(f"fanout:{fanout.id}", 2),)
    infos = [a_task(job, branch=n, fanout_id=fanout.id, limits=limits) for n in range(8)]
    tasks = tuple(NewTask(info, entry=Entry(a_message(body=info.id))) for info in infos)
    job = await kit.committed(change(job, {"tasks": tasks}, status=JobStatus.WAITING_FOR_PARALLEL_TASKS, waiting=fanout))
    assert await line.states(infos) == [D, D] + [W] * 6

    await line.claimed(infos[0].id)
    await kit.store.branch_done(job.id, fanout.id, infos[0].id, Result.success(), an_event(job, 1), [], a_message())
    assert await line.states(infos[1:]) == [D, D] + [W] * 5
    again = infos[1].again(now=NOW)
    new = NewTask(again, entry=Entry(a_message(body=again.id)))
    assert (await kit.store.replace_branch_task(infos[1], new, an_event(job, 2))).applied

    assert Counter(await line.states([*infos[2:], again])) == {D: 2, W: 5}
    await kit.committed(change(job, {"drop_tasks": tuple(i.id for i in [*infos, again]), "drop_branches": True}, waiting=None))
    assert limits[0].key not in str(await kit.everything())


async def test_a_leftover_lease_is_swept(kit: Kit, line: Line) -> None:
    infos = await line.pulls(3, limits=ONE)
    assert (await kit.store.sweep_leases(NOW + 5)).applied
    assert await line.states(infos) == [D, W, W]
    if kit.redis is not None:  # as an eviction would
        await kit.redis.delete(f"{kit.namespace}:task:{infos[0].id}")
    else:
        del kit.store._tasks[infos[0].id]  # type: ignore[attr-defined]

    done = await kit.store.sweep_leases(NOW + 6)

    assert (done.applied, await line.states(infos[1:])) == (True, [D, W])


# --- In a time -----------------------------------------------------------------------------------------------------------------


async def test_a_rate_lets_so_many_start_in_any_window(kit: Kit, line: Line) -> None:
    await line.worker()
    infos = [await line.pull(at, limits=RATE) for at in (0, 6, 7, 8, 9)]
    assert await line.states(infos) == [D, D, W, W, W]
    assert (await line.record(infos[2])).parked_on == "rate"
    assert await line.timers() == [Timer("limit", "rate", NOW + 10)]

    for at, states, due in ((9, [W, W, W], 10), (10, [D, W, W], 16), (16, [D, D, W], 20), (20, [D, D, D], None)):
        assert (await kit.store.unpark("rate", NOW + at)).applied
        assert await line.states(infos[2:]) == states
        assert await line.timers() == ([Timer("limit", "rate", NOW + due)] if due else [])


async def test_a_start_is_not_given_back(kit: Kit, line: Line) -> None:
    infos = await line.pulls(3, limits=RATE)
    await line.claimed(infos[0].id, at=4)
    await line.finish(infos[0].id, at=5)
    await line.drop(infos[1], at=6)

    assert (await line.record(infos[2])).state is W
    assert (await line.record(await line.pull(7, limits=RATE))).state is W


async def test_one_that_comes_after_the_window_goes_at_once(kit: Kit, line: Line) -> None:
    await line.pulls(2, limits=RATE)

    assert (await line.record(await line.pull(10, limits=RATE))).state is D
    assert (await line.record(await line.pull(10.5, limits=RATE))).state is W
    assert await line.timers() == [Timer("limit", "rate", NOW + 11)]


async def test_two_rates_of_one_key(kit: Kit, line: Line) -> None:
    short, long = (Limit("k", 1, 5.0),), (Limit("k", 2, 100.0),)
    assert (await line.record(await line.pull(0, limits=long))).state is D
    assert (await line.record(await line.pull(1, limits=short))).state is W
    assert (await line.record(await line.pull(6, limits=short))).state is W  # behind the other one of its lane
    await kit.store.unpark("k", NOW + 6)
    assert await kit.store.picking() == []
    assert (await line.record(await line.pull(50, limits=long))).state is W


async def test_when_a_rates_time_has_come_as_many_lanes_go_as_it_has_room_for(kit: Kit, line: Line) -> None:
    rate = (Limit("rate", 40, 10.0),)
    first = [await line.pull(0, queue="fleet", limits=rate) for _ in range(40)]
    waiting = [await line.pull(1, queue="fleet", limits=rate, fairness_key=f"k{n}") for n in range(50)]
    assert Counter(await line.states([*first, *waiting])) == {D: 40, W: 50}

    await kit.store.unpark("rate", NOW + 10)

    assert Counter(await line.states(waiting)) == {D: 40, W: 10}
    assert await line.timers() == [Timer("limit", "rate", NOW + 20)]
    await kit.store.unpark("rate", NOW + 20)
    assert Counter(await line.states(waiting)) == {D: 50}


async def test_a_rate_and_a_number_at_once(kit: Kit, line: Line) -> None:
    limits = (Limit("api", 1), Limit("api-rate", 2, 10.0))
    infos = await line.pulls(4, limits=limits)
    await line.drop(infos[0], at=5)
    assert await line.states(infos[1:]) == [D, W, W]

    await line.drop(infos[1], at=6)
    assert (await line.record(infos[2])).parked_on == "api-rate"
    assert await line.timers() == [Timer("limit", "api-rate", NOW + 10)]
    await kit.store.unpark("api-rate", NOW + 10)

    assert await line.states(infos[2:]) == [D, W]
    assert (await line.record(infos[3])).parked_on == "api"


async def test_nothing_waits_for_an_unknown_limit(kit: Kit) -> None:
    done = await kit.store.unpark("unknown", NOW)

    assert (done.outbox, done.picks, done.stops) == ((), (), ())


async def test_a_rates_starts_are_forgotten_in_the_end(kit: Kit, line: Line) -> None:
    info = await line.pull(limits=(Limit("rate", 1, 10.0),))
    await line.drop(info)
    if kit.redis is None:
        return  # nothing expires there

    keys = [key async for key in kit.redis.scan_iter() if ":rate" in key]
    assert keys
    assert all([0 < await kit.redis.ttl(key) <= 12 for key in keys])


# --- Limits of picks -----------------------------------------------------------------------------------------------------------


async def test_a_pick_that_finds_its_limit_used_up_parks_its_lane(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=5)
    infos = [await line.pick(n, limits=ONE) for n in range(2)]
    other = await line.pick(5, fairness_key="other")
    assert (await line.assign(infos[0], worker)).outcome is AssignOutcome.OK
    before = len(await kit.pushed())

    assert (await line.assign(infos[1], worker)).outcome is AssignOutcome.LIMITED

    assert len(await kit.pushed()) == before
    record = await line.record(infos[1])
    assert (record.state, record.parked_on, record.assigned_to) == (W, "one", None)
    assert (await line.heads(), await kit.store.picking()) == ([other.id], ["work"])
    assert (await line.assign(other, worker)).outcome is AssignOutcome.OK
    assert (await line.heads(), await kit.store.picking()) == ([], [])
    await line.claimed(infos[0].id)
    done = await line.finish(infos[0].id, at=9)
    assert done.picks == ("work",)
    assert (await line.heads(), await kit.store.picking()) == ([infos[1].id], ["work"])
    assert (await line.assign(infos[1], worker, at=10)).outcome is AssignOutcome.OK


async def test_an_unassigned_attempt_does_not_give_its_start_back(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=5)
    rated = await line.pick(limits=(Limit("rate", 1, 10.0),))
    assert (await line.assign(rated, worker)).outcome is AssignOutcome.OK

    await kit.store.unassign(rated.id, NOW + 2)

    assert (await line.assign(rated, worker, at=3)).outcome is AssignOutcome.LIMITED
    assert await line.timers() == [Timer("limit", "rate", NOW + 10)]
    done = await kit.store.unpark("rate", NOW + 10)
    assert done.picks == ("work",)
    assert (await line.assign(rated, worker, at=10)).outcome is AssignOutcome.OK


async def test_an_unassigned_attempt_gives_its_lease_to_one_that_waits_for_the_queue(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    pick = await line.pick(limits=ONE)
    await line.assign(pick, worker)
    waiting = await line.pull(limits=ONE)
    assert (await line.record(waiting)).parked_on == "one"

    assert (await kit.store.unassign(pick.id, NOW + 5)).applied

    assert (await line.record(waiting)).state is D
    assert (await line.assign(pick, worker, at=6)).outcome is AssignOutcome.LIMITED


async def test_without_push_the_end_of_a_lease_gives_an_outbox_id(kit: Kit) -> None:
    line = Line(kit.apart)
    infos = await line.pulls(3, limits=ONE)
    rated = await line.pulls(2, at=5, limits=(Limit("rate", 1, 10.0),))
    await line.claimed(infos[0].id)

    finished = await line.finish(infos[0].id)
    assert [m.body for _, m in await kit.apart.outbox_messages(finished.outbox)] == ["a result", infos[1].id]
    dropped = await line.drop(infos[1])
    assert [m.body for _, m in await kit.apart.outbox_messages(dropped.outbox)] == [infos[2].id]
    unparked = await kit.apart.unpark("rate", NOW + 15)
    assert [m.body for _, m in await kit.apart.outbox_messages(unparked.outbox)] == [rated[1].id]
    assert (await line.claim(infos[2].id)).outcome is ClaimOutcome.OK


async def test_a_branch_that_is_done_gives_outbox_ids_of_what_may_go(kit: Kit) -> None:
    line, job = Line(kit.apart), a_job()
    await kit.apart.commit(creation(job))
    fanout = FanOut(new_id(), "merge", 2)
    infos: list[TaskInfo] = [a_task(job, branch=n, fanout_id=fanout.id, limits=ONE) for n in range(2)]
    tasks = tuple(NewTask(info, entry=Entry(a_message(body=info.id))) for info in infos)
    await kit.apart.commit(change(job, {"tasks": tasks}, waiting=fanout))

    _, done = await kit.apart.branch_done(job.id, fanout.id, infos[0].id, Result.success(), an_event(job, 1), [], a_message())

    assert [m.body for _, m in await kit.apart.outbox_messages(done.outbox)] == [infos[1].id]
    assert await line.states(infos[1:]) == [D]
