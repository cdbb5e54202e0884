"""Which workers could take a task: the indexes that picks read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from avtomatika.jobs import WorkerRecord
from avtomatika.state.base import Candidates, ClaimOutcome, Order, Reputation
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW

MODELS = {"skill_dependencies": {"work": ["m1", "m2"]}}
HOT = {**MODELS, "hot_cache": ("m1", "m2", "m3")}


async def _ids(kit: Kit, order: Order = Order.COST, at: float = 0.0, **fields: int) -> list[str]:
    return [c.worker.id for c in (await kit.store.candidates("work", order, NOW + at, **fields)).found]


async def _counts(kit: Kit, at: float = 0.0, task_type: str = "work") -> tuple[int, int, int]:
    found = await kit.store.candidates(task_type, Order.COST, NOW + at)
    return found.known, found.idle, found.warm


async def _says(kit: Kit, worker: WorkerRecord, at: float = 0.0, ttl: float = 1e6, **changes: object) -> WorkerRecord:
    """A heartbeat with what has changed."""
    record = replace(worker, **changes)  # type: ignore[arg-type]
    assert await kit.store.heartbeat(worker.id, worker.boot_id, NOW + at, ttl, record)
    return record


# --- Who is among them ---------------------------------------------------------------------------------------------------------


async def test_an_idle_worker_is_a_candidate(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=3, cost_per_second=2.5)

    found = await kit.store.candidates("work", Order.COST, NOW)

    (candidate,) = found.found
    assert (candidate.worker.id, candidate.worker.boot_id, candidate.worker.cost_per_second) == ("w1", worker.boot_id, 2.5)
    assert (candidate.free, candidate.taken, candidate.reputation, candidate.turn, candidate.warm) == (3, 0, 1.0, 0, False)
    assert (found.known, found.idle, found.warm, found.more) == (1, 1, 0, False)
    assert await kit.store.candidates("unknown", Order.COST, NOW) == Candidates((), 0, 0, 0)
    assert await kit.store.knowing("unknown", NOW) == []


@pytest.mark.parametrize("order", list(Order))
async def test_without_workers_there_is_nobody(kit: Kit, order: Order) -> None:
    assert await kit.store.candidates("work", order, NOW, offset=5, seed=3) == Candidates((), 0, 0, 0)


@pytest.mark.parametrize(
    "fields",
    [{"status": "busy"}, {"supported_tasks": ()}, {"supported_tasks": ("else",)}, {"capabilities": {"cpu": 0}}],
)
async def test_one_that_is_busy_is_known_and_not_idle(kit: Kit, line: Line, fields: dict[str, object]) -> None:
    await line.worker(**HOT, **fields)  # type: ignore[arg-type]

    assert await _ids(kit) == []
    assert await _ids(kit, Order.WARM) == []
    assert await _counts(kit) == (1, 0, 1)
    assert [c.worker.id for c in await kit.store.knowing("work", NOW)] == ["w1"]


async def test_a_heartbeat_with_a_record_takes_it_in_and_out(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    await _says(kit, worker, status="busy", supported_tasks=())
    assert await _counts(kit) == (1, 0, 0)
    assert await kit.store.heartbeat("w1", "boot-w1", NOW, 1e6)
    assert await _counts(kit) == (1, 0, 0)

    await _says(kit, worker, tasks=("work", "new"), supported_tasks=("new",), **HOT)
    assert await _counts(kit) == (1, 0, 1)
    assert await _counts(kit, task_type="new") == (1, 1, 0)
    await _says(kit, worker, tasks=("new",), supported_tasks=("new",))

    assert await _counts(kit) == (0, 0, 0)
    assert await kit.store.knowing("work", NOW) == []
    (candidate,) = (await kit.store.candidates("new", Order.COST, NOW)).found
    assert candidate.worker.tasks == ("new",)


async def test_a_worker_that_is_full_is_idle_again_when_an_attempt_ends(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=2)
    infos = [await line.pick(n) for n in range(2)]
    await line.assign(infos[0], worker)
    assert await _counts(kit) == (1, 1, 0)
    await line.assign(infos[1], worker)
    assert await _counts(kit) == (1, 0, 0)
    (known,) = await kit.store.knowing("work", NOW)
    assert (known.free, known.taken) == (0, 2)

    await line.claimed(infos[0].id)
    assert await _counts(kit) == (1, 0, 0)
    await line.finish(infos[0].id)

    assert await _counts(kit) == (1, 1, 0)
    (candidate,) = (await kit.store.candidates("work", Order.LOAD, NOW)).found
    assert (candidate.free, candidate.taken) == (1, 1)


async def test_a_worker_that_is_full_is_idle_again_when_an_attempt_is_taken_back(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    info = await line.pick()
    await line.assign(info, worker)
    assert await _ids(kit) == []

    await kit.store.unassign(info.id, NOW + 1)

    assert await _ids(kit) == ["w1"]


async def test_a_worker_that_is_full_is_idle_again_when_its_attempt_is_over(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    info = await line.pick()
    await line.assign(info, worker)

    await line.drop(info)

    assert await _ids(kit) == ["w1"]


async def test_a_full_worker_takes_no_task_of_the_other_capability_beyond_its_whole(kit: Kit, line: Line) -> None:
    await kit.store.pin_tasks({"draw": "gpu"})
    fields = {"tasks": ("work", "draw"), "supported_tasks": ("work", "draw"), "capabilities": {"cpu": 1, "gpu": 1}}
    one = await line.worker("w1", max_concurrent_tasks=1, **fields)
    two = await line.worker("w2", max_concurrent_tasks=2, **fields)
    for worker in (one, two):
        await line.assign(await line.pick(), worker)

    found = await kit.store.candidates("draw", Order.COST, NOW)

    assert [(c.worker.id, c.free, c.taken) for c in found.found] == [("w2", 1, 1)]
    assert (found.known, found.idle) == (2, 1)


async def test_what_a_worker_claimed_from_the_queue_counts(kit: Kit, line: Line) -> None:
    await line.worker(slots=2)
    infos = await line.pulls(2)
    await line.claimed(infos[0].id)
    (known,) = await kit.store.knowing("work", NOW)
    assert (known.free, known.taken) == (1, 1)

    await line.claimed(infos[1].id)
    (known,) = await kit.store.knowing("work", NOW)

    assert (known.free, known.taken) == (0, 2)


async def test_a_worker_without_limits_has_slots_enough(kit: Kit, line: Line) -> None:
    await line.worker(capabilities={}, max_concurrent_tasks=0)

    (candidate,) = (await kit.store.candidates("work", Order.COST, NOW)).found

    assert candidate.free > 1000


# --- The end of a worker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["unregister", "expiry", "forgotten", "listed"])
async def test_one_that_has_ended_is_never_among_them(kit: Kit, line: Line, end: str) -> None:
    await line.worker("w0", ttl=1e6, **HOT)
    gone = await line.worker("w1", ttl=10, **HOT)
    match end:
        case "unregister":
            await kit.store.unregister(gone.id, gone.boot_id, NOW)
        case "forgotten":
            await kit.store.forget_boot(gone.boot_id, NOW + 10)
        case "listed":
            assert [w.id for w in await kit.store.workers(NOW + 10)] == ["w0"]

    for order in Order:
        assert await _ids(kit, order, at=10) == ["w0"]
    assert [c.worker.id for c in await kit.store.knowing("work", NOW + 10)] == ["w0"]
    assert await _counts(kit, at=10) == (1, 1, 1)


async def test_another_boot_begins_with_free_slots_and_no_turns(kit: Kit, line: Line) -> None:
    worker = await line.worker(cost_per_second=1, **HOT)
    await line.assign(await line.pick(), worker)
    assert await _ids(kit) == []

    await kit.store.register(replace(worker, boot_id="boot-new", hot_cache=(), cost_per_second=7.0), NOW + 1, 1000)

    (candidate,) = (await kit.store.candidates("work", Order.TURN, NOW + 1)).found
    assert (candidate.worker.boot_id, candidate.worker.cost_per_second) == ("boot-new", 7.0)
    assert (candidate.free, candidate.taken, candidate.turn, candidate.warm) == (1, 0, 0, False)
    assert await _counts(kit, at=1) == (1, 1, 0)
    await kit.store.unregister("w1", "boot-w1", NOW)
    assert await _ids(kit, at=1) == ["w1"]


async def test_a_heartbeat_keeps_it_among_them(kit: Kit, line: Line) -> None:
    await line.worker(ttl=10)

    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 9, 10)

    assert await _ids(kit, at=15) == ["w1"]
    assert await _ids(kit, at=19) == []


# --- Orders --------------------------------------------------------------------------------------------------------------------


async def test_the_cheapest_first(kit: Kit, line: Line) -> None:
    await line.worker("a", cost_per_second=3.0)
    await line.worker("b", cost_per_second=0.5)
    await line.worker("c", cost_per_second=9.0, cost_per_skill={"work": 1.0, "else": 0.1})

    assert await _ids(kit, Order.COST, seed=7) == ["b", "c", "a"]


async def test_the_least_loaded_first(kit: Kit, line: Line) -> None:
    fields = {"capabilities": {"cpu": 9, "gpu": 9}, "max_concurrent_tasks": 9}
    workers = [await line.worker(name, **fields) for name in "abc"]
    for worker, count in zip(workers, (2, 0, 1), strict=True):
        for n in range(count):
            await line.assign(await line.pick(), worker, capability="gpu" if n else "cpu")

    assert await _ids(kit, Order.LOAD) == ["b", "c", "a"]
    found = (await kit.store.candidates("work", Order.LOAD, NOW)).found
    assert [(c.taken, c.free) for c in found] == [(0, 9), (1, 8), (2, 7)]


async def test_the_best_value_first_and_it_follows_reputation(kit: Kit, line: Line) -> None:
    for name, cost in (("a", 1.0), ("b", 1.2), ("c", 4.0)):
        await line.worker(name, cost_per_second=cost)
    assert await _ids(kit, Order.VALUE) == ["a", "b", "c"]

    await kit.store.set_reputation("a", Reputation(0.5, 10))
    await kit.store.set_reputation("b", Reputation(0.9, 10))
    assert await _ids(kit, Order.VALUE) == ["b", "a", "c"]
    found = (await kit.store.candidates("work", Order.VALUE, NOW)).found
    assert [c.reputation for c in found] == [0.9, 0.5, 1.0]
    await kit.store.set_reputation("a", Reputation(0.0, 10))
    assert await _ids(kit, Order.VALUE) == ["b", "c", "a"]
    await _says(kit, (await kit.store.workers(NOW))[2], cost_per_second=0.1)

    assert await _ids(kit, Order.VALUE) == ["c", "b", "a"]
    assert await _ids(kit, Order.COST) == ["c", "a", "b"]


async def test_a_worker_keeps_its_reputation_over_a_restart(kit: Kit, line: Line) -> None:
    await kit.store.set_reputation("a", Reputation(0.1, 5))
    await line.worker("a", cost_per_second=1.0)
    await line.worker("b", cost_per_second=2.0)

    assert await _ids(kit, Order.VALUE) == ["b", "a"]


async def test_who_was_picked_longest_ago_first(kit: Kit, line: Line) -> None:
    fields = {"tasks": ("work", "else"), "supported_tasks": ("work", "else")}
    workers = {name: await line.worker(name, slots=9, **fields) for name in "abc"}
    for name in "bca":
        await line.assign(await line.pick(), workers[name])

    assert await _ids(kit, Order.TURN, seed=5) == ["b", "c", "a"]
    await line.assign(await line.pick(type="else"), workers["b"])
    await line.assign(await line.pick(), workers["b"])
    assert await _ids(kit, Order.TURN) == ["c", "a", "b"]
    found = (await kit.store.candidates("work", Order.TURN, NOW)).found
    assert 0 < found[0].turn < found[1].turn < found[2].turn
    await line.worker("d", **fields)
    assert await _ids(kit, Order.TURN) == ["d", "c", "a", "b"]
    others = (await kit.store.candidates("else", Order.TURN, NOW)).found
    assert others[-1].worker.id == "b"
    assert [c.turn for c in others[:-1]] == [0, 0, 0]


async def test_only_the_warm_ones_by_their_cost(kit: Kit, line: Line) -> None:
    await line.worker("cold", **MODELS)
    await line.worker("none", hot_cache=("m1",))
    await line.worker("half", hot_cache=("m2",), **MODELS)
    dear = await line.worker("dear", cost_per_second=5.0, **HOT)
    await line.worker("fair", cost_per_second=2.0, **HOT)
    await line.worker("full", status="busy", **HOT)

    assert await _ids(kit, Order.WARM) == ["fair", "dear"]
    assert await _counts(kit) == (6, 5, 3)
    assert [c.warm for c in (await kit.store.candidates("work", Order.WARM, NOW)).found] == [True, True]
    warm = {c.worker.id for c in await kit.store.knowing("work", NOW) if c.warm}
    assert warm == {"dear", "fair", "full"}
    await _says(kit, dear, hot_cache=("m1",))

    assert await _ids(kit, Order.WARM) == ["fair"]
    assert await _counts(kit) == (6, 5, 2)


# --- Pages and ties ------------------------------------------------------------------------------------------------------------


async def _pages(kit: Kit, order: Order, count: int, seed: int) -> list[str]:
    out: list[str] = []
    while True:
        found = await kit.store.candidates("work", order, NOW, offset=len(out), count=count, seed=seed)
        out += [c.worker.id for c in found.found]
        assert found.more is (len(found.found) == count and len(out) < found.idle)
        if not found.more:
            return out


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("seed", [0, 1, 4, 123_456_789])
async def test_pages_leave_nobody_out_and_show_nobody_twice(kit: Kit, line: Line, order: Order, seed: int) -> None:
    for n in range(11):
        await line.worker(f"w{n}", cost_per_second=float(n // 5), **HOT)

    ids = await _pages(kit, order, 3, seed)

    assert sorted(ids) == sorted(f"w{n}" for n in range(11))
    assert ids == await _pages(kit, order, 100, seed)
    if order in (Order.COST, Order.VALUE, Order.WARM):
        assert set(ids[:5]) == {f"w{n}" for n in range(5)}
        assert ids[10] == "w10"


async def _firsts(kit: Kit, order: Order, seeds: Sequence[int]) -> list[str]:
    return [(await _ids(kit, order, seed=seed, count=1))[0] for seed in seeds]


@pytest.mark.parametrize("order", list(Order))
async def test_ties_are_taken_in_turn(kit: Kit, line: Line, order: Order) -> None:
    for n in range(4):
        await line.worker(f"w{n}", **HOT)

    firsts = await _firsts(kit, order, range(8))

    assert sorted(firsts[:4]) == ["w0", "w1", "w2", "w3"]
    assert firsts[4:] == firsts[:4]


async def test_those_with_a_higher_value_take_no_part_in_the_turns(kit: Kit, line: Line) -> None:
    for name, cost in (("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.0)):
        await line.worker(name, cost_per_second=cost)

    assert set(await _firsts(kit, Order.COST, range(6))) == {"a", "b"}
    assert {tuple((await _ids(kit, Order.COST, seed=n))[2:]) for n in range(6)} <= {("c", "d"), ("d", "c")}


async def test_a_worker_that_gives_its_task_back_has_its_slot(kit: Kit, line: Line) -> None:
    await line.worker()
    info = await line.pull()
    await line.claimed(info.id)
    await kit.store.release_task(info.id, "boot-w1", NOW)

    (known,) = await kit.store.knowing("work", NOW)

    assert (known.free, known.taken) == (1, 0)
    assert (await line.claim(info.id)).outcome is ClaimOutcome.OK


async def test_the_load_follows_what_is_claimed_and_ended(kit: Kit, line: Line) -> None:
    """Of tasks that were picked, and of those that were pulled."""
    w1, w2 = await line.worker("w1", slots=10), await line.worker("w2", slots=10)
    for n in range(3):
        picked = await line.pick(n)
        await line.assign(picked, w1, at=n)
        pulled = await line.pull(n)
        for info in (picked, pulled):
            await line.claimed(info.id, at=n)
            await line.finish(info.id, at=n)
            await line.drop(info, at=n)
    await line.assign(await line.pick(9), w2, at=9)
    for n in range(2):
        await line.claimed((await line.pull(9 + n)).id, at=9, name="w2")

    page = await kit.store.candidates("work", Order.LOAD, NOW + 10, count=1)

    assert [(candidate.worker.id, candidate.taken) for candidate in page.found] == [("w1", 0)]
