"""What a schedule does about due times that nobody was there for."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.schedules.records import MOST_CAUGHT_UP, CatchUp, Schedule, ScheduleRecord, Turn, turn_of

ANCHOR = 1_700_000_000.0
HOUR = 3600.0


def due(turn: int) -> float:
    return ANCHOR + turn * HOUR


def a_record(catch_up: str, next_turn: int = 1, **timing: Any) -> ScheduleRecord:
    schedule = Schedule("s", "b", **(timing or {"every": HOUR}), catch_up=CatchUp(catch_up))
    return ScheduleRecord(schedule, ANCHOR, due(next_turn))


def turns(record: ScheduleRecord, now: float) -> list[Turn]:
    """All turns until it is not due any more."""
    found = []
    while record.next_due is not None and record.next_due <= now:
        found.append(turn_of(record, now))
        record = ScheduleRecord(record.schedule, record.anchor, found[-1].then)
    return found


@pytest.mark.parametrize("catch_up", list(CatchUp))
@pytest.mark.parametrize("late", [0.0, 0.4, 59.0])
def test_in_time_they_are_all_the_same(catch_up: str, late: float) -> None:
    assert turns(a_record(catch_up), due(1) + late) == [Turn(due(1), due(2))]


@pytest.mark.parametrize(
    ("catch_up", "now", "expected"),
    [
        ("none", due(4) + 100, [Turn(None, due(5), 4)]),
        ("none", due(4) + 59, [Turn(due(4), due(5), 3)]),  # the latest is in time, whatever came before
        ("last", due(4) + 100, [Turn(due(4), due(5), 3)]),
        ("last", due(1) + 100, [Turn(due(1), due(2), 0)]),
        ("all", due(3) + 100, [Turn(due(1), due(2)), Turn(due(2), due(3)), Turn(due(3), due(4))]),
    ],
)
def test_after_a_downtime(catch_up: str, now: float, expected: list[Turn]) -> None:
    assert turns(a_record(catch_up), now) == expected


@pytest.mark.parametrize("passed", [MOST_CAUGHT_UP, MOST_CAUGHT_UP + 1, 5000])
def test_all_is_bounded_to_the_latest(passed: int) -> None:
    found = turns(a_record("all"), due(passed) + 1)

    first = max(1, passed - MOST_CAUGHT_UP + 1)
    assert [turn.due for turn in found] == [due(n) for n in range(first, passed + 1)]
    assert found[-1].then == due(passed + 1)
    assert found[0].missed == (passed > MOST_CAUGHT_UP)


@pytest.mark.parametrize("catch_up", list(CatchUp))
def test_a_century_of_minutes_is_passed_over_at_once(catch_up: str) -> None:
    record = a_record(catch_up, cron="* * * * *")
    looked = 0

    class Counted:
        def next_after(self, moment: float, anchor: float) -> float | None:
            return record.schedule.timing.next_after(moment, anchor)

        def back_from(self, moment: float, anchor: float) -> Any:
            nonlocal looked
            for found in record.schedule.timing.back_from(moment, anchor):
                looked += 1
                yield found

    counted = Schedule("s", "b", cron="* * * * *", catch_up=CatchUp(catch_up))
    counted.__dict__["timing"] = Counted()

    turn = turn_of(ScheduleRecord(counted, ANCHOR, record.next_due), ANCHOR + 100 * 366 * 86400)

    assert turn.then is not None
    assert turn.missed > 0
    assert looked <= MOST_CAUGHT_UP + 1


def test_a_schedule_survives_its_record() -> None:
    schedule = Schedule("s", "b", cron="0 0 * * *", timezone="Europe/Berlin", tags=("t",), initial_data={"x": [1]})

    again = Schedule.from_dict(schedule.to_dict())

    assert (again, again.digest) == (schedule, schedule.digest)
    assert again.job_id("n", 1.0) == schedule.job_id("n", 1.0) != schedule.job_id("n", 2.0)
