"""What may be written in Python and in schedules.toml, and how the rest is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from avtomatika import tomlfile
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.errors import BlueprintError, ConfigurationError
from avtomatika.schedules.file import ScheduleBook, read_schedules
from avtomatika.schedules.records import CatchUp, Schedule
from avtomatika.settings import Settings, read_settings

#: Option and value that do not fit, in both languages, and a part of the message.
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "neither cron nor every; give it one of the two"),
    ({"cron": "* * * * *", "every": 60}, "both cron and every"),
    ({"cron": ""}, "has not five fields; write minute"),
    ({"cron": "* * * *"}, "has not five fields"),
    ({"cron": "0 * * * * *"}, "has not five fields"),
    ({"cron": "@reboot"}, "has not five fields"),
    ({"cron": "* " * 150}, "has not five fields"),
    ({"cron": "60 * * * *"}, "the minute of cron '60 * * * *' does not fit"),
    ({"cron": "* 24 * * *"}, "the hour of cron"),
    ({"cron": "* * 0 * *"}, "the day-of-month of cron"),
    ({"cron": "* * * 13 *"}, "the month of cron"),
    ({"cron": "* * * * 8"}, "the day-of-week of cron"),
    ({"cron": "*/0 * * * *"}, "the minute of cron"),
    ({"cron": "20-10 * * * *"}, "the minute of cron"),
    ({"cron": "0 0 30 2 *"}, "the day-of-month of cron"),
    ({"cron": "0 0 31 4,6,9,11 *"}, "the day-of-month of cron"),
    ({"cron": "\u0661 * * * *"}, "the minute of cron"),
    ({"cron": 5}, "cron must be a text, not a number"),
    ({"cron": "* * * * *", "timezone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
    ({"cron": "* * * * *", "timezone": "../../etc/passwd"}, "there is no time zone"),
    ({"cron": "* * * * *", "timezone": "America"}, "there is no time zone"),
    ({"cron": "* * * * *", "timezone": ""}, "there is no time zone"),
    ({"cron": "* * * * *", "timezone": 1}, "timezone must be a text"),
    ({"every": 60, "timezone": "UTC"}, "an interval has no time zone"),
    ({"every": 0}, "every must be from one second"),
    ({"every": -60}, "every must be from one second"),
    ({"every": 0.5}, "every must be from one second"),
    ({"every": "9999w"}, "every must be from one second to ten years"),
    ({"every": float("nan")}, "every must be from one second"),
    ({"every": float("inf")}, "every must be from one second"),
    ({"every": "15 minutes"}, "every '15 minutes' is no interval; write seconds"),
    ({"every": "m"}, "is no interval"),
    ({"every": True}, "is no interval"),
    ({"every": 60, "catch_up": "some"}, 'catch_up \'some\' is unknown; write one of "none", "last", "all"'),
    ({"every": 60, "initial_data": []}, "initial_data must be an object"),
    ({"every": 60, "initial_data": {"schedule": 1}}, "initial_data has 'schedule'"),
    ({"every": 60, "initial_data": {"x": float("nan")}}, "initial_data is not JSON"),
    ({"every": 60, "tags": "reports"}, "tags must be an array of texts, not a text"),
    ({"every": 60, "tags": [""]}, "a tag is a text of 1 to 200 characters"),
    ({"every": 60, "tags": [1]}, "a tag is a text of 1 to 200 characters"),
    ({"every": 60, "tags": ["x"] * 51}, "there are 51 tags"),
    ({"every": 60, "tags": ["schedule:other"]}, "begins as those that name schedules"),
    ({"every": 60, "priority": 11}, "priority 11 does not fit"),
    ({"every": 60, "priority": True}, "priority True does not fit"),
]
BAD_IN_TOML: list[tuple[dict[str, Any], str]] = [
    ({"every": 60, "client": 5}, "client 5 does not fit"),
    ({"every": 60, "client": {"plan": "gold"}}, "client {'plan': 'gold'} does not fit"),
    ({"every": 60, "client": {"name": "acme", "admin": True}}, "'admin' of client does not fit"),
    ({"every": 60, "client": {"name": "acme", "params": {"webhook_url": "https://x.example"}}}, "name a webhook"),
    ({"every": 60, "catchup": "all"}, "a schedule has no 'catchup'; did you mean 'catch_up'?"),
    ({"every": 60, "colour": 1}, "a schedule has no 'colour'; there are cron, every"),
]


def a_blueprint(name: str = "report") -> Blueprint:
    blueprint = Blueprint(name)
    blueprint.handler_for("start", is_start=True, is_end=True)(lambda: None)
    return blueprint


def a_registry(*blueprints: Blueprint) -> BlueprintRegistry:
    registry = BlueprintRegistry()
    for blueprint in blueprints or (a_blueprint(),):
        registry.register(blueprint)
    return registry


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else repr(value)


Write = Callable[[str], Settings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes schedules.toml; the settings that name it."""

    def write(text: str) -> Settings:
        path = tmp_path / "schedules.toml"
        path.write_text(text, encoding="utf-8")
        return read_settings(schedules_config_path=path)

    return write


