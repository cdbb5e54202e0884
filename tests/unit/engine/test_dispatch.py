"""Which worker a task is given to, and when it waits."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from avtomatika import Candidate
from avtomatika.engine import strategies
from avtomatika.engine.dispatch import PAGE
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Limit, TaskInfo, TaskState
from avtomatika.state.base import Order
from tests.support.board import TYPE, Board

SKILL = {"skill_dependencies": {TYPE: ["m1", "m2"]}}
HOT = {**SKILL, "hot_cache": ("m1", "m2")}


def _vram(amount: float) -> dict[str, Any]:
    return {"resources": {"gpu_info": {"model": "RTX 4090", "vram_gb": amount}}}


def _wants(amount: float, **fields: Any) -> dict[str, Any]:
    return {"resource_requirements": {"gpu_info": {"vram_gb": amount}}, **fields}


# --- A pick --------------------------------------------------------------------------------------------------------------------


async def test_a_task_goes_to_the_direct_queue_of_the_chosen_worker_with_its_funnel() -> None:
    board = Board()
    for name, vram, cost in (("a", 8, 0.001), ("b", 24, 0.5), ("c", 24, 0.02), ("d", 48, 0.03)):
        await board.worker(name, **_vram(vram), cost_per_second=cost)
    task_id = await board.task(**_wants(24, dispatch_strategy="cheapest", max_cost=0.1))

    await board.pump()

    (message,) = board.sent
    assert (message.queue, message.declare, message.headers["id"]) == ("worker.c.gpu", "direct", task_id)
    record = await board.record(task_id)
    assert (record.state, record.assigned_to) == (TaskState.DISPATCHED, "c")
    assert record.decision == {
        "strategy": "cheapest",
        "known": 4,
        "idle": 4,
        "looked_at": 4,
        "resources": 3,
        "cost": 2,
        "chosen": "c",
        "reason": "of the 2 that suit none costs less than 0.02 per second",
    }
    event = (await board.store.events(record.info.job_id))[-1]
    assert (event.event_type, event.worker_id, event.details["decision"]) == ("task_assigned", "c", record.decision)


@pytest.mark.parametrize(
    ("strategy", "first", "then"),
    [
        ("default", "a", "b"),
        ("cheapest", "a", "b"),
        ("least_connections", "c", "ab"),
        ("best_value", "b", "b"),
    ],
)
async def test_strategies_over_the_stores_indexes(strategy: str, first: str, then: str) -> None:
    from avtomatika.state.base import Reputation

    board = Board()
    for name, cost, slots in (("a", 1.0, 2), ("b", 1.5, 3), ("c", 9.0, 2)):
        await board.worker(name, slots, cost_per_second=cost)
    await board.store.set_reputation("a", Reputation(0.5))
    for name in "ab":
        await board.busy(name)

    one, two = await board.tasks(2, dispatch_strategy=strategy, max_cost=100)
    await board.pump()

    found = await board.at(one, two)
    assert found[0] == first
    assert found[1] is not None
    assert found[1] in (then + "c" if strategy == "least_connections" else then)


async def test_round_robin_takes_turns() -> None:
    board = Board()
    for name in "abc":
        await board.worker(name, 3)
    ids = await board.tasks(9, dispatch_strategy="round_robin")

    await board.pump()

    found = await board.at(*ids)
    assert sorted(found[:3]) == sorted(found[3:6]) == sorted(found[6:]) == ["a", "b", "c"]  # type: ignore[type-var]


async def test_equal_workers_share_the_picks() -> None:
    board = Board()
    for n in range(40):
        await board.worker(f"w{n}", 10)
    ids = await board.tasks(200, max_cost=1)

    await board.pump()

    counts = Counter(await board.at(*ids))
    assert len(counts) >= 30
    assert max(counts.values()) <= 10


async def test_a_worker_that_suits_is_found_on_a_later_page() -> None:
    board = Board()
    for n in range(300):
        await board.worker(f"w{n:03}", **_vram(8), cost_per_second=0.1)
    await board.worker("big", **_vram(80), cost_per_second=9)
    task_id = await board.task(**_wants(80))

    await board.pump()

    assert await board.at(task_id) == ["big"]
    decision = (await board.record(task_id)).decision
    assert decision is not None
    assert (decision["known"], decision["looked_at"], decision["resources"]) == (301, 301, 1)


async def test_the_first_page_is_enough_where_its_workers_suit() -> None:
    board = Board()
    for n in range(100):
        await board.worker(f"w{n:03}", **_vram(24))
    task_id = await board.task(**_wants(24))

    await board.pump()

    decision = (await board.record(task_id)).decision
    assert decision is not None
    assert (decision["known"], decision["looked_at"]) == (100, PAGE)


async def test_workers_to_avoid_come_last() -> None:
    board = Board()
    await board.worker("a", 2, cost_per_second=1)
    await board.worker("b", 1, cost_per_second=2)

    ids = await board.tasks(3, max_cost=100, avoid=("a",))
    await board.pump()

    assert await board.at(*ids) == ["b", "a", "a"]


async def test_slots_of_a_worker_are_never_given_away_twice() -> None:
    board = Board()
    for name in "abcde":
        await board.worker(name)
    ids = await board.tasks(20, max_cost=100)
    others = [board.dispatcher, board.another_dispatcher(), board.another_dispatcher()]

    await asyncio.gather(*(dispatcher.pump(TYPE) for dispatcher in others))

    found = [name for name in await board.at(*ids) if name is not None]
    assert sorted(found) == ["a", "b", "c", "d", "e"]
    assert len(board.sent) == 5
    for task_id, name in zip(ids, await board.at(*ids), strict=True):
        if name is not None:
            assert await board.claim(task_id, name)
            await board.finish(task_id, name)
    await board.pump()
    assert len(board.sent) == 10


async def test_a_lane_that_nobody_suits_keeps_no_other_waiting() -> None:
    board = Board()
    await board.worker("a", 3, **_vram(8))
    hopeless = [await board.task(**_wants(80), fairness_key=f"client-{n}") for n in range(30)]
    ids = await board.tasks(3, **_wants(8))

    await board.pump()

    assert await board.at(*ids) == ["a", "a", "a"]
    assert set(await board.at(*hopeless)) == {None}


async def test_clients_take_turns() -> None:
    board = Board()
    many = await board.tasks(20, max_cost=1, fairness_key="many")
    few = await board.tasks(3, max_cost=1, fairness_key="few")
    await board.worker("a", 6)

    await board.pump()

    assert sum(name == "a" for name in await board.at(*few)) == 3
    assert sum(name == "a" for name in await board.at(*many)) == 3


# --- Nobody suits, or nobody is free -------------------------------------------------------------------------------------------


async def test_a_task_waits_for_a_worker_that_suits_and_says_so() -> None:
    board = Board()
    for name, vram in (("a", 8), ("b", 24), ("c", 24)):
        await board.worker(name, **_vram(vram), cost_per_second=0.5)
    task_id = await board.task(**_wants(24, max_cost=0.01))
    await board.pump(5)
    assert (await board.record(task_id)).state is TaskState.WAITING
    assert await board.why(task_id) == "3 workers know draw, 2 have 24 GB VRAM, 0 are within max_cost 0.01"

    await board.worker("d", **_vram(24), cost_per_second=0.01)
    await board.dispatcher.look()
    await board.dispatcher.settled()

    assert await board.at(task_id) == ["d"]


async def test_a_pick_is_put_ahead_on_the_least_busy_worker_once_it_has_waited() -> None:
    board = Board()
    await board.worker("a", 2, **_vram(24))
    await board.worker("b", 4, **_vram(24), max_concurrent_tasks=8, capabilities={"gpu": 4, "cpu": 8})
    await board.worker("c", 1, **_vram(8))
    for name in "aabbbbc":
        await board.busy(name)
    ids = await board.tasks(4, **_wants(24))

    await board.pump(0.75)
    assert set(await board.at(*ids)) == {None}
    assert await board.why(ids[0]) == "3 workers know draw, 2 have 24 GB VRAM, all are busy"
    assert await board.why(ids[3]) == "3 workers know draw, 2 have 24 GB VRAM, all are busy; 3 of your tasks are ahead of it"
    await board.pump(0.25)

    assert await board.at(*ids) == ["b", "a", None, None]  # one each, and none on the worker that does not suit
    decision = (await board.record(ids[0])).decision
    assert decision is not None
    assert (decision["ahead"], decision["reason"]) == (True, "those that suit are busy: it is the next on the least busy one")


async def test_explanations_without_a_pick() -> None:
    board = Board()
    await board.worker("a")
    ids = await board.tasks(12)
    await board.claim(ids[0], "a")
    assert await board.why(ids[-1]) == "4 of your tasks are ahead of it; no slot is free"
    assert await board.why(ids[1]) == "1 worker knows draw, it is busy"
    await board.store.unregister("a", "boot-a", board.now)
    assert await board.why(ids[1]) == "no live worker knows draw; start one that declares it"


async def test_a_limit_parks_a_task_and_is_named() -> None:
    board = Board()
    await board.worker("a", 5)
    limits = (Limit("openai", 1, 60),)
    first, second, third = await board.tasks(3, max_cost=1, limits=limits)
    other = await board.task(max_cost=1)

    await board.pump()

    assert await board.at(first, second, third, other) == ["a", None, None, "a"]
    assert await board.why(second) == "limit openai (1 in 60 s) is used up"
    assert await board.why(third) == "limit openai (1 in 60 s) is used up; 1 of your tasks is ahead of it"


# --- Warm workers --------------------------------------------------------------------------------------------------------------


async def test_a_plain_task_goes_to_a_warm_worker() -> None:
    board = Board()
    await board.worker("cold", cost_per_second=0.1)
    await board.worker("dear", **HOT, cost_per_second=2)
    await board.worker("warm", **HOT, cost_per_second=1)
    task_id = await board.task()

    await board.pump()

    assert await board.at(task_id) == ["warm"]
    decision = (await board.record(task_id)).decision
    assert decision is not None
    assert decision["reason"] == "it holds the models already, at a cost of 1 per second"


@pytest.mark.parametrize(
    ("times", "cap", "grace"), [({}, 30.0, 5.0), ({"m1": 2.0, "m2": 1.5}, 30.0, 3.5), ({"m1": 100.0}, 8.0, 8.0), ({}, 0.0, 0.0)]
)
async def test_a_busy_warm_worker_is_waited_for_as_long_as_loading_takes(
    times: dict[str, float], cap: float, grace: float
) -> None:
    board = Board(warm_grace_seconds=cap)
    await board.worker("cold")
    await board.worker("warm", **HOT, load_times=times)
    first, second = await board.tasks(2)
    await board.pump()
    assert await board.at(first, second) == ["warm", None]

    if grace:
        await board.pump(grace - 0.25)
        assert (await board.record(second)).state is TaskState.WAITING
        assert (await board.why(second)).startswith("2 workers know draw, 1 holds its models and is waited for")
    await board.pump(0.25)

    record = await board.record(second)
    assert (record.state, record.assigned_to) == (TaskState.DISPATCHED, None)
    assert [message.queue for message in board.sent] == ["worker.warm.gpu", "gpu.draw"]
    assert await board.claim(second, "cold")


async def test_a_warm_worker_that_is_free_again_gets_the_task_in_time() -> None:
    board = Board()
    await board.worker("cold")
    await board.worker("warm", **HOT)
    first, second = await board.tasks(2)
    await board.pump()
    assert await board.claim(first, "warm")

    await board.pump(3)
    await board.finish(first, "warm")
    board.dispatcher.slot_freed()
    await board.dispatcher.settled()

    assert await board.at(second) == ["warm"]


async def test_without_a_warm_worker_any_more_a_task_goes_to_the_queue_at_once() -> None:
    board = Board()
    await board.worker("warm", **HOT)
    first, second = await board.tasks(2)
    await board.pump()
    assert await board.at(first, second) == ["warm", None]

    await board.says("warm", hot_cache=())
    await board.pump()

    assert ((await board.record(second)).state, await board.at(second)) == (TaskState.DISPATCHED, [None])


async def test_a_filtered_task_prefers_warm_workers_that_suit_and_waits_for_a_busy_one() -> None:
    board = Board()
    await board.worker("small", 9, **HOT, **_vram(8))
    await board.worker("cold", 9, **SKILL, **_vram(24), cost_per_second=0.1)
    await board.worker("warm", 1, **HOT, **_vram(24), cost_per_second=1)

    first, second = await board.tasks(2, **_wants(24))
    named = await board.task(**_wants(24, dispatch_strategy="cheapest"))
    await board.pump()
    assert await board.at(first, second, named) == ["warm", None, "cold"]
    await board.pump(4.75)
    assert await board.at(second) == [None]
    await board.pump(0.25)

    assert await board.at(second) == ["cold"]


async def _picked(board: Board, fields: dict[str, Any]) -> str:
    task_id = await board.task(**fields)
    await board.pump()
    return task_id


async def test_a_filtered_task_does_not_wait_for_a_warm_worker_that_does_not_suit() -> None:
    board = Board()
    await board.worker("small", 1, **HOT, **_vram(8))
    await board.worker("cold", 1, **SKILL, **_vram(24))
    assert await board.at(await _picked(board, _wants(8))) == ["small"]
    task_id = await board.task(**_wants(24))

    await board.pump()

    assert await board.at(task_id) == ["cold"]


# --- Strategies of users -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine() -> Iterator[Any]:
    before = dict(strategies._known)
    yield lambda choose, **options: strategies.strategy("mine", **options)(choose)
    strategies._known.clear()
    strategies._known.update(before)


async def test_a_users_strategy_sees_the_workers_that_suit(mine: Any) -> None:
    board = Board()
    for name, vram, cost in (("a", 8, 1), ("b", 24, 2), ("c", 24, 3)):
        await board.worker(name, **_vram(vram), cost_per_second=cost)
    seen: list[list[str]] = []

    def choose(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
        seen.append([candidate.worker.id for candidate in candidates])
        return candidates[-1]

    mine(choose, order=Order.COST)
    task_id = await board.task(**_wants(24, dispatch_strategy="mine"))
    await board.pump()

    assert (seen, await board.at(task_id)) == ([["b", "c"]], ["c"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("raises", "strategy 'mine' raised KeyError: 'gone'"),
        ("foreign", "strategy 'mine' returned str 'a', which is none of its candidates"),
        ("none", "strategy 'mine' chooses none of the 1 workers that suit"),
    ],
)
async def test_a_strategy_that_gives_no_worker_lets_its_tasks_wait(
    mine: Any, caplog: pytest.LogCaptureFixture, answer: str, words: str
) -> None:
    def choose(task: TaskInfo, candidates: Sequence[Candidate]) -> Any:
        if answer == "raises":
            raise KeyError("gone")
        return "a" if answer == "foreign" else None

    mine(choose)
    board = Board()
    await board.worker("a", 2)
    stuck = await board.task(dispatch_strategy="mine")
    other = await board.task(max_cost=1)

    await board.pump()
    await board.pump(1)

    assert await board.at(stuck, other) == [None, "a"]
    assert await board.why(stuck) == words
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged == ([] if answer == "none" else [f"{words}; its tasks wait"])


async def test_a_strategy_that_nobody_has_loaded() -> None:
    board = Board()
    await board.worker("a")
    task_id = await board.task(dispatch_strategy="elsewhere")

    await board.pump()

    assert await board.at(task_id) == [None]
    assert (await board.why(task_id)).startswith("no strategy 'elsewhere' is loaded here (known: best_value, ")


# --- In the background ---------------------------------------------------------------------------------------------------------


async def test_wakes_of_one_moment_are_one_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    await board.worker("a")
    task_id = await board.task(max_cost=1)
    pumped: list[str] = []
    pump = board.dispatcher.pump

    async def counted(task_type: str, most: float) -> int:
        pumped.append(task_type)
        return await pump(task_type, most)

    monkeypatch.setattr(board.dispatcher, "pump", counted)
    for _ in range(50):
        board.dispatcher.wake([TYPE])
    await board.dispatcher.settled()

    assert (pumped, await board.at(task_id)) == ([TYPE], ["a"])
    board.dispatcher.slot_freed()  # nothing waits
    await board.dispatcher.settled()
    assert pumped == [TYPE]


async def test_a_freed_slot_wakes_what_waits() -> None:
    board = Board()
    await board.worker("a")
    first, second = await board.tasks(2, max_cost=1)
    board.dispatcher.wake([TYPE])
    await board.dispatcher.settled()
    assert await board.at(first, second) == ["a", None]

    assert await board.claim(first, "a")
    await board.finish(first, "a")
    board.dispatcher.slot_freed()
    await board.dispatcher.settled()

    assert await board.at(second) == ["a"]


@pytest.mark.parametrize("fault", [StoreUnavailableError("away"), RuntimeError("a bug")])
async def test_what_fails_in_the_background_is_tried_again_by_the_next_wake(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    board = Board()
    await board.worker("a")
    task_id = await board.task(max_cost=1)

    async def broken(*_: Any, **__: Any) -> Any:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(board.store, "heads", broken)
        board.dispatcher.wake([TYPE, "another"])
        await board.dispatcher.settled()
    assert await board.at(task_id) == [None]
    assert [record.levelno >= logging.WARNING for record in caplog.records]

    board.dispatcher.slot_freed()
    await board.dispatcher.settled()

    assert await board.at(task_id) == ["a"]
