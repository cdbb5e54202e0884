"""Tasks that wait for a worker to be chosen, and the direct queues that they are put into."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from avtomatika.jobs import Limit, Message, TaskState, Timer, new_id
from avtomatika.state.base import Assignment, AssignOutcome, ClaimOutcome, Entry, Order
from tests.contract.conftest import Kit
from tests.contract.line import DECISION, Line
from tests.support.records import NOW, a_message

D, W, C = TaskState.DISPATCHED, TaskState.WAITING, TaskState.CLAIMED
OK, GONE, FULL = AssignOutcome.OK, AssignOutcome.GONE, AssignOutcome.FULL


# --- Waiting -------------------------------------------------------------------------------------------------------------------


async def test_a_task_without_a_message_waits_for_a_pick(kit: Kit, line: Line) -> None:
    info = await line.pick(5, dispatch_timeout_seconds=60)

    assert line.done.picks == ("work",)
    record = await line.record(info)
    assert (record.state, record.waiting_since, record.parked_on) == (W, NOW + 5, None)
    assert await kit.pushed() == []
    assert await kit.store.unclaimed(NOW * 2) == []
    assert await kit.store.lane_position(info.id) == 0
    assert await kit.store.picking() == ["work"]
    assert await kit.store.heads("work") == [record]
    assert await kit.store.heads("other") == []
    assert await line.timers() == [Timer("dispatch", info.id, NOW + 65)]


async def test_the_head_of_a_lane_is_the_highest_priority_then_the_oldest(kit: Kit, line: Line) -> None:
    infos = [await line.pick(n, priority=priority) for n, priority in enumerate((1.0, 7.0, 1.0, 7.0))]

    assert await line.heads() == [infos[1].id]
    assert await line.places(infos) == [2, 0, 3, 1]
    await line.drop(infos[1])
    assert await line.heads() == [infos[3].id]


async def test_each_lane_has_its_head(kit: Kit, line: Line) -> None:
    ways: list[dict[str, object]] = [
        {"signature": "a"},
        {"signature": "b"},
        {"signature": "a", "fairness_key": "k"},
        {"signature": "a", "limits": (Limit("l", 1),)},
        {"signature": "a", "limits": (Limit("l", 2),)},
    ]
    firsts = [await line.pick(n, **way) for n, way in enumerate(ways)]  # type: ignore[arg-type]
    seconds = [await line.pick(10 + n, **way) for n, way in enumerate(ways)]  # type: ignore[arg-type]
    await line.pick(type="other")
    await line.pull()

    assert sorted(await line.heads()) == sorted(info.id for info in firsts)
    assert await line.places([*firsts, *seconds]) == [0] * 5 + [1] * 5
    assert len(await kit.store.heads("work", limit=2)) == 2
    assert await kit.store.picking() == ["other", "work"]


async def test_heads_come_in_the_order_of_their_turns(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=100)
    for n in range(12):
        await line.pick(n, fairness_key="light", fairness_weight=1)
    for n in range(24):
        await line.pick(20 + n, fairness_key="heavy", fairness_weight=3)

    went = []
    for n in range(24):
        head = (await kit.store.heads("work"))[0].info
        assert (await line.assign(head, worker, at=50 + n)).outcome is OK
        went.append(head.fairness_key)

    assert Counter(went)["heavy"] == pytest.approx(18, abs=1)
    assert 5 <= Counter(went[:8])["heavy"] <= 7


async def test_a_late_client_is_the_first_head(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=100)
    many = [await line.pick(n, fairness_key="busy") for n in range(10)]
    for info in many[:5]:
        await line.assign(info, worker)

    late = await line.pick(20, fairness_key="late")

    assert await line.heads() == [late.id, many[5].id]


async def test_a_lane_that_finds_no_worker_keeps_its_turn(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=100)
    stuck = await line.pick(0, fairness_key="stuck")
    others = [await line.pick(n, fairness_key="other") for n in range(6)]
    for info in others[:4]:
        await line.assign(info, worker)

    assert await line.heads() == [stuck.id, others[4].id]


# --- Assigning -----------------------------------------------------------------------------------------------------------------


async def test_a_pick_puts_the_task_on_the_workers_queue(kit: Kit, line: Line) -> None:
    info = await line.pick(attempt=3)
    worker = await line.worker()
    message = Message("worker.w1.cpu", info.id, {"id": info.id}, {}, priority=4, declare="direct")

    done = await kit.store.assign(info.id, worker, "cpu", message, NOW + 7, DECISION)

    assert done == Assignment(OK)
    assert await kit.pushed() == [message]
    record = await line.record(info)
    assert (record.state, record.assigned_to, record.decision) == (D, "w1", DECISION)
    assert (record.dispatched_at, record.waiting_since, record.worker_id, record.boot_id) == (NOW + 7, NOW, None, None)
    assert await kit.store.assigned("boot-w1") == [info.id]
    assert await kit.store.claims("boot-w1") == ({}, [])
    assert (await kit.store.picking(), await line.heads()) == ([], [])
    assert await kit.store.lane_position(info.id) is None
    assert [r.info.id for r in await kit.store.unclaimed(NOW + 8)] == [info.id]
    (event,) = await kit.store.events(info.job_id)
    assert (event.event_type, event.timestamp, event.job_id) == ("task_assigned", NOW + 7, info.job_id)
    assert (event.task_id, event.worker_id, event.attempt) == (info.id, "w1", 3)
    assert event.details["decision"] == DECISION


async def test_what_does_not_wait_for_a_pick_is_gone(kit: Kit, line: Line) -> None:
    worker = await line.worker("w", slots=50)
    queued = await line.pulls(7)
    assigned, dropped = await line.pick(), await line.pick()
    await line.assign(assigned, worker)
    await line.drop(dropped)
    unrouted = await line.task(state=TaskState.UNROUTED)
    await line.claimed(queued[0].id)
    before = await kit.everything()

    for info in (*queued, assigned, dropped, unrouted):
        assert await line.assign(info, worker) == Assignment(GONE)

    assert await kit.everything() == before


async def test_a_worker_takes_what_it_has_slots_for(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=2)
    infos = [await line.pick(n) for n in range(5)]
    assert [(await line.assign(info, worker)).outcome for info in infos[:3]] == [OK, OK, FULL]
    assert await line.states(infos[:3]) == [D, D, W]

    await line.claimed(infos[0].id)
    assert await line.assign(infos[2], worker) == Assignment(FULL)
    await line.finish(infos[0].id)
    assert [(await line.assign(info, worker)).outcome for info in infos[2:4]] == [OK, FULL]
    await line.drop(infos[1])

    assert [(await line.assign(info, worker)).outcome for info in infos[3:5]] == [OK, FULL]


async def test_what_is_claimed_from_the_plain_queue_takes_a_slot_whatever_the_worker_says(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=1)
    running, info = await line.pull(), await line.pick()
    await line.claimed(running.id)

    assert (await line.assign(info, worker)).outcome is FULL
    await kit.store.release_task(running.id, "boot-w1", NOW)
    assert (await line.assign(info, worker)).outcome is OK


async def test_slots_are_counted_for_each_capability_and_over_all(kit: Kit, line: Line) -> None:
    worker = await line.worker(capabilities={"cpu": 2, "gpu": 1}, max_concurrent_tasks=3)
    infos = [await line.pick(n) for n in range(5)]

    outcomes = [
        (await line.assign(info, worker, capability=capability)).outcome
        for info, capability in zip(infos, ("gpu", "gpu", "cpu", "other", "cpu"), strict=True)
    ]

    assert outcomes == [OK, FULL, OK, OK, FULL]  # "other" is bounded by the whole alone


async def test_without_a_global_limit_the_capabilities_count_and_without_both_nothing_does(kit: Kit, line: Line) -> None:
    worker = await line.worker(capabilities={"cpu": 1}, max_concurrent_tasks=0)
    infos = [await line.pick(n) for n in range(12)]

    assert [(await line.assign(info, worker)).outcome for info in infos[:2]] == [OK, FULL]
    assert {(await line.assign(info, worker, capability="free")).outcome for info in infos[1:]} == {OK}


async def test_so_many_may_lie_ahead_of_a_free_slot(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=1)
    infos = [await line.pick(n) for n in range(4)]

    assert [(await line.assign(info, worker, ahead=2)).outcome for info in infos] == [OK, OK, OK, FULL]

    (known,) = await kit.store.knowing("work", NOW)
    assert (known.free, known.taken) == (-2, 3)


async def test_a_worker_that_has_ended_is_full(kit: Kit, line: Line) -> None:
    info = await line.pick()
    never, left = await line.worker("never"), await line.worker("left")
    silent = await line.worker("silent", ttl=10)
    await kit.store.unregister("left", "boot-left", NOW)
    await kit.store.unregister("never", "boot-never", NOW)
    replaced = await line.worker("replaced")
    await kit.store.register(replace(replaced, boot_id="boot-new"), NOW, 1000)

    for worker in (never, left, silent, replaced):
        assert await line.assign(info, worker, at=10) == Assignment(FULL)
    assert (await line.assign(info, silent, at=9)).outcome is OK


async def test_of_racing_picks_one_wins(kit: Kit, line: Line) -> None:
    workers = [await line.worker(f"w{n}", slots=2) for n in range(4)]
    info = await line.pick()
    done = await asyncio.gather(*(line.assign(info, worker) for worker in workers * 3))
    assert sorted(a.outcome for a in done) == [GONE] * 11 + [OK]

    infos = [await line.pick() for _ in range(12)]
    done = await asyncio.gather(*(line.assign(info, workers[0]) for info in infos))

    free = 1 if (await line.record(info)).assigned_to == "w0" else 2
    assert sum(a.outcome is OK for a in done) == free
    assert sum(a.outcome is FULL for a in done) == 12 - free


async def test_what_lies_in_direct_queues_takes_no_room_in_the_plain_one(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=20)
    for n in range(10):
        await line.assign(await line.pick(n), worker)

    assert await line.states(await line.pulls(7)) == [D] * 6 + [W]


# --- Claiming ------------------------------------------------------------------------------------------------------------------


async def test_only_the_worker_that_a_task_was_given_to_may_claim_it(kit: Kit, line: Line) -> None:
    worker = await line.worker("w1", slots=2)
    await line.worker("w2")
    info = await line.pick()
    await line.assign(info, worker)

    assert (await line.claim(info.id, name="w2")).outcome is ClaimOutcome.STALE
    assert (await line.claim(info.id, boot="another-boot")).outcome is ClaimOutcome.STALE
    assert await kit.store.claims("boot-w2") == ({}, [])
    assert (await line.claim(info.id, at=3)).outcome is ClaimOutcome.OK

    assert await kit.store.assigned("boot-w1") == []
    assert await kit.store.claims("boot-w1") == ({}, [info.id])
    record = await line.record(info)
    assert (record.state, record.worker_id, record.assigned_to) == (C, "w1", "w1")
    (known, _) = await kit.store.knowing("work", NOW)
    assert (known.free, known.taken) == (1, 1)


async def test_a_direct_task_given_back_lies_in_the_direct_queue_again(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    info = await line.pick()
    await line.assign(info, worker)
    await line.claimed(info.id, at=1)

    assert await kit.store.release_task(info.id, "boot-w1", NOW + 5)

    record = await line.record(info)
    assert (record.state, record.assigned_to, record.decision, record.dispatched_at) == (D, "w1", DECISION, NOW + 5)
    assert await kit.store.assigned("boot-w1") == [info.id]
    assert await kit.store.claims("boot-w1") == ({}, [])
    assert (await line.assign(await line.pick(), worker)).outcome is FULL
    assert (await line.claim(info.id, name="w2")).outcome is ClaimOutcome.STALE
    await line.claimed(info.id, at=6)
    await line.finish(info.id, at=7)
    assert await kit.store.assigned("boot-w1") == []


async def test_a_direct_task_is_not_dispatched_again(kit: Kit, line: Line) -> None:
    info = await line.pick()
    await line.assign(info, await line.worker())

    assert not (await kit.store.redispatch(info.id, a_message(), NOW + 1)).applied
    assert await line.states([info]) == [D]


# --- Taking back ---------------------------------------------------------------------------------------------------------------


async def test_an_unassigned_attempt_waits_at_its_old_place(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    infos = [await line.pick(n) for n in range(3)]
    await line.assign(infos[1], worker, at=10)
    events = len(await kit.store.events(infos[1].job_id))

    done = await kit.store.unassign(infos[1].id, NOW + 20)

    assert (done.applied, done.picks, done.stops) == (True, ("work",), ())
    record = await line.record(infos[1])
    assert (record.state, record.assigned_to, record.decision, record.waiting_since) == (W, None, None, NOW + 1)
    assert record.info == infos[1]
    assert await line.places(infos) == [0, 1, 2]
    assert await kit.store.assigned("boot-w1") == []
    assert await kit.store.unclaimed(NOW * 2) == []
    assert len(await kit.store.events(infos[1].job_id)) == events
    assert (await line.claim(infos[1].id)).outcome is ClaimOutcome.STALE
    assert (await line.assign(infos[0], worker, at=21)).outcome is OK
    assert (await line.claim(infos[1].id)).outcome is ClaimOutcome.STALE


async def test_a_worker_to_avoid_is_named_once_and_idle_no_more_until_it_is_heard_of(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=2)
    info = await line.pick(avoid=("w0",))
    for n in range(2):
        await line.assign(info, worker, at=n)
        assert (await kit.store.unassign(info.id, NOW + n, avoid=True)).applied
        record = await line.record(info)
        assert record.info.avoid == ("w0", "w1")

    for order in Order:
        assert (await kit.store.candidates("work", order, NOW)).found == ()
    found = await kit.store.candidates("work", Order.COST, NOW)
    assert (found.known, found.idle) == (1, 0)
    await kit.store.heartbeat("w1", "boot-w1", NOW + 5, 1000)
    assert [c.worker.id for c in (await kit.store.candidates("work", Order.COST, NOW + 5)).found] == ["w1"]
    assert (await line.record(info)).info.avoid == ("w0", "w1")


async def test_only_what_is_assigned_and_unclaimed_is_taken_back(kit: Kit, line: Line) -> None:
    worker = await line.worker("w1", slots=5)
    claimed, done = await line.pick(), await line.pick()
    for info in (claimed, done):
        await line.assign(info, worker)
        await line.claimed(info.id)
    await line.finish(done.id)
    others = [await line.pull(), await line.pick()]
    before = await kit.everything()

    for task_id in (claimed.id, done.id, *(info.id for info in others), new_id()):
        assert not (await kit.store.unassign(task_id, NOW, avoid=True)).applied

    assert await kit.everything() == before


async def test_an_unassigned_attempt_may_go_to_the_queue(kit: Kit, line: Line) -> None:
    info = await line.pick()
    await line.assign(info, await line.worker())
    await kit.store.unassign(info.id, NOW + 1)

    assert (await kit.store.enter(info.id, Entry(a_message(body="plain")), NOW + 2)).applied

    assert (await kit.bodies())[-1] == "plain"
    assert (await line.claim(info.id, name="anybody")).outcome is ClaimOutcome.OK


async def test_a_dropped_direct_task_is_nobodys(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    info = await line.pick()
    await line.assign(info, worker)

    done = await line.drop(info)

    assert done.stops == ()
    assert await kit.store.assigned("boot-w1") == []
    assert (await line.claim(info.id)).outcome is ClaimOutcome.STALE
    assert (await line.assign(await line.pick(), worker)).outcome is OK


async def test_an_ended_boot_is_kept_until_its_direct_queues_are_empty(kit: Kit, line: Line) -> None:
    info = await line.pick()
    await line.assign(info, await line.worker(ttl=10))

    await kit.store.forget_boot("boot-w1", NOW + 10)
    assert await kit.store.ended_boots(NOW + 10) == ["boot-w1"]
    assert await kit.store.assigned("boot-w1") == [info.id]
    await kit.store.unassign(info.id, NOW + 11, avoid=True)
    await kit.store.forget_boot("boot-w1", NOW + 11)

    assert await kit.store.ended_boots(NOW + 11) == []
    assert await line.heads() == [info.id]


async def test_without_push_the_pick_gives_an_outbox_id(kit: Kit) -> None:
    line = Line(kit.apart)
    info = await line.pick()

    done = await line.assign(info, await line.worker())

    assert [message.body for _, message in await kit.apart.outbox_messages(done.outbox)] == [info.id]
    assert (await kit.apart.unassign(info.id, NOW)).outbox == ()