@pytest.mark.parametrize(("options", "words"), BAD, ids=[str(options)[:60] for options, _ in BAD])
def test_a_misfit_in_python_names_file_line_and_fix(options: dict[str, Any], words: str) -> None:
    blueprint = a_blueprint()

    with pytest.raises(BlueprintError) as refused:
        blueprint.schedule(**options)

    assert words in str(refused.value)
    assert str(refused.value).startswith(f"{__file__}:")
    assert "; " in str(refused.value)
    assert blueprint.schedules == ()


@pytest.mark.parametrize(("options", "words"), BAD + BAD_IN_TOML, ids=[str(options)[:60] for options, _ in BAD + BAD_IN_TOML])
def test_a_misfit_in_the_file_names_its_line(write: Write, options: dict[str, Any], words: str) -> None:
    lines = ["[fine]", 'blueprint = "report"', "every = 60", "", "[bad]", 'blueprint = "report"']
    lines += [f"{key} = {_toml(value)}" for key, value in options.items()]
    settings = write("\n".join(lines))

    with pytest.raises(ConfigurationError) as refused:
        read_schedules(settings, a_registry())

    assert words in str(refused.value)
    line = 5 + len(options) + bool(options)  # of what is wrong, which is the last of them; else of the table
    assert str(refused.value).startswith(f"{settings.schedules_config_path}:{line}: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every = 60\n", ":1: 'every' stands outside of a table"),
        ("[a]\nevery = 60\n", ":1: [a] names no blueprint"),
        ("[a]\nblueprint = 5\n", ":2: [a] names no blueprint"),
        ('[a]\nevery = 60\nblueprint = "nothing"\n', ":3: there is no blueprint 'nothing'; there are report"),
        ("[a.b]\nevery = 60\n", ':1: [a] says nothing itself; a name with dots needs quotes, ["a.…"]'),
        ('["a b"]\nblueprint = "report"\nevery = 60\n', ":1: the schedule's name 'a b' does not fit"),
        ("[a]\nevery = \n", ":2: this is not TOML"),
        ('[a]\nblueprint = "report"\nevery = 60\ninitial_data = {day = 2026-01-01}\n', ":4: initial_data is not JSON"),
    ],
)
def test_a_file_that_does_not_fit(write: Write, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_schedules(write(text), a_registry())

    assert words in str(refused.value)


def test_all_that_a_file_may_say(write: Write) -> None:
    settings = write("""
[nightly]
blueprint = "report"
cron = "30  2 * * MON-fri"
timezone = "Europe/Berlin"
catch_up = "all"
initial_data = {day = "yesterday", parts = [1, 2]}
tags = ["reports"]
priority = 5
client = {name = "acme", plan = "gold", params = {languages = ["de"]}}

["every.quarter"]
blueprint = "report"
every = "15m"
client = "acme"
""")

    found = read_schedules(settings, a_registry())

    nightly, quarter = found["nightly"], found["every.quarter"]
    assert (nightly.cron, nightly.timezone, nightly.catch_up) == ("30 2 * * MON-fri", "Europe/Berlin", CatchUp.ALL)
    assert (nightly.initial_data, nightly.tags, nightly.priority) == (
        {"day": "yesterday", "parts": [1, 2]},
        ("reports",),
        5.0,
    )
    assert (nightly.client.name, nightly.client.plan, nightly.client.admin) == ("acme", "gold", False)
    assert nightly.client.params == {"languages": ["de"]}
    assert nightly.origin == f"{settings.schedules_config_path}:2"
    assert (quarter.every, quarter.client.name, quarter.catch_up) == (900.0, "acme", CatchUp.LAST)


def test_thousands_in_a_file_are_looked_for_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = write("\n".join(f'[s{n}]\nblueprint = "report"\nevery = 60' for n in range(1000)))
    looked = 0

    def counted(words: str) -> tuple[str, ...]:
        nonlocal looked
        looked += 1
        return header(words)

    header = tomlfile._header
    monkeypatch.setattr(tomlfile, "_header", counted)

    found = read_schedules(settings, a_registry())

    assert found["s999"].origin == f"{settings.schedules_config_path}:2998"
    assert looked == 1000


def test_a_blueprint_with_schedules_of_its_own() -> None:
    blueprint = Blueprint("report")

    @blueprint.schedule(cron="@daily", timezone="Europe/Berlin", initial_data={"size": "small"}, tags=["reports"])
    @blueprint.handler_for("start", is_start=True, is_end=True)
    async def start() -> None: ...

    blueprint.schedule(every=timedelta(hours=1), name="hourly", catch_up="none", priority=2)

    found = read_schedules(read_settings(), a_registry(blueprint))
    daily, hourly = found["report"], found["hourly"]
    assert (daily.cron, daily.timezone, daily.initial_data) == ("0 0 * * *", "Europe/Berlin", {"size": "small"})
    assert (hourly.every, hourly.catch_up, hourly.priority) == (3600.0, CatchUp.NONE, 2.0)
    assert daily.origin.startswith(f"{__file__}:")


def test_what_python_refuses_besides(write: Write) -> None:
    blueprint = Blueprint("report")
    blueprint.schedule(every=60)
    with pytest.raises(BlueprintError, match=r"has a second schedule 'report', the first is in .*; give it another name="):
        blueprint.schedule(every=90)
    with pytest.raises(BlueprintError, match="the schedule's name 'a b' does not fit"):
        blueprint.schedule(every=90, name="a b")

    blueprint.handler_for("start", is_start=True, is_end=True)(lambda: None)
    settings = write('[report]\nblueprint = "report"\nevery = 60\n')
    with pytest.raises(ConfigurationError, match=r":1: there is a schedule 'report' already, of blueprint 'report' \(.*\.py:"):
        read_schedules(settings, a_registry(blueprint))
    with pytest.raises(BlueprintError, match="is registered already"):
        blueprint.schedule(every=60, name="too-late")

    other = a_blueprint("other")
    other.schedule(every=60, name="report")
    registry = a_registry(blueprint)
    with pytest.raises(BlueprintError, match="a schedule named 'report' is there already, from "):
        registry.register(other)
    assert "other" not in registry


def test_a_schedule_stands_on_what_a_job_begins_with() -> None:
    blueprint = Blueprint("report")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    @blueprint.schedule(every=60)
    async def end() -> None: ...

    with pytest.raises(BlueprintError, match="stands on end, with which no job begins; put it on the handler of the start"):
        blueprint.freeze()


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    assert read_settings().schedules_path is None
    beside = read_settings(clients_config_path=clients)
    assert beside.schedules_path == tmp_path / "schedules.toml"
    assert read_schedules(beside, a_registry()) == {}  # it need not be there

    named = read_settings(clients_config_path=clients, schedules_config_path=tmp_path / "other.toml")
    with pytest.raises(ConfigurationError, match=r"SCHEDULES_CONFIG_PATH names .*other\.toml, which cannot be read"):
        read_schedules(named, a_registry())


def _names(book: ScheduleBook) -> list[str]:
    return sorted(book.current)


def _touch(path: Path, text: str) -> None:
    path.write_text(text)
    stamp = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(stamp, stamp))


def test_the_file_is_read_again_and_a_bad_one_keeps_the_old(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    settings = write('[a]\nblueprint = "report"\nevery = 60\n')
    path = settings.schedules_config_path
    assert path is not None
    book = ScheduleBook(settings, a_registry())
    assert _names(book) == ["a"]

    _touch(path, '[b]\nblueprint = "report"\nevery = 60\n')
    book.refresh()
    assert _names(book) == ["b"]
    _touch(path, '[c]\nblueprint = "report"\nevery = "often"\n')
    book.refresh()

    assert _names(book) == ["b"]
    assert f"{path}:3: every 'often' is no interval" in caplog.text
    caplog.clear()
    book.refresh()
    assert caplog.text == ""  # an error is told once a change


def test_equal_digests_say_the_same() -> None:
    first = Schedule("s", "b", every=60.0)
    assert first.digest == Schedule("s", "b", every=60.0).digest
    for other in (
        Schedule("s", "b", every=61.0),
        Schedule("s", "b", every=60.0, initial_data={"x": 1}),
        Schedule("s", "c", every=60.0),
    ):
        assert first.digest != other.digest
