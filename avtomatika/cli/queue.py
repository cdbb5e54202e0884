"""`avtomatika queue`: remote work as tasks, over the facade; and what this machine could run of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from avtomatika.cli.facade import connected, facade_options
from avtomatika.cli.job import read_object
from avtomatika.cli.operations import operations
from avtomatika.cli.output import console, json_option, show_json, show_json_line, show_table, status_text, when
from avtomatika.cli.watching import follow, view_for
from avtomatika.client import calls
from avtomatika.client.blocking import Client
from avtomatika.errors import BadRequestError, ConflictError, NotFoundError
from avtomatika.operations.types import TaskStatus

_GOOD = (TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.PAUSED)


@click.group()
def queue() -> None:
    """Remote work as tasks: push, status, task-status, cancel, manage, operations."""


queue.add_command(operations)


def _parameter(text: str) -> tuple[str, Any]:
    """``key=value``; the value is JSON where it reads as that, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r}: write it as key=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@queue.command()
@click.argument("task_type", metavar="TYPE")
@click.argument("params", required=False, default="{}")
@click.option(
    "-p", "--param", "single", multiple=True, help="key=value; the value is JSON, else text. May be given several times."
)
@click.option("--priority", type=click.FloatRange(0, 10), default=0.0, help="0 to 10, highest first.")
@click.option("--category", help="For filters.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--timeout", type=float, help="Seconds for an attempt.")
@click.option("--max-retries", type=click.IntRange(0, 100), help="Further attempts that it makes by itself.")
@click.option("--webhook-url", help="Is told when the task ends.")
@click.option("--idempotency-key", help="The same key and task again give the same task.")
@click.option("--watch", "watching", is_flag=True, help="Wait for its end and show how it goes.")
@facade_options
@json_option
def push(task_type: str, params: str, single: tuple[str, ...], url: str, data_dir: Path, as_json: bool, **options: Any) -> None:
    """Add a task of TYPE. PARAMS are its operation's: a JSON object, @file, or @- for standard input."""
    watching, timeout, key = options.pop("watching"), options.pop("timeout"), options.pop("idempotency_key")
    given = {name: value for name, value in options.items() if value not in (None, (), 0.0)}
    if timeout is not None:
        given["timeout_seconds"] = timeout
    body = {"task_type": task_type, "params": {**read_object(params, "PARAMS"), **dict(map(_parameter, single))}, **given}
    with connected(url, data_dir) as client:
        pushed = client.send(calls.queue("queue_push", body, idempotency_key=key))
        if pushed["note"]:
            click.echo(f"note: {pushed['note']}", err=True)
        if watching:
            _follow(client, pushed["task_id"], as_json)
    if as_json:
        show_json(pushed)
    else:
        click.echo(pushed["task_id"])


@queue.command()
@click.option("--status", type=click.Choice([status.value for status in TaskStatus]), help="Only these.")
@click.option("--type", "task_type", help="Only of this type.")
@click.option("--category", help="Only of this category.")
@click.option("--tag", help="Only with this tag.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@facade_options
@json_option
def status(limit: int, url: str, data_dir: Path, as_json: bool, **wanted: str | None) -> None:
    """Show the queue: numbers, and tasks, newest first."""
    given = {name: value for name, value in wanted.items() if value is not None}
    with connected(url, data_dir) as client:
        answer = client.send(calls.queue("queue_status", {**given, "limit": limit, "detailed": False}))
    if as_json:
        show_json(answer)
        return
    found = answer["queue_status"]
    summary, done = found["summary"], found["performance"]
    state = " - the queue is paused" if summary["paused"] else ""
    click.echo(f"{answer['message']}; {done['completed_tasks']} completed, {done['failed_tasks']} failed{state}")
    tasks = found["tasks"] if given else found["recent_tasks"][:limit]
    show_table(
        ["task", "type", "status", "progress", "step", "created", "duration", "error"],
        [
            (
                task["id"],
                task["task_type"],
                status_text(task["status"]),
                ProgressBar(100, task["progress"], width=10) if task["status"] == "running" else f"{task['progress']} %",
                task["current_step"],
                when(task["created_at"]),
                _seconds(task["duration"]),
                task["error_code"],
            )
            for task in tasks
        ],
    )


@queue.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="End them now, without waiting for their operations to stop.")
@facade_options
@json_option
def cancel(task_ids: tuple[str, ...], force: bool, url: str, data_dir: Path, as_json: bool) -> None:
    """Cancel tasks, whatever they do now."""
    _each(url, data_dir, task_ids, "queue_cancel", {"force": force} if force else {}, as_json)


