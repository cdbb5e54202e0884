"""When schedules are due: cron over both turns of the clock, rare dates, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avtomatika.schedules.timing import Cron, Every, Timing, seconds_of, zone_of

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def following(timing: Timing, moment: float, count: int, anchor: float = 0.0) -> list[float]:
    found: list[float] = []
    while len(found) < count and (due := timing.next_after(found[-1] if found else moment, anchor)) is not None:
        found.append(due)
    return found


def local(due: float, zone: str) -> str:
    return datetime.fromtimestamp(due, zone_of(zone)).strftime("%m-%d %H:%M %z")


@pytest.mark.parametrize(
    ("zone", "cron", "begin", "expected"),
    [
        # Put forward: 02:30 does not exist, and is due right after the gap, once.
        (BERLIN, "30 2 * * *", "2026-03-28T00:00", ["03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:30 +0200"]),
        (NEW_YORK, "30 2 * * *", "2026-03-07T05:00", ["03-07 02:30 -0500", "03-08 03:00 -0400", "03-09 02:30 -0400"]),
        # Put back: 02:30 (01:30 in New York) comes twice, and is due the first time.
        (BERLIN, "30 2 * * *", "2026-10-24T12:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31T12:00", ["11-01 01:30 -0400", "11-02 01:30 -0500"]),
        (NEW_YORK, "30 2 * * *", "2026-10-31T12:00", ["11-01 02:30 -0500", "11-02 02:30 -0500"]),
        # Two that fall into the gap are one after it, and what is due there anyway is not doubled.
        (BERLIN, "0,30 2,3 * * *", "2026-03-29T00:00", ["03-29 03:00 +0200", "03-29 03:30 +0200", "03-30 02:00 +0200"]),
        # With a star the clock as it runs counts: nothing in the gap, all of it twice.
        (BERLIN, "30 * * * *", "2026-03-29T00:00", ["03-29 01:30 +0100", "03-29 03:30 +0200", "03-29 04:30 +0200"]),
        (BERLIN, "30 * * * *", "2026-10-25T00:00", ["10-25 02:30 +0200", "10-25 02:30 +0100", "10-25 03:30 +0100"]),
        (BERLIN, "*/30 2 * * *", "2026-10-24T12:00", [f"10-25 02:{m} +0{h}00" for h in (2, 1) for m in ("00", "30")]),
        ("UTC", "30 2 * * *", "2026-03-28T12:00", ["03-29 02:30 +0000", "03-30 02:30 +0000"]),
        ("Asia/Kolkata", "0 0 * * mon", "2026-03-28T12:00", ["03-30 00:00 +0530", "04-06 00:00 +0530"]),
    ],
)
def test_over_the_turns_of_the_clock(zone: str, cron: str, begin: str, expected: list[str]) -> None:
    assert [local(due, zone) for due in following(Cron(cron, zone), at(begin), len(expected))] == expected


def test_the_second_pass_of_a_repeated_hour_brings_nothing_again() -> None:
    timing = Cron("0,10,30 2 * * *", BERLIN)
    second_pass = at("2026-10-25T01:05")  # 02:05, for the second time

    assert local(following(timing, second_pass, 1)[0], BERLIN) == "10-26 02:00 +0100"
    assert local(next(timing.back_from(second_pass, 0.0)), BERLIN) == "10-25 02:30 +0200"


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01", ["2028-02-29", "2032-02-29"]),
        ("0 0 29 2 *", "2096-03-01", ["2104-02-29"]),  # 2100 is none
        ("0 0 * 2 mon#5", "2026-01-01", ["2044-02-29", "2072-02-29"]),
        ("0 0 31 * *", "2026-01-31", ["2026-03-31", "2026-05-31"]),
        ("0 0 l * *", "2026-02-01", ["2026-02-28", "2026-03-31"]),
        ("0 0 1 1 *", "2026-01-01", ["2027-01-01"]),
    ],
)
def test_rare_dates_are_found_without_a_search_day_by_day(cron: str, begin: str, expected: list[str]) -> None:
    timing = Cron(cron)

    found = following(timing, at(begin), len(expected))

    assert [datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%d") for due in found] == expected
    assert list(islice(timing.back_from(found[-1], 0.0), len(found))) == found[::-1]


@settings(max_examples=25, deadline=None)
@given(
    minute=st.sampled_from(["*/20", "0", "30", "0,45", "10-20"]),
    hour=st.sampled_from(["*", "*/2", "1", "2", "3", "1-3", "0,2"]),
    zone=st.sampled_from([BERLIN, NEW_YORK, "UTC"]),
    day=st.sampled_from(["2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01", "2026-06-01"]),
    offset=st.integers(0, 24 * 3600),
)
def test_from_any_moment_in_both_directions_it_is_the_same(minute: str, hour: str, zone: str, day: str, offset: int) -> None:
    timing = Cron(f"{minute} {hour} * * *", zone)
    begin = at(day) - 12 * 3600
    moment = begin + offset + 0.5
    passed = list(takewhile(lambda due: due <= moment, _one_by_one(timing, begin)))

    assert timing.next_after(moment, 0.0) == next(islice(_one_by_one(timing, begin), len(passed), None))
    assert list(takewhile(lambda due: due > begin, timing.back_from(moment, 0.0))) == passed[::-1]


def _one_by_one(timing: Timing, moment: float) -> Iterator[float]:
    while (due := timing.next_after(moment, 0.0)) is not None:
        yield due
        moment = due


@pytest.mark.parametrize("seconds", [1.0, 0.1 + 0.9, 7.3, 60.0, 86400.0])
def test_an_interval_keeps_its_beat(seconds: float) -> None:
    anchor, timing = 1_700_000_000.0, Every(seconds)

    assert following(timing, anchor, 3, anchor) == [anchor + n * seconds for n in (1, 2, 3)]
    for turn in (1, 2, 1000, 123_457):
        due = anchor + turn * seconds
        assert timing.next_after(due, anchor) == anchor + (turn + 1) * seconds
        assert timing.next_after(math.nextafter(due, 0), anchor) == due
        assert next(timing.back_from(due, anchor)) == due
    assert list(timing.back_from(anchor + 2.5 * seconds, anchor)) == [anchor + 2 * seconds, anchor + seconds]
    assert timing.next_after(anchor - 1000, anchor) == anchor + seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [(90, 90), (1.5, 1.5), ("90s", 90), ("15m", 900), ("1h30m", 5400), (" 2d ", 172_800), ("1.5h", 5400), ("1w", 604_800),
     (timedelta(minutes=5), 300)],
)  # fmt: skip
def test_intervals_as_people_write_them(value: Any, expected: float) -> None:
    assert seconds_of(value) == expected
