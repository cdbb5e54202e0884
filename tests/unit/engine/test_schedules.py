"""The scheduler on a clock of the test's own: a due time has one job, over turns of the clock, downtimes, pauses and reloads."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine import schedule_orders, schedules
from avtomatika.engine.schedules import ABSENT_SECONDS, Scheduler
from avtomatika.errors import StoreUnavailableError, UnknownScheduleError, WrongStateError
from avtomatika.jobs import Job, JobStatus
from avtomatika.schedules.file import ScheduleBook
from avtomatika.schedules.records import Schedule
from avtomatika.schedules.timing import zone_of
from tests.support.machine import Machine
from tests.support.polling import eventually_async

HOUR = 3600.0
HOURLY = 'every = "1h"'


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Clock:
    """A machine whose orchestrator has a scheduler; `begin` is what time it is."""

    def __init__(self, begin: str | float, *, file: Path | None = None, push: bool = True, **schedule: Any) -> None:
        self.blueprint = Blueprint("report")
        self.blueprint.handler_for("start", is_start=True, is_end=True)(lambda schedule: schedule["due_at"])
        if schedule:
            self.blueprint.schedule(**schedule)
        self.machine = Machine(self.blueprint, push=push, schedules_config_path=file)
        self.machine.now = at(begin) if isinstance(begin, str) else begin
        self.store = self.machine.store
        self.machine._orchestrate()
        self.book = ScheduleBook(self.machine.settings, self.machine.registry)
        self.scheduler = self.another()

    def another(self) -> Scheduler:
        """A scheduler of another process."""
        return Scheduler(self.machine.engine, self.book)

    async def passes(self, seconds: float, step: float = 600.0, scheduler: Scheduler | None = None) -> None:
        """Time passes, and the scheduler looks each step."""
        end = self.machine.now + seconds
        while self.machine.now < end:
            self.machine.now = min(end, self.machine.now + step)
            await (scheduler or self.scheduler).round()

    async def jobs(self) -> list[Job]:
        """Oldest first."""
        return sorted(await self.store.list_jobs(limit=100_000), key=lambda job: job.initial_data["schedule"]["due_at"])

    async def due_times(self, zone: str = "UTC", form: str = "%d %H:%M") -> list[str]:
        found = [datetime.fromisoformat(job.initial_data["schedule"]["due_at"]) for job in await self.jobs()]
        return [due.astimezone(zone_of(zone)).strftime(form) for due in found]


@pytest.mark.parametrize(
    ("zone", "cron", "begin", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T00:00", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T00:00", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        ("America/New_York", "30 2 * * *", "2026-03-07T05:00", ["07 02:30 -0500", "08 03:00 -0400", "09 02:30 -0400"]),
        ("America/New_York", "30 1 * * *", "2026-10-31T04:00", ["31 01:30 -0400", "01 01:30 -0400", "02 01:30 -0500"]),
    ],
)
async def test_one_job_a_night_over_the_turns_of_the_clock(zone: str, cron: str, begin: str, expected: list[str]) -> None:
    clock = Clock(begin, cron=cron, timezone=zone)

    await clock.scheduler.round()
    await clock.passes(3 * 24 * HOUR)

    assert await clock.due_times(zone, "%d %H:%M %z") == expected


async def test_a_job_says_what_made_it_and_runs() -> None:
    clock = Clock("2026-06-01T00:00", every="1h", name="hourly", initial_data={"size": 3}, tags=["t"], priority=4)
    await clock.scheduler.round()

    await clock.passes(HOUR)
    await clock.machine.start()
    await clock.machine.drive()

    (job,) = await clock.jobs()
    assert job.initial_data == {"size": 3, "schedule": {"name": "hourly", "due_at": "2026-06-01T01:00:00.000Z"}}
    assert (job.tags, job.priority, job.status) == (("t", "schedule:hourly"), 4.0, JobStatus.FINISHED)
    assert job.result == "2026-06-01T01:00:00.000Z"
    record = await clock.store.schedule("hourly")
    assert record is not None
    assert record.last is not None
    assert (record.last.job_id, record.last.due) == (job.id, at("2026-06-01T01:00"))


async def test_without_a_push_its_message_goes_through_the_outbox() -> None:
    clock = Clock("2026-06-01T00:00", every="1h", push=False)
    await clock.scheduler.round()
    await clock.passes(HOUR)

    assert len(clock.machine.queue) == 1
    assert await clock.store.outbox(clock.machine.now) == []


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", ["01 01:00", "01 07:00"]),
        ("last", ["01 01:00", "01 06:00", "01 07:00"]),
        ("all", [f"01 0{h}:00" for h in range(1, 8)]),
    ],
)
async def test_after_a_downtime(catch_up: str, expected: list[str]) -> None:
    clock = Clock("2026-06-01T00:00", every="1h", catch_up=catch_up)
    await clock.scheduler.round()
    await clock.passes(HOUR)

    clock.machine.now += 5.5 * HOUR  # nobody is there
    await clock.passes(0.5 * HOUR + 60, scheduler=clock.another())

    assert await clock.due_times() == expected


async def test_a_year_of_minutes_is_caught_up_in_a_bounded_way(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock("2026-06-01T00:00", cron="* * * * *", catch_up="all")
    await clock.scheduler.round()

    clock.machine.now += 365 * 24 * HOUR
    await clock.scheduler.round()

    jobs = await clock.jobs()
    assert len(jobs) == 100
    assert jobs[-1].initial_data["schedule"]["due_at"] == "2027-06-01T00:00:00.000Z"
    assert "passes over" in caplog.text


async def test_two_at_once_make_one_job_each_time() -> None:
    clock = Clock("2026-06-01T00:00", every=60, catch_up="all")
    schedulers = [clock.scheduler, clock.another(), clock.another()]
    await asyncio.gather(*(scheduler.round() for scheduler in schedulers))

    for _ in range(10):
        clock.machine.now += 150
        await asyncio.gather(*(scheduler.round() for scheduler in schedulers))

    due = await clock.due_times("UTC", "%H:%M")
    assert due == [f"00:{minute:02}" for minute in range(1, 26)]
    assert len(clock.machine.queue) == 25


async def test_one_that_slept_with_its_work_in_hand_makes_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock("2026-06-01T00:00", every="1h", catch_up="all")
    await clock.scheduler.round()
    clock.machine.now += HOUR
    asleep, awake = asyncio.Event(), asyncio.Event()
    fire = clock.store.fire_schedule

    async def sleeps(*args: Any) -> Any:
        if not asleep.is_set():
            asleep.set()
            await awake.wait()
        return await fire(*args)

    monkeypatch.setattr(clock.store, "fire_schedule", sleeps)
    frozen = asyncio.ensure_future(clock.scheduler.round())
    await asleep.wait()
    await clock.another().round()
    await clock.passes(2 * HOUR, scheduler=clock.another())
    awake.set()
    await frozen

    assert await clock.due_times() == ["01 01:00", "01 02:00", "01 03:00"]
    assert len(clock.machine.queue) == 3


async def test_a_due_time_whose_job_is_there_is_passed() -> None:
    clock = Clock("2026-06-01T00:00", every="1h", catch_up="all")
    await clock.scheduler.round()
    before = await clock.store.schedule("report")
    assert before is not None
    await clock.passes(HOUR)
    await clock.store.drop_schedule("report", before.schedule.digest)
    await clock.store.put_schedule(before, "", retimed=True)  # set back

    await clock.passes(HOUR)

    assert await clock.due_times() == ["01 01:00", "01 02:00"]


# --- Pause, resume, trigger ----------------------------------------------------------------------------------------------------


async def test_a_pause_lasts_over_a_restart_and_is_not_made_up_for() -> None:
    clock = Clock("2026-06-01T00:00", every="1h", catch_up="all")
    await clock.scheduler.round()
    await clock.passes(HOUR)
    paused = await schedule_orders.pause(clock.store, "report", clock.machine.now, "ada")
    assert paused.pause is not None
    assert (await schedule_orders.pause(clock.store, "report", clock.machine.now + 1, "bob")).pause == paused.pause

    await clock.passes(3 * HOUR, scheduler=clock.another())
    assert await clock.due_times() == ["01 01:00"]
    resumed = await schedule_orders.resume(clock.store, "report", clock.machine.now)
    assert (resumed.pause, resumed.next_due) == (None, clock.machine.now + HOUR)
    assert await schedule_orders.resume(clock.store, "report", clock.machine.now) == resumed
    await clock.passes(2 * HOUR)

    assert await clock.due_times() == ["01 01:00", "01 05:00", "01 06:00"]


async def test_orders_on_what_is_not_there_or_never_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock("2026-06-01T00:00", every="1h")
    for order in (schedule_orders.pause, schedule_orders.resume):
        with pytest.raises(UnknownScheduleError, match="unknown schedule 'report'; `avtomatika schedule list` shows"):
            await order(clock.store, "report", clock.machine.now)
    await clock.scheduler.round()

    async def changes(*_: Any) -> bool:
        return False

    monkeypatch.setattr(clock.store, "pause_schedule", changes)
    with pytest.raises(WrongStateError, match="changes all the time; try again"):
        await schedule_orders.pause(clock.store, "report", clock.machine.now)


async def test_the_view_shows_both_clocks() -> None:
    clock = Clock("2026-10-24T12:00", cron="30 2 * * *", timezone="Europe/Berlin")
    await clock.scheduler.round()
    record = await schedule_orders.find(clock.store, "report")

    view = schedule_orders.schedule_details(record, clock.machine.now, 3)

    assert view["next_firings"] == [
        {"utc": "2026-10-25T00:30:00.000Z", "local": "2026-10-25T02:30:00+02:00"},
        {"utc": "2026-10-26T01:30:00.000Z", "local": "2026-10-26T02:30:00+01:00"},
        {"utc": "2026-10-27T01:30:00.000Z", "local": "2026-10-27T02:30:00+01:00"},
    ]
    assert (view["next_due_at"], view["last"], view["paused"]) == ("2026-10-25T00:30:00.000Z", None, False)


# --- The file ------------------------------------------------------------------------------------------------------------------


def _write(path: Path, **schedules: str) -> None:
    path.write_text("\n".join(f'[{name}]\nblueprint = "report"\n{rest}' for name, rest in schedules.items()))
    stamp = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(stamp, stamp))


async def test_what_changes_in_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "schedules.toml"
    _write(path, stays=HOURLY, changes=HOURLY, grows=HOURLY, goes=HOURLY)
    clock = Clock("2026-06-01T00:00", file=path)
    await clock.scheduler.round()
    for name in ("changes", "grows"):
        await schedule_orders.pause(clock.store, name, clock.machine.now, "ada")
    await clock.passes(0.5 * HOUR)
    before = {record.schedule.name: record for record in await clock.store.schedules()}

    _write(path, stays=HOURLY, changes='every = "2h"', grows=f"{HOURLY}\npriority = 5", comes='every = "1m"')
    clock.book.refresh()
    await clock.scheduler.round()
    await clock.passes(ABSENT_SECONDS, ABSENT_SECONDS)

    after = {record.schedule.name: record for record in await clock.store.schedules()}
    assert sorted(after) == ["changes", "comes", "grows", "stays"]
    assert after["stays"] == before["stays"]
    assert after["changes"].pause == after["grows"].pause == before["changes"].pause
    assert after["changes"].next_due == at("2026-06-01T02:30")  # a new beat, from now on
    assert after["grows"].next_due == before["grows"].next_due  # the old one
    assert after["grows"].schedule.priority == 5.0
    await clock.passes(HOUR)
    names = Counter(job.initial_data["schedule"]["name"] for job in await clock.jobs())
    assert (names["stays"], names["goes"], names["changes"], names["comes"] > 0) == (1, 0, 0, True)


async def test_a_file_that_is_empty_for_a_moment_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "schedules.toml"
    _write(path, a=HOURLY)
    clock = Clock("2026-06-01T00:00", file=path)
    await clock.scheduler.round()
    clock.machine.now += HOUR - 1
    _write(path)
    clock.book.refresh()
    await clock.scheduler.round()
    clock.machine.now += 2
    await clock.scheduler.round()
    assert await clock.jobs() == []  # for what is not in the file nothing is made

    _write(path, a=HOURLY)
    clock.book.refresh()
    await clock.scheduler.round()

    assert await clock.due_times() == ["01 01:00"]


async def test_another_leader_s_schedules_are_put_right() -> None:
    clock = Clock("2026-06-01T00:00", every="1h")
    old = clock.another()
    old.book = ScheduleBook(clock.machine.settings, clock.machine.registry)
    old.book.current = {"stale": Schedule("stale", "report", every=60.0)}
    await clock.scheduler.round()
    await old.round()
    assert sorted(await clock.store.schedule_digests()) == ["report", "stale"]

    await clock.passes(60, 5)

    assert sorted(await clock.store.schedule_digests()) == ["report"]
    assert await clock.jobs() == []  # it fires only what it knows itself


# --- Its work ------------------------------------------------------------------------------------------------------------------


class Counting:
    """Counts what a store is asked."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self.store, name)


