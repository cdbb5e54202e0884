"""Lanes that wait for a limit are let go as soon as one of them can: nobody is forgotten, and nobody goes in vain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from avtomatika.jobs import FanOut, Job, JobStatus, Limit, TaskInfo, TaskState, new_id
from avtomatika.state.base import Entry, NewTask
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_message, a_task, a_worker, change

D, W = TaskState.DISPATCHED, TaskState.WAITING
ONE = (Limit("one", 1),)


async def _fire(line: Line, at: float) -> None:
    """What the housekeeping does with the timers of limits, as often as it takes."""
    for n in range(20):
        due = [timer for timer in await line.store.due(NOW + at + n) if timer.kind == "limit"]
        for timer in due:
            await line.store.drop_timer(timer)
            await line.store.unpark(timer.key, NOW + at + n)


async def _parked(line: Line, infos: Sequence[TaskInfo]) -> int:
    return [(await line.record(info)).parked_on is None for info in infos].count(False)


async def test_a_freed_lease_finds_those_who_can_use_it(line: Line) -> None:
    """The lanes that have waited longest are held up by another limit of theirs."""
    pool = Limit("pool", 20)
    for n in range(10):
        await line.worker(f"w{n}", slots=1000)
    running = [await line.pull(n, limits=(pool, Limit(f"tenant:{n}", 1)), fairness_key=f"t{n}") for n in range(20)]
    assert await line.states(running) == [D] * 20
    held_up = [await line.pull(100 + n, limits=(pool, Limit(f"tenant:{n}", 1)), fairness_key=f"t{n}") for n in range(20)]
    free = await line.pull(200, limits=(pool, Limit("tenant:new", 1)), fairness_key="new")
    assert await _parked(line, [*held_up, free]) == 21

    await line.drop(running[19], at=300)

    assert (await line.states([*held_up, free])).count(D) == 1


async def test_picks_that_nobody_takes_hold_up_no_other(line: Line) -> None:
    worker = await line.worker(slots=100)
    first = await line.pull(0, limits=ONE, fairness_key="z")
    picks = [await line.pick(1 + n, signature=f"s{n}", limits=ONE, fairness_key=f"k{n}") for n in range(40)]
    for pick in picks:
        await line.assign(pick, worker, at=20)
    last = await line.pull(50, limits=ONE, fairness_key="last")
    assert await _parked(line, [*picks, last]) == 41

    await line.drop(first, at=60)
    await _fire(line, at=60)

    assert (await line.record(last)).state is D


async def test_every_pick_that_waits_for_a_rate_comes_back(kit: Kit, line: Line) -> None:
    rate = (Limit("r", 1, 10.0),)
    worker = await line.worker(slots=99)
    await line.pull(0, limits=rate, fairness_key="first")
    picks = [await line.pick(1, limits=rate, fairness_key=f"k{n}") for n in range(40)]
    for pick in picks:
        await line.assign(pick, worker, at=2)
    assert await _parked(line, picks) == 40
    if kit.redis is not None:
        await kit.redis.delete(f"{kit.namespace}:rate:r")  # as its expiry does, where nobody looked for a while

    await _fire(line, at=12)

    assert await _parked(line, picks) == 0


async def test_a_short_window_is_not_held_up_by_long_ones_of_the_same_key(line: Line) -> None:
    short, long = (Limit("k", 1, 5.0),), (Limit("k", 1, 100.0),)
    await line.pull(0, queue="fleet", limits=short, fairness_key="x")
    for n in range(20):
        await line.pull(1, queue="fleet", limits=long, fairness_key=f"long{n}")
    info = await line.pull(2, queue="fleet", limits=short, fairness_key="short")
    assert (await line.record(info)).state is W

    await _fire(line, at=5)

    assert (await line.record(info)).state is D


async def test_a_newcomer_does_not_overtake_those_who_wait_for_the_same_limit(line: Line) -> None:
    await line.worker(slots=10)
    running = await line.pull(0, limits=ONE)
    waiting = await line.pull(1, limits=ONE, fairness_key="a")
    job = await line.store.load(running.job_id)
    assert job is not None
    newcomer = a_task(job, limits=ONE, fairness_key="b", created_at=NOW + 2)
    tasks = (NewTask(newcomer, entry=Entry(a_message(body=newcomer.id))),)

    await line.store.commit(change(job, {"drop_tasks": (running.id,), "tasks": tasks}, waiting=newcomer))

    assert await line.states([waiting, newcomer]) == [D, W]


# --- What is over takes nothing along ------------------------------------------------------------------------------------------


async def _fanned_out(kit: Kit, count: int, limits: tuple[Limit, ...]) -> Job:
    job = await kit.created()
    fanout = FanOut(new_id(), "merge", count)
    infos = [a_task(job, branch=n, fanout_id=fanout.id, limits=limits) for n in range(count)]
    tasks = tuple(NewTask(info, entry=Entry(a_message(body=info.id))) for info in infos)
    return await kit.committed(change(job, {"tasks": tasks}, status=JobStatus.WAITING_FOR_PARALLEL_TASKS, waiting=fanout))


@pytest.mark.parametrize("how", ["drop_branches", "settle_branches"])
@pytest.mark.parametrize("limits", [(), (Limit("api", 1000, 60.0),), (Limit("two", 2),)], ids=["none", "rate", "count"])
async def test_branches_that_are_over_send_none_of_their_like(kit: Kit, line: Line, limits: tuple[Limit, ...], how: str) -> None:
    await line.worker()
    job = await _fanned_out(kit, 100, limits)
    sent = await kit.bodies()
    assert 0 < len(sent) <= 6

    await kit.committed(change(job, {how: True}, status=JobStatus.CANCELLED, waiting=None))

    assert await kit.bodies() == sent


async def test_branches_that_never_started_count_against_no_rate(kit: Kit, line: Line) -> None:
    await line.worker()
    rate = (Limit("api", 20, 60.0),)
    job = await _fanned_out(kit, 100, rate)
    await kit.committed(change(job, {"drop_branches": True}, status=JobStatus.CANCELLED, waiting=None))

    info = await line.pull(10, limits=rate)

    assert (await line.record(info)).state is D


# --- What nobody can take holds no lease ---------------------------------------------------------------------------------------


async def test_a_limited_task_that_nobody_knows_waits_for_a_worker_without_a_lease(kit: Kit, line: Line) -> None:
    await line.worker()
    unknown = await line.pull(0, type="dead", limits=ONE)
    record = await line.record(unknown)
    assert (record.state, record.parked_on) == (W, None)
    info = await line.pull(1, limits=ONE)
    assert (await line.record(info)).state is D
    await line.drop(info, at=2)

    await kit.store.register(a_worker("w2", "boot-w2", tasks=("dead",), supported_tasks=("dead",)), NOW + 3, 1e6)

    assert (await line.record(unknown)).state is D


async def test_where_the_last_worker_leaves_its_leases_go_to_others(kit: Kit, line: Line) -> None:
    await line.worker("w1")
    await kit.store.register(a_worker("w2", "boot-w2", tasks=("dead",), supported_tasks=("dead",)), NOW, 1e6)
    left = await line.pull(0, type="dead", limits=ONE)
    unlimited = await line.pull(0, type="dead")
    waiting = await line.pull(1, limits=ONE)
    assert await line.states([left, unlimited, waiting]) == [D, D, W]

    await kit.store.unregister("w2", "boot-w2", NOW + 5)

    assert await line.states([left, unlimited, waiting]) == [W, D, D]
    assert (await line.claim(left.id, at=6)).outcome == "stale"  # its old message does nothing
    await line.drop(waiting, at=7)
    assert (await line.record(left)).state is W

    await kit.store.register(a_worker("w2", "boot-w3", tasks=("dead",), supported_tasks=("dead",)), NOW + 8, 1e6)

    assert (await line.record(left)).state is D
    assert (await kit.bodies()).count(left.id) == 2
    await line.claimed(left.id, at=9, name="w3")
    assert (await line.claim(left.id, at=9, name="w3")).outcome == "busy"


# --- Keys ----------------------------------------------------------------------------------------------------------------------


async def test_limit_keys_that_look_like_ours(line: Line) -> None:
    await line.worker()
    keys = ("api", "api:longest", "api:window", "specs", "api\\n1\\n0")
    infos = [await line.pull(n, limits=(Limit(key, 1, 60.0),)) for n, key in enumerate(keys)]

    assert await line.states(infos) == [D] * len(keys)


async def test_nothing_is_left_of_a_lane_that_two_found_parked(kit: Kit, line: Line) -> None:
    """Two orchestrators that had read the same heads: one finds one limit used up, the other another one."""
    worker = await line.worker(slots=9)
    await line.pull(0, limits=(Limit("b", 1),), fairness_key="x")
    both = await line.pick(1, limits=(Limit("a", 1), Limit("b", 1)))
    await line.assign(both, worker, at=2)
    await line.pull(3, limits=(Limit("a", 1),), fairness_key="y")
    await line.assign(both, worker, at=4)
    assert (await line.record(both)).parked_on in ("a", "b")

    await line.drop(both, at=5)

    if kit.redis is not None:
        assert [key async for key in kit.redis.scan_iter(f"{kit.namespace}:parked*")] == []
        assert [key async for key in kit.redis.scan_iter(f"{kit.namespace}:specs*")] == []
        assert await kit.redis.exists(f"{kit.namespace}:parkings") == 0