@queue.command()
@click.argument("action", type=click.Choice(["pause", "resume", "retry", "cancel", "remove"]))
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True)
@facade_options
@json_option
def manage(action: str, task_ids: tuple[str, ...], url: str, data_dir: Path, as_json: bool) -> None:
    """Pause, resume, retry, cancel or remove tasks. A task on many hosts is retried on those that have not succeeded."""
    _each(url, data_dir, task_ids, "queue_manage", {"action": action}, as_json)


def _each(url: str, data_dir: Path, task_ids: tuple[str, ...], command: str, more: dict[str, Any], as_json: bool) -> None:
    """Does it with every task and says of each how it went; exit code 1 where one was refused, the others are done."""
    answers: list[dict[str, Any]] = []
    with connected(url, data_dir) as client:
        for task_id in task_ids:
            try:
                answer = client.send(calls.queue(command, {**more, "task_id": task_id}))
            except (NotFoundError, ConflictError, BadRequestError) as exc:
                answer = {"task_id": task_id, "error": str(exc)}
            answers.append(answer)
            if not as_json:
                click.echo(answer.get("error") or answer["message"], err="error" in answer or answer["status"] != "success")
    if as_json:
        show_json(answers)
    if any("error" in answer or answer["status"] != "success" for answer in answers):
        sys.exit(1)


@queue.command("task-status")
@click.argument("task_id")
@click.option("--logs", is_flag=True, help="With its log.")
@click.option("--watch", "watching", is_flag=True, help="Wait for its end and show how it goes.")
@facade_options
@json_option
def task_status(task_id: str, logs: bool, watching: bool, url: str, data_dir: Path, as_json: bool) -> None:
    """Show one task. Exit code 1 where it failed, was cancelled or timed out."""
    with connected(url, data_dir) as client:
        if watching:
            _follow(client, task_id, as_json)
        found = client.send(calls.queue("queue_task_status", {"task_id": task_id, "include_logs": logs}))
    if as_json:
        show_json(found)
    else:
        _show(found)
    sys.exit(_exit_code(found["task"]["status"]))


def _exit_code(status: str) -> int:
    return 1 if TaskStatus(status).is_final and status not in _GOOD else 0


def _follow(client: Client, task_id: str, as_json: bool) -> NoReturn:
    """Shows the task until its end, then what came of it; leaves with the exit code that says so."""
    with view_for(as_json) as view:
        follow(client, task_id, view)
    found = client.send(calls.queue("queue_task_status", {"task_id": task_id}))
    task = found["task"]
    if as_json:
        show_json_line(found)
    elif _exit_code(task["status"]):
        code = f" ({task['error_code']})" if task["error_code"] else ""
        click.echo(f"{task['status']}: {task['error'] or 'no reason is recorded'}{code}", err=True)
        for suggestion in (found["error_info"] or {}).get("suggestions", ()):
            click.echo(f"  - {suggestion}", err=True)
    elif task["result"] is not None:
        show_json(task["result"])
    sys.exit(_exit_code(task["status"]))


def _show(found: dict[str, Any]) -> None:
    task, info = found["task"], found["error_info"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    place = f", place {found['queue_position']}" if found["queue_position"] and task["status"] == "pending" else ""
    rows: list[tuple[str, Any]] = [
        ("task", task["id"]),
        ("type", task["task_type"]),
        ("does", task["command"]),
        ("status", Text.assemble(status_text(task["status"]), f"  {task['status_description']}{place}")),
        ("progress", f"{task['progress']} % {task['current_step']}".strip()),
        ("created", when(task["created_at"])),
        ("started", when(task["started_at"])),
        ("completed", when(task["completed_at"])),
        ("took", _seconds(task["duration"])),
        ("retries", f"{task['retry_count']} of {task['max_retries']}" if task["retry_count"] else ""),
        ("priority", task["priority"] or ""),
        ("category", task["category"]),
        ("tags", ", ".join(task["tags"])),
        ("error", f"{task['error']} ({task['error_code']})" if task["error_code"] else task["error"]),
        ("means", info["description"] if info else ""),
        *(("try", suggestion) for suggestion in (info or {}).get("suggestions", ())),
    ]
    for name, value in rows:
        if value not in (None, ""):
            table.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    console().print(table)
    _show_result(task["result"])
    for line in found["logs"] or ():
        click.echo(line)


def _show_result(result: Any) -> None:
    hosts = result.get("hosts") if isinstance(result, dict) and isinstance(result.get("summary"), dict) else None
    if hosts:
        click.echo()
        rows = [
            (host, status_text(row["status"]), row.get("batch"), row.get("error_code"), row.get("error"))
            for host, row in hosts.items()
        ]
        show_table(["host", "status", "batch", "code", "error"], rows)
    elif result is not None:
        click.echo()
        show_json(result)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