async def test_many_schedules_cost_bounded_work_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "_PUT_A_ROUND", 50)
    monkeypatch.setattr(schedules, "_FIRED_A_ROUND", 100)
    clock = Clock("2026-06-01T00:00")
    clock.book.current = {f"s{n:04}": Schedule(f"s{n:04}", "report", every=60.0) for n in range(150)}
    clock.scheduler.store = counting = Counting(clock.store)

    async def round_asks() -> Counter[str]:
        counting.asked.clear()
        await clock.scheduler.round()
        return counting.asked.copy()

    assert [(await round_asks())["put_schedule"] for _ in range(4)] == [50] * 3 + [0]
    assert await round_asks() == {"due_schedules": 1}  # nothing is due: one question, however many there are
    clock.machine.now += 60
    fired = [await round_asks() for _ in range(3)]
    assert [asks["fire_schedule"] for asks in fired] == [100, 50, 0]
    assert all(asks["due_schedules"] <= 21 for asks in fired)
    assert len(await clock.jobs()) == 150


async def test_one_that_fails_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock("2026-06-01T00:00", every="1h")
    clock.book.current = {**clock.book.current, "bad": Schedule("bad", "nobody has it", every=HOUR)}
    await clock.scheduler.round()

    await clock.passes(HOUR, HOUR)
    await clock.scheduler.round()

    assert [job.blueprint_name for job in await clock.jobs()] == ["report"]
    assert caplog.text.count("schedule bad failed; it is tried again") == 1


async def test_it_works_while_it_leads_and_waits_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock("2026-06-01T00:00", every="1h")
    leads, away, asked = False, True, 0
    digests = clock.store.schedule_digests

    async def maybe_away() -> dict[str, str]:
        nonlocal asked
        asked += 1
        if away:
            raise StoreUnavailableError("away")
        return await digests()

    monkeypatch.setattr(clock.store, "schedule_digests", maybe_away)
    monkeypatch.setattr("avtomatika.engine.schedules.TICK_SECONDS", 0.001)
    looks = 0

    def lead() -> bool:
        nonlocal looks
        looks += 1
        return leads

    running = asyncio.ensure_future(clock.scheduler.run(lead))

    async def look(condition: Any) -> None:
        async def holds() -> Any:
            return condition()

        await eventually_async(holds, interval=0.001)

    await look(lambda: looks > 2)
    assert asked == 0
    leads = True
    await look(lambda: asked > 2)
    away = False
    await look(lambda: clock.store._schedules)
    clock.machine.now += HOUR
    await look(lambda: clock.store._jobs)

    running.cancel()
    assert await clock.due_times() == ["01 01:00"]
