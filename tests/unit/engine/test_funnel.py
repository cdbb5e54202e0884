"""The funnel of a pick, in numbers and in words."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.engine.funnel import Funnel, is_idle, load_seconds, narrowed, used_up, why_chosen
from avtomatika.jobs import Limit, TaskInfo, WorkerRecord
from avtomatika.state.base import Candidate, Order


def _info(**fields: Any) -> TaskInfo:
    return TaskInfo("t", "j", "draw", {}, {}, **fields)


def _candidate(
    name: str = "w", *, vram: float = 0, free: int = 1, taken: int = 0, warm: bool = False, **fields: Any
) -> Candidate:
    resources = {"gpu_info": {"vram_gb": vram}} if vram else {}
    fields = {"tasks": ("draw",), "supported_tasks": ("draw",), "resources": resources, **fields}
    return Candidate(WorkerRecord(name, f"boot-{name}", **fields), free, taken, warm=warm)


FLEET = [_candidate("a", vram=8), _candidate("b", vram=24, cost_per_second=0.5), _candidate("c", vram=48, cost_per_second=0.02)]


@pytest.mark.parametrize(
    ("wanted", "max_cost", "numbers", "words"),
    [
        (None, None, (3, 3), "3 workers know draw"),
        (24, None, (2, 2), "3 workers know draw, 2 have 24 GB VRAM"),
        (24, 0.01, (2, 0), "3 workers know draw, 2 have 24 GB VRAM, 0 are within max_cost 0.01"),
        (24, 0.1, (2, 1), "3 workers know draw, 2 have 24 GB VRAM, 1 is within max_cost 0.1"),
        (48, 0.01, (1, 0), "3 workers know draw, 1 has 48 GB VRAM, 0 are within max_cost 0.01"),
        (80, 0.01, (0, 0), "3 workers know draw, 0 have 80 GB VRAM"),
        (None, 0, (3, 1), "3 workers know draw, 1 is within max_cost 0"),
    ],
)
def test_a_funnel_over_a_fleet(wanted: float | None, max_cost: float | None, numbers: tuple[int, int], words: str) -> None:
    info = _info(resource_requirements={"gpu_info": {"vram_gb": wanted}} if wanted else None, max_cost=max_cost)
    funnel = Funnel("cheapest", known=3)

    left = funnel.narrow(info, FLEET)

    assert (funnel.looked_at, funnel.resources, funnel.cost, len(left)) == (3, *numbers, numbers[1])
    assert narrowed(info, funnel) == words


def test_pages_add_up() -> None:
    info = _info(resource_requirements={"gpu_info": {"vram_gb": 24}})
    funnel = Funnel("default")

    assert [len(funnel.narrow(info, page)) for page in (FLEET[:1], FLEET[1:])] == [0, 2]

    assert (funnel.looked_at, funnel.resources, funnel.cost) == (3, 2, 2)


def test_words_for_none_and_for_one() -> None:
    assert narrowed(_info(), Funnel("default")) == "no live worker knows draw; start one that declares it"
    assert narrowed(_info(), Funnel("default", known=1)) == "1 worker knows draw"


@pytest.mark.parametrize(
    ("limits", "key", "words"),
    [
        ((Limit("openai", 60, 60),), "openai", "limit openai (60 in 60 s) is used up"),
        ((Limit("other", 1), Limit("db", 2)), "db", "limit db (2 at once) is used up"),
        ((Limit("fanout:x", 3),), "fanout:x", "max_concurrency 3 of its fan-out is used up"),
        ((), "openai", "limit openai is used up"),
    ],
)
def test_a_limit_in_words(limits: tuple[Limit, ...], key: str, words: str) -> None:
    assert used_up(_info(limits=limits), key) == words


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({}, True),
        ({"free": 0}, False),
        ({"free": -1}, False),
        ({"status": "busy"}, False),
        ({"supported_tasks": ("other",)}, False),
    ],
)
def test_who_is_idle(fields: dict[str, Any], idle: bool) -> None:
    assert is_idle(_candidate(**fields), "draw") is idle


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([{}, {}], 5.0),
        ([{"m1": 4.0}, {}], 4.0),
        ([{"m1": 4.0, "m2": 1.0}, {"m1": 6.0, "unrelated": 100.0}], 6.0),
        ([], 5.0),
    ],
)
def test_how_long_loading_takes(times: list[dict[str, float]], seconds: float) -> None:
    skills = {"draw": ["m1", "m2"], "other": ["unrelated"]}
    fleet = [_candidate(str(n), load_times=known, skill_dependencies=skills) for n, known in enumerate(times)]

    assert load_seconds("draw", fleet) == seconds


@pytest.mark.parametrize(
    ("strategy", "warm", "words"),
    [
        ("default", True, "it holds the models already, at a cost of 0.5 per second"),
        ("default", False, "of the 2 that suit none costs less than 0.5 per second"),
        ("cheapest", True, "of the 2 that suit none costs less than 0.5 per second"),
        ("round_robin", False, "of the 2 that suit none was picked longer ago"),
        ("least_connections", False, "of the 2 that suit none has fewer tasks in its hands than 3"),
        ("best_value", False, "of the 2 that suit none is better value than 0.5 per second with a reputation of 1"),
        ("mine", False, "strategy 'mine' chose it from 2, looking in the order of load"),
    ],
)
def test_why_a_worker_was_chosen(strategy: str, warm: bool, words: str) -> None:
    chosen = _candidate(cost_per_second=0.5, taken=3, warm=warm)

    assert why_chosen(_info(dispatch_strategy=strategy), Order.LOAD, chosen, 2) == words
