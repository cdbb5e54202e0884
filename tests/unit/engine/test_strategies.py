"""Strategies over a table of twelve workers, and how users add their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from avtomatika import Candidate
from avtomatika.engine import strategies
from avtomatika.engine.strategies import ask, find, known, strategy
from avtomatika.errors import ConfigurationError
from avtomatika.jobs import TaskInfo, WorkerRecord
from avtomatika.state.base import Order

TASK = TaskInfo("t", "j", "draw", {}, {})

#: name, cost per second, cost for `draw` or None, slots taken, turn, reputation, warm
_TABLE = [
    ("w01", 5.0, None, 0, 12, 1.0, False),
    ("w02", 1.0, None, 3, 4, 0.5, False),
    ("w03", 1.0, None, 2, 9, 0.25, False),
    ("w04", 0.2, 3.0, 1, 1, 1.0, False),
    ("w05", 9.0, 1.0, 4, 8, 0.8, False),
    ("w06", 2.0, None, 0, 2, 1.0, True),
    ("w07", 2.0, None, 5, 7, 1.0, True),
    ("w08", 4.0, None, 0, 0, 0.9, True),
    ("w09", 1.5, None, 2, 0, 1.0, False),
    ("w10", 1.2, None, 7, 3, 1.0, False),
    ("w11", 3.0, 1.2, 6, 5, 1.0, False),
    ("w12", 8.0, None, 9, 0, 0.1, False),
]

WORKERS = [
    Candidate(
        WorkerRecord(name, f"boot-{name}", tasks=("draw",), cost_per_second=cost, cost_per_skill={"draw": own} if own else {}),
        free=1,
        taken=taken,
        reputation=reputation,
        turn=turn,
        warm=warm,
    )
    for name, cost, own, taken, turn, reputation, warm in _TABLE
]
COLD = [replace(candidate, warm=False) for candidate in WORKERS]


@pytest.mark.parametrize(
    ("name", "candidates", "best"),
    [
        ("default", WORKERS, {"w06", "w07"}),
        ("default", COLD, {"w02", "w03", "w05"}),
        ("round_robin", WORKERS, {"w08", "w09", "w12"}),
        ("least_connections", WORKERS, {"w01", "w06", "w08"}),
        ("cheapest", WORKERS, {"w02", "w03", "w05"}),
        ("best_value", WORKERS, {"w10", "w11"}),
        ("default", WORKERS[:1], {"w01"}),
        ("cheapest", WORKERS[3:5], {"w05"}),  # its cost for this task counts, not the one per second
    ],
)
def test_the_best_ones_come_up_and_no_others(name: str, candidates: list[Candidate], best: set[str]) -> None:
    found = find(name)
    assert found is not None

    chosen = [found.choose(TASK, candidates) for _ in range(400)]

    names = [candidate.worker.id for candidate in chosen if candidate is not None]
    assert set(names) == best
    # Fair among equals: with three of them, fewer than 70 of 400 for one has a chance below one in a billion.
    assert min(names.count(name) for name in best) >= 70


def test_the_order_in_which_each_one_reads() -> None:
    assert {name: found.order for name in known() if (found := find(name)) is not None} == {
        "default": Order.COST,
        "cheapest": Order.COST,
        "round_robin": Order.TURN,
        "least_connections": Order.LOAD,
        "best_value": Order.VALUE,
    }


def test_a_worker_of_no_reputation_divides_nothing_by_zero() -> None:
    bad = replace(WORKERS[0], reputation=0.0)
    found = find("best_value")
    assert found is not None
    assert found.choose(TASK, [bad, WORKERS[1]]) is WORKERS[1]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(strategies._known)
    yield
    strategies._known.clear()
    strategies._known.update(before)


def test_a_users_strategy() -> None:
    @strategy("last", order="load")
    def last(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate | None:
        return candidates[-1] if task.type == "draw" else None

    assert "last" in known()
    found = find("last")
    assert found is not None
    assert found.order is Order.LOAD
    assert ask(found, TASK, WORKERS) == (WORKERS[-1], None)
    assert ask(found, replace(TASK, type="other"), WORKERS) == (None, None)


def test_a_file_that_is_loaded_twice_brings_the_same_strategy_again() -> None:
    source = compile("@strategy('twice')\ndef twice(task, candidates): return None\n", "strategies_of_mine.py", "exec")
    exec(source, {"strategy": strategy})
    exec(source, {"strategy": strategy})

    assert "twice" in known()


def test_refused_registrations() -> None:
    def choose(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate | None:
        return None

    with pytest.raises(ConfigurationError, match="there is a strategy 'default' already"):
        strategy("default")(choose)
    with pytest.raises(ConfigurationError, match="must be a function"):
        strategy("mine")("not a function")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs a name"):
        strategy(choose)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs a name"):
        strategy("")
    for order in ("price", "warm"):
        with pytest.raises(ConfigurationError, match="order must be one of cost, load, value, turn"):
            strategy("mine", order=order)
    assert "mine" not in known()


def test_what_is_wrong_with_an_answer() -> None:
    def asked(choose: object) -> tuple[Candidate | None, str | None]:
        return ask(strategies.Strategy("mine", choose, Order.COST), TASK, WORKERS[:3])  # type: ignore[arg-type]

    def raises(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
        raise ValueError("no idea")

    assert asked(raises) == (None, "strategy 'mine' raised ValueError: no idea")
    foreign, problem = asked(lambda task, candidates: WORKERS[5])
    assert (foreign, problem) == (None, "strategy 'mine' returned worker 'w06', which is none of its candidates")
    assert asked(lambda task, candidates: "w01")[1] == "strategy 'mine' returned str 'w01', which is none of its candidates"
