"""`avtomatika job`: jobs over the facade."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from avtomatika.cli.facade import Facade, ask, facade_options
from avtomatika.cli.output import console, json_option, show_json, show_table, status_text, when
from avtomatika.jobs import JobStatus

_POLL = 0.25


@click.group()
def job() -> None:
    """Jobs: submit, list, show, watch, history."""


@job.command()
@click.argument("blueprint")
@click.argument("data", required=False, default="{}")
@click.option("--priority", type=click.FloatRange(0, 10), default=0.0, help="0 to 10, highest first.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--watch", "watching", is_flag=True, help="Wait for its end and show how it goes.")
@facade_options
@json_option
def submit(
    blueprint: str, data: str, priority: float, tags: tuple[str, ...], watching: bool, url: str, data_dir: Path, as_json: bool
) -> None:
    """Create a job of BLUEPRINT. DATA is its initial data: a JSON object, @file, or @- for standard input."""
    body = {"blueprint": blueprint, "initial_data": _object(data), "priority": priority, "tags": list(tags)}

    async def talk(facade: Facade) -> Any:
        accepted = await facade.post("/api/v1/jobs", body)
        if not watching:
            return accepted
        return await _watch(facade, accepted["job_id"], live=not as_json)

    answer = ask(url, data_dir, talk)
    if watching:
        _end(answer, as_json)
    elif as_json:
        show_json(answer)
    else:
        click.echo(answer["job_id"])


@job.command("ls")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only these.")
@click.option("--blueprint", help="Only of this blueprint.")
@click.option("--tag", help="Only with this tag.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@facade_options
@json_option
def ls(status: str | None, blueprint: str | None, tag: str | None, limit: int, url: str, data_dir: Path, as_json: bool) -> None:
    """List jobs, newest first."""
    wanted = {"status": status, "blueprint": blueprint, "tag": tag, "limit": str(limit)}
    query = {name: value for name, value in wanted.items() if value is not None}
    answer = ask(url, data_dir, lambda facade: facade.get("/api/v1/jobs", **query))
    if as_json:
        show_json(answer)
        return
    show_table(
        ["job", "blueprint", "status", "state", "created"],
        [
            (item["id"], item["blueprint_name"], status_text(item["status"]), item["current_state"], when(item["created_at"]))
            for item in answer["jobs"]
        ],
    )


@job.command()
@click.argument("job_id")
@facade_options
@json_option
def show(job_id: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Show one job."""
    found = ask(url, data_dir, lambda facade: facade.get(f"/api/v1/jobs/{job_id}"))
    if as_json:
        show_json(found)
    else:
        console().print(_card(found))


@job.command()
@click.argument("job_id")
@facade_options
@json_option
def watch(job_id: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Follow a job to its end. Exit code 0 where it finished, 1 where it did not."""
    _end(ask(url, data_dir, lambda facade: _watch(facade, job_id, live=not as_json)), as_json)


@job.command()
@click.argument("job_id")
@facade_options
@json_option
def history(job_id: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Show what happened to a job, oldest first."""
    events = ask(url, data_dir, lambda facade: facade.get(f"/api/v1/jobs/{job_id}/history"))
    if as_json:
        show_json(events)
        return
    show_table(
        ["time", "event", "state", "next", "task", "worker", "attempt", "ms"],
        [
            (
                when(event["timestamp"]),
                event["event_type"],
                event["state"],
                event["next_state"],
                (event["task_id"] or "").partition("-")[0],
                event["worker_id"],
                event["attempt"],
                event["duration_ms"],
            )
            for event in events
        ],
    )


def _object(text: str) -> dict[str, Any]:
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as exc:
        raise click.UsageError(f"{text[1:]}: {exc.strerror}") from None
    except ValueError as exc:
        raise click.UsageError(f"DATA is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise click.UsageError('DATA must be a JSON object, e.g. \'{"name": "value"}\'')
    return value


def _over(found: dict[str, Any]) -> bool:
    return JobStatus(found["status"]).is_terminal


async def _watch(facade: Facade, job_id: str, *, live: bool) -> dict[str, Any]:
    terminal = Console()
    if not (live and terminal.is_terminal):
        say = click.echo if live else None
        return await _poll(facade, job_id, _teller(say) if say is not None else lambda found: None)
    with Live(console=terminal, refresh_per_second=8) as view:
        return await _poll(facade, job_id, lambda found: view.update(_card(found)))


async def _poll(facade: Facade, job_id: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = await facade.get(f"/api/v1/jobs/{job_id}")
        show(found)
        if _over(found):
            return found
        await asyncio.sleep(_POLL)


def _teller(say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    last: list[tuple[str, str]] = []

    def tell(found: dict[str, Any]) -> None:
        now = (found["status"], found["current_state"])
        if [now] != last:
            last[:] = [now]
            say(f"{found['id']} {now[0]} {now[1]}")

    return tell


def _end(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
    elif found["status"] != JobStatus.FINISHED:
        click.echo(f"{found['status']}: {found.get('error_message') or 'no reason is recorded'}", err=True)
    elif found.get("result") is not None:
        show_json(found["result"])
    sys.exit(0 if found["status"] == JobStatus.FINISHED else 1)


def _card(found: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("job", found["id"])
    table.add_row("blueprint", found["blueprint_name"])
    table.add_row("status", status_text(found["status"]))
    table.add_row("state", Text(str(found["current_state"])))
    progress = found.get("progress")
    if progress is not None:
        table.add_row("progress", f"{100 * progress:.0f} %")
    task = found.get("current_task")
    if task:
        place = f" on {task['worker_id']}" if task.get("worker_id") else ""
        table.add_row("task", Text(f"{task.get('type')}{place}, attempt {task.get('attempt')}"))
        _add_reason(table, task)
    waiting = found.get("waiting_for") or {}
    if waiting.get("kind") == "parallel_tasks":
        counts = [f"{waiting[name]} {name}" for name in ("done", "failed", "running", "waiting") if waiting.get(name) is not None]
        table.add_row("branches", Text(f"{', '.join(counts)} of {waiting['total']}"))
        first = waiting.get("first_waiting")
        if first:
            table.add_row("first waiting", Text(f"{first['type']}, branch {first['branch']}"))
            _add_reason(table, first)
    for name in ("error_message", "parent_job_id"):
        if found.get(name):
            table.add_row(name.replace("_", " "), Text(str(found[name])))
    for name in ("initial_data", "state_history", "result"):
        if found.get(name):
            table.add_row(name.replace("_", " "), Text(json.dumps(found[name], ensure_ascii=False, default=str)))
    table.add_row("created", when(found["created_at"]))
    table.add_row("updated", when(found["updated_at"]))
    return table


def _add_reason(table: Table, task: dict[str, Any]) -> None:
    """Why a task waits, or why the worker that has it was chosen, with the numbers of the pick."""
    if task.get("why"):
        table.add_row("why", Text(task["why"]))
    funnel = task.get("funnel") or task.get("decision")
    if not funnel:
        return
    if not task.get("funnel"):
        table.add_row("its worker", Text(str(funnel["reason"])))
    steps = Table(box=None, pad_edge=False, header_style="dim")
    shown = ("strategy", "known", "idle", "looked_at", "resources", "cost", "chosen")
    for name in shown:
        steps.add_column(name.replace("_", " "))
    steps.add_row(*(Text("" if funnel[name] is None else str(funnel[name])) for name in shown))
    table.add_row("funnel", steps)
