"""`avtomatika schedule`: what makes jobs by the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from avtomatika.cli.facade import ask, connected, facade_options
from avtomatika.cli.output import json_option, show_json, show_table, when
from avtomatika.client import calls
from avtomatika.client.calls import Call

_PAGE = 1000
_UNITS = ((7 * 86400, "w"), (86400, "d"), (3600, "h"), (60, "m"))


@click.group()
def schedule() -> None:
    """Schedules: list them, pause and resume them, make a job of one now."""


@schedule.command("list")
@facade_options
@json_option
def list_schedules(url: str, data_dir: Path, as_json: bool) -> None:
    """List schedules: when each is due next, and what it did last."""
    found: list[dict[str, Any]] = []
    with connected(url, data_dir) as client:
        while page := client.send(calls.schedules(limit=_PAGE, offset=len(found)).raw()):
            found += page
            if len(page) < _PAGE:
                break
    if as_json:
        show_json(found)
        return
    show_table(
        ["schedule", "blueprint", "due", "zone", "next", "last", "last job"],
        [
            (
                item["name"],
                item["blueprint_name"],
                _timing(item),
                item["timezone"] if item["cron"] else "",
                "paused" if item["paused"] else when(item["next_due_at"]),
                when((item["last"] or {}).get("due_at")),
                (item["last"] or {}).get("job_id"),
            )
            for item in found
        ],
    )


@schedule.command()
@click.argument("name")
@click.option("--count", default=5, show_default=True, type=click.IntRange(0, 100), help="How many of the next due times.")
@facade_options
@json_option
def show(name: str, count: int, url: str, data_dir: Path, as_json: bool) -> None:
    """Show a schedule and its next due times, in its own zone and in UTC."""
    _show(ask(url, data_dir, calls.schedule(name, count)), as_json)


@schedule.command()
@click.argument("name")
@facade_options
@json_option
def pause(name: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Pause a schedule: it makes no jobs until it is resumed."""
    _order(url, data_dir, calls.pause_schedule(name), as_json)


@schedule.command()
@click.argument("name")
@facade_options
@json_option
def resume(name: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Let a paused schedule go on with its next due time."""
    _order(url, data_dir, calls.resume_schedule(name), as_json)


@schedule.command()
@click.argument("name")
@facade_options
@json_option
def trigger(name: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Make a job of a schedule now, paused or not, and print its id."""
    answer = ask(url, data_dir, calls.trigger_schedule(name))
    if as_json:
        show_json(answer)
    else:
        click.echo(answer["job_id"])


def _order(url: str, data_dir: Path, call: Call[Any], as_json: bool) -> None:
    answer = ask(url, data_dir, call)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"{answer['name']} {'paused' if answer['paused'] else 'next ' + when(answer['next_due_at'])}")


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    last = found["last"] or {}
    paused = f"since {when(found['paused_at'])} by {found['paused_by'] or 'nobody known'}" if found["paused"] else ""
    rows = [
        ("schedule", found["name"]),
        ("blueprint", found["blueprint_name"]),
        ("due", _timing(found)),
        ("zone", found["timezone"] if found["cron"] else ""),
        ("catch up", found["catch_up"]),
        ("paused", paused),
        ("initial data", json.dumps(found["initial_data"], ensure_ascii=False) if found["initial_data"] else ""),
        ("tags", ", ".join(found["tags"])),
        ("client", found["client"]),
        ("written in", found["origin"]),
        ("last", f"{when(last['due_at'])}, job {last['job_id']}" if last else ""),
        ("missed", last.get("missed") or ""),
    ]
    show_table(["what", "is"], [row for row in rows if row[1] != ""])
    if found["next_firings"]:
        click.echo()
        show_table(["next, by its own clock", "UTC"], [(item["local"], item["utc"]) for item in found["next_firings"]])


def _timing(item: dict[str, Any]) -> str:
    if item["cron"]:
        return str(item["cron"])
    seconds = item["every_seconds"]
    for size, unit in _UNITS:
        if seconds % size == 0:
            return f"every {seconds // size:g}{unit}"
    return f"every {seconds:g}s"
