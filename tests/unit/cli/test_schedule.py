"""`avtomatika schedule`, against a real facade."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avtomatika.schedules.records import Firing, Schedule, ScheduleRecord
from tests.unit.cli.conftest import TOKEN, EndingService, Here, Run, serving


@pytest.fixture
def here() -> Iterator[Here]:
    service = EndingService()

    async def make() -> EndingService:
        now = time.time()
        for schedule in (
            Schedule("nightly", "hello", cron="30 2 * * *", timezone="Europe/Berlin", initial_data={"x": 1}, origin="s.toml:3"),
            Schedule("often", "hello", every=5400.0),
        ):
            record = ScheduleRecord(schedule, now, schedule.timing.next_after(now, now))
            await service.store.put_schedule(record, "", retimed=True)
            if schedule.name == "often":
                await service.store.fire_schedule(record, record.next_due, None, Firing(1_700_000_000.0, now, "the-job", 2))
        return service

    with serving(make) as here:
        yield here


@pytest.fixture
def schedule(run: Run, here: Here) -> Run:
    return lambda *arguments: run("schedule", *arguments, env={"AVTOMATIKA_URL": here.url, "CLIENT_TOKEN": TOKEN})


def test_list(schedule: Run) -> None:
    found = schedule("list")

    assert found.exit_code == 0
    header, nightly, often = found.output.splitlines()
    assert header.split() == ["schedule", "blueprint", "due", "zone", "next", "last", "last", "job"]
    assert nightly.split()[:7] == ["nightly", "hello", "30", "2", "*", "*", "*"]
    assert "Europe/Berlin" in nightly
    assert "every 90m" in often
    assert often.split()[-1] == "the-job"
    assert [item["name"] for item in json.loads(schedule("list", "--json").output)] == ["nightly", "often"]


def test_show(schedule: Run) -> None:
    found = schedule("show", "nightly", "--count", "2")

    assert found.exit_code == 0
    assert "s.toml:3" in found.output
    assert "T02:30:00+0" in found.output or "T03:00:00+0" in found.output
    assert len(json.loads(schedule("show", "nightly", "--count", "3", "--json").output)["next_firings"]) == 3
    assert "missed" in schedule("show", "often").output


def test_pause_and_resume(schedule: Run) -> None:
    assert schedule("pause", "nightly").output == "nightly paused\n"
    assert "paused" in schedule("list").output
    assert "by default" in schedule("show", "nightly").output
    assert json.loads(schedule("pause", "nightly", "--json").output)["paused"] is True
    assert schedule("resume", "nightly").output.startswith("nightly next 2")
    assert json.loads(schedule("resume", "nightly", "--json").output)["paused"] is False


def test_trigger(schedule: Run, here: Here) -> None:
    assert len(schedule("trigger", "nightly").output.strip()) == 36
    assert json.loads(schedule("trigger", "nightly", "--json").output)["status"] == "accepted"


@pytest.mark.parametrize("command", ["show", "pause", "resume", "trigger"])
def test_one_that_is_not_there(schedule: Run, command: str) -> None:
    found = schedule(command, "none")

    assert found.exit_code == 1
    assert "unknown schedule 'none'" in found.output


def test_doctor_looks_at_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "blueprints").mkdir()
    (tmp_path / "workers").mkdir()
    (tmp_path / "schedules.toml").write_text('[a]\nblueprint = "b"\nevery = 60\n')

    found = run("doctor", "--json", env={"SCHEDULES_CONFIG_PATH": "schedules.toml", "REDIS_URL": "redis://127.0.0.1:1/0"})

    assert "schedules.toml:2: there is no blueprint 'b'; there are none: check BLUEPRINTS_DIR" in "".join(
        json.loads(found.output)["problems"]
    )
