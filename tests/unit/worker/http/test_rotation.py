"""Whose turn it is: by priority, then by weight."""

from __future__ import annotations

from collections import Counter

import pytest

from avtomatika.worker.http.rotation import Rank, Rotation


def _turns(weights: dict[str, int], count: int) -> str:
    rotation = Rotation({name: Rank(1, weight) for name, weight in weights.items()})
    return "".join(str(rotation.next(list(weights))) for _ in range(count))


@pytest.mark.parametrize(
    ("weights", "turns"),
    [
        ({"a": 1}, "aaa"),
        ({"a": 1, "b": 1}, "ababab"),
        ({"a": 2, "b": 1}, "abaaba"),
        ({"a": 5, "b": 1, "c": 1}, "aabacaa" * 2),
        ({"a": 1, "b": 1, "c": 1}, "abcabc"),
    ],
)
def test_turns_are_spread_evenly(weights: dict[str, int], turns: str) -> None:
    assert _turns(weights, len(turns)) == turns


def test_shares_follow_weights() -> None:
    assert Counter(_turns({"a": 7, "b": 2, "c": 1}, 1000)) == {"a": 700, "b": 200, "c": 100}


@pytest.mark.parametrize(
    ("reachable", "tier"),
    [
        ("abcd", ("a", "b")),
        ("bcd", ("b",)),
        ("cd", ("c",)),
        ("d", ("d",)),
        ("", ()),
    ],
)
def test_the_next_priority_only_when_all_before_it_are_away(reachable: str, tier: tuple[str, ...]) -> None:
    rotation = Rotation({"a": Rank(1), "b": Rank(1, 3), "c": Rank(2), "d": Rank(9)})
    assert rotation.tier(set(reachable)) == tier


def test_one_that_was_away_does_not_get_its_missed_turns_at_once() -> None:
    rotation = Rotation({"a": Rank(), "b": Rank()})
    assert [rotation.next(["a"]) for _ in range(50)] == ["a"] * 50
    assert Counter(rotation.next(["a", "b"]) for _ in range(10)) == {"a": 5, "b": 5}


def test_who_is_first() -> None:
    rotation = Rotation({"a": Rank(1), "b": Rank(1), "c": Rank(2)})
    assert [rotation.is_first(name) for name in "abc"] == [True, True, False]
