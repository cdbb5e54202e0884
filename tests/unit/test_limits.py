"""Limits as users write them, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.errors import HandlerError
from avtomatika.jobs import Limit
from avtomatika.limits import check_key, fill_key, fill_limits, parse_limits

NAMES = {"client": "acme", "blueprint": "video", "task": "encode", "job_id": "j1"}


@pytest.mark.parametrize(
    ("value", "count", "seconds"),
    [
        (1, 1, None),
        (500, 500, None),
        ("60/s", 60, 1.0),
        ("60/sec", 60, 1.0),
        ("60/second", 60, 1.0),
        ("60/min", 60, 60.0),
        ("60/minute", 60, 60.0),
        ("1/h", 1, 3600.0),
        ("1/hour", 1, 3600.0),
        ("1000/day", 1000, 86400.0),
        ("10/30s", 10, 30.0),
        ("10/0.5s", 10, 0.5),
        ("3/2min", 3, 120.0),
        (" 3 / 2 min ", 3, 120.0),
    ],
)
def test_a_limit(value: Any, count: int, seconds: float | None) -> None:
    assert parse_limits("limits", {"openai": value}) == (Limit("openai", count, seconds),)


@pytest.mark.parametrize("value", [None, {}])
def test_no_limits(value: Any) -> None:
    assert parse_limits("limits", value) == ()


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, True, False, 2.0, None, [5], "", "5", "/min", "60/", "60 per min", "60/fortnight", "60/mins"),
        *("-5/min", "1.5/min", "5/0s", "0/min", "5/-1s", "٦/min"),
    ],
)
def test_what_is_no_limit_names_the_fix(value: Any) -> None:
    with pytest.raises(HandlerError) as caught:
        parse_limits("limits", {"openai": value})
    for part in ("limits", "'openai'", repr(value), '"60/min"', "5 for five at once"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ([("a", 1)], "must be a dict"),
        ("60/min", "must be a dict"),
        ({"": 1}, "not ''"),
        ({"  ": 1}, "not empty"),
        ({"a\n": 1}, "must be a text"),
        ({7: 1}, "not 7"),
        ({"tenant:{who}": 1}, "unknown placeholder {who}"),
        ({"tenant:{}": 1}, "unknown placeholder {}"),
        ({"tenant:{client": 1}, "not closed"),
        ({"tenant:client}": 1}, "not opened"),
        ({"fanout:x": 1}, "the engine's own"),
    ],
)
def test_a_key_that_does_not_fit(limits: Any, says: str) -> None:
    with pytest.raises(HandlerError) as caught:
        parse_limits("limits", limits)
    assert says in str(caught.value)


def test_an_unknown_placeholder_names_those_there_are() -> None:
    with pytest.raises(HandlerError, match=r"\{client\}, \{blueprint\}, \{task\}, \{job_id\}"):
        check_key("limits", "{tenant}")


def test_placeholders_are_filled_once() -> None:
    assert fill_key("{client}:{blueprint}:{task}:{job_id}:x", NAMES) == "acme:video:encode:j1:x"
    assert fill_key("{client}", {**NAMES, "client": "{task}"}) == "{task}"


def test_limits_keep_their_numbers_when_filled() -> None:
    limits = parse_limits("limits", {"openai": "60/min", "tenant:{client}": 5})

    assert fill_limits(limits, NAMES) == (Limit("openai", 60, 60.0), Limit("tenant:acme", 5))


def test_two_keys_that_become_the_same_are_refused() -> None:
    limits = parse_limits("limits", {"{client}": "60/min", "acme": 5})

    with pytest.raises(HandlerError, match="two keys become 'acme'"):
        fill_limits(limits, NAMES)
    assert len(fill_limits(limits, {**NAMES, "client": "other"})) == 2
