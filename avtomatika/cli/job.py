"""`avtomatika job`: jobs over the facade."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.table import Table
from rich.text import Text

from avtomatika.cli.facade import ask, connected, facade_options
from avtomatika.cli.orders import ORDERS
from avtomatika.cli.output import console, json_option, show_json, show_json_line, show_table, status_text, when
from avtomatika.cli.watching import follow, view_for
from avtomatika.client import calls
from avtomatika.client.blocking import Client
from avtomatika.jobs import JobStatus


@click.group()
def job() -> None:
    """Jobs: submit, watch, list, show, history, cancel, retry, pause, resume, decide."""


for order in ORDERS:
    job.add_command(order)


@job.command()
@click.argument("blueprint")
@click.argument("data", required=False, default="{}")
@click.option("--priority", type=click.FloatRange(0, 10), default=0.0, help="0 to 10, highest first.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--webhook-url", help="Is told when the job ends.")
@click.option("--idempotency-key", help="The same key and data again give the same job.")
@click.option("--watch", "watching", is_flag=True, help="Wait for its end and show how it goes.")
@facade_options
@json_option
def submit(
    blueprint: str,
    data: str,
    priority: float,
    tags: tuple[str, ...],
    webhook_url: str | None,
    idempotency_key: str | None,
    watching: bool,
    url: str,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Create a job of BLUEPRINT. DATA is its initial data: a JSON object, @file, or @- for standard input."""
    call = calls.submit(
        blueprint,
        read_object(data),
        priority=priority,
        tags=tags,
        webhook_url=webhook_url,
        idempotency_key=idempotency_key,
    )
    with connected(url, data_dir) as client:
        accepted = client.send(call.raw())
        if watching:
            _follow(client, accepted["job_id"], as_json)
    if as_json:
        show_json(accepted)
    else:
        click.echo(accepted["job_id"])


@job.command("ls")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only these.")
@click.option("--blueprint", help="Only of this blueprint.")
@click.option("--tag", help="Only with this tag.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@facade_options
@json_option
def ls(status: str | None, blueprint: str | None, tag: str | None, limit: int, url: str, data_dir: Path, as_json: bool) -> None:
    """List jobs, newest first."""
    answer = ask(url, data_dir, calls.page(status=status, blueprint=blueprint, tag=tag, limit=limit))
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
    found = ask(url, data_dir, calls.get(job_id))
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
    with connected(url, data_dir) as client:
        _follow(client, job_id, as_json)


@job.command()
@click.argument("job_id")
@facade_options
@json_option
def history(job_id: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Show what happened to a job, oldest first."""
    events = ask(url, data_dir, calls.history(job_id))
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


def read_object(text: str, what: str = "DATA") -> dict[str, Any]:
    """A JSON object from an argument: itself, ``@file``, or ``@-`` for standard input."""
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as exc:
        raise click.UsageError(f"{text[1:]}: {exc.strerror}") from None
    except ValueError as exc:
        raise click.UsageError(f"{what} is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f'{what} must be a JSON object, e.g. \'{{"name": "value"}}\'')
    return value


def _follow(client: Client, job_id: str, as_json: bool) -> NoReturn:
    """Shows the job until its end, then how it ended; leaves with the exit code that says so."""
    with view_for(as_json) as view:
        found = follow(client, job_id, view)
    finished = found["status"] == JobStatus.FINISHED
    if as_json:
        show_json_line(found)
    elif not finished:
        click.echo(f"{found['status']}: {found.get('error_message') or 'no reason is recorded'}", err=True)
    elif found.get("result") is not None:
        show_json(found["result"])
    sys.exit(0 if finished else 1)


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
    if waiting.get("kind") == "approval":
        table.add_row("question", Text(waiting["message"]))
        table.add_row("decisions", Text(", ".join(waiting["decisions"])))
        if waiting.get("deadline_at"):
            table.add_row("decide by", when(waiting["deadline_at"]))
    if found.get("webhook"):
        told = found["webhook"]
        table.add_row("webhook", Text(f"{told['status']}, {len(told['attempts'])} attempts shown"))
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
