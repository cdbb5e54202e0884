"""`avtomatika quarantine`: jobs that were given up, with why; another try for them, or an end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from avtomatika.cli.facade import ask, connected, facade_options
from avtomatika.cli.kinds import duration, json_object
from avtomatika.cli.orders import give
from avtomatika.cli.output import console, json_option, show_json, show_table, when
from avtomatika.client import calls
from avtomatika.client.blocking import Client

F = TypeVar("F", bound=Callable[..., Any])

_PAGE = 200


def filter_options(command: F) -> F:
    """Adds what says which quarantined jobs are meant."""
    for option in (
        click.option("--newer-than", type=duration, metavar="TIME", help="There for less than that."),
        click.option("--older-than", type=duration, metavar="TIME", help="There for longer than that: 90s, 30m, 2h, 7d."),
        click.option("--matching", help="With this text in the error message."),
        click.option("--code", help="With this code of the failure, such as TRANSIENT_ERROR."),
        click.option("--blueprint", help="Only of this blueprint."),
    ):
        command = option(command)
    return command


def edit_options(command: F) -> F:
    """Adds what is changed about a job before it is tried again."""
    for option in (
        click.option("--state", help="Go on with this state, instead of the one in which it went wrong."),
        click.option("--state-history", type=json_object, metavar="JSON", help="Merge patch (JSON) for its state_history."),
        click.option("--initial-data", type=json_object, metavar="JSON", help="Merge patch (JSON) for its initial_data."),
    ):
        command = option(command)
    return command


@click.group()
def quarantine() -> None:
    """Jobs that were given up after their retries: list, show, try again, discard; or put one there by hand."""


@click.command("ls")
@filter_options
@click.option("--limit", type=click.IntRange(1, 1000), default=1000, show_default=True)
@facade_options
@json_option
def ls(limit: int, url: str, data_dir: Path, as_json: bool, **filters: Any) -> None:
    """List quarantined jobs, with why, those that came last first."""
    call = calls.quarantined(**_named(filters), limit=limit)
    answer = ask(url, data_dir, call)
    if as_json:
        show_json(answer)
        return
    show_table(
        ["job", "blueprint", "state", "since", "task", "tries", "why"],
        [
            (
                item.id,
                item.blueprint_name,
                item.current_state,
                when(item.quarantined_at),
                item.task,
                item.attempts or "",
                item.error_message,
            )
            for item in call.parse(answer)
        ],
    )


quarantine.add_command(ls)
quarantine.add_command(ls, "list")


@quarantine.command()
@click.argument("job_id")
@facade_options
@json_option
def show(job_id: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Show one: why, since when, over which attempt, with which params."""
    found = ask(url, data_dir, calls.quarantined_job(job_id))
    if as_json:
        show_json(found)
    else:
        console().print(_card(found))


@quarantine.command()
@click.argument("job_ids", metavar="[JOB_ID...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are quarantined now.")
@filter_options
@edit_options
@click.option("--limit", type=click.IntRange(1), help="Of those that fit, so many at most.")
@click.option("--dry-run", is_flag=True, help="Only say which they are.")
@facade_options
@json_option
def retry(
    job_ids: tuple[str, ...],
    everything: bool,
    initial_data: dict[str, Any] | None,
    state_history: dict[str, Any] | None,
    state: str | None,
    limit: int | None,
    dry_run: bool,
    url: str,
    data_dir: Path,
    as_json: bool,
    **filters: Any,
) -> None:
    """Let quarantined jobs try again: those named, those that fit the options, or --all."""
    edit: Any = {"initial_data": initial_data, "state_history": state_history, "state": state}
    named = _checked(job_ids, everything, filters, limit, dry_run)
    with connected(url, data_dir) as client:
        if job_ids:
            give(client, job_ids, lambda job_id: calls.retry(job_id, **edit), as_json)
        else:
            _give_all(client, partial(calls.retry_quarantined, named, **edit), "retry_accepted", limit, dry_run, as_json)


@quarantine.command()
@click.argument("job_ids", metavar="[JOB_ID...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are quarantined now.")
@filter_options
@click.option("--reason", default="", help="Why: kept in their history.")
@click.option("--limit", type=click.IntRange(1), help="Of those that fit, so many at most.")
@click.option("--dry-run", is_flag=True, help="Only say which they are.")
@facade_options
@json_option
def discard(
    job_ids: tuple[str, ...],
    everything: bool,
    reason: str,
    limit: int | None,
    dry_run: bool,
    url: str,
    data_dir: Path,
    as_json: bool,
    **filters: Any,
) -> None:
    """Give quarantined jobs up for good: those named, those that fit the options, or --all."""
    named = _checked(job_ids, everything, filters, limit, dry_run)
    with connected(url, data_dir) as client:
        if job_ids:
            give(client, job_ids, lambda job_id: calls.discard(job_id, reason=reason), as_json)
        else:
            _give_all(client, partial(calls.discard_quarantined, named, reason=reason), "discarded", limit, dry_run, as_json)


@quarantine.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Why: kept in their history.")
@facade_options
@json_option
def put(job_ids: tuple[str, ...], reason: str, url: str, data_dir: Path, as_json: bool) -> None:
    """Put live jobs into quarantine by hand: what runs for them is stopped."""
    with connected(url, data_dir) as client:
        give(client, job_ids, lambda job_id: calls.quarantine(job_id, reason=reason), as_json)


def _named(filters: dict[str, Any]) -> dict[str, Any]:
    """The filter as the API names it."""
    given = {("reason" if name == "matching" else name): value for name, value in filters.items()}
    return {name: value for name, value in given.items() if value is not None}


def _checked(
    job_ids: tuple[str, ...], everything: bool, filters: dict[str, Any], limit: int | None, dry_run: bool
) -> dict[str, Any]:
    """The filter; a UsageError where it is not clear which jobs are meant."""
    named = _named(filters)
    if sum((bool(job_ids), everything, bool(named))) != 1:
        raise click.UsageError("say which: name jobs, or describe them by options, or give --all; one of the three")
    if job_ids and (limit is not None or dry_run):
        raise click.UsageError("--limit and --dry-run belong to --all and to options that describe jobs")
    return named


def _give_all(client: Client, call: Callable[..., Any], word: str, limit: int | None, dry_run: bool, as_json: bool) -> None:
    """Gives an order to all that fit, page by page; says of each how it went, and counts them."""
    answers: list[dict[str, str]] = []
    cursor, left = None, limit
    while left is None or left > 0:
        found = client.send(call(cursor=cursor, dry_run=dry_run, limit=min(_PAGE, left or _PAGE)))
        said = "would be" if dry_run else word
        page = [{"job_id": job_id, "status": said} for job_id in found.job_ids] + list(found.refused)
        answers += page
        cursor, left = found.next_cursor, None if left is None else left - len(page)
        if cursor is None:
            break
    refused = [answer for answer in answers if "error" in answer]
    if as_json:
        show_json(answers)
    else:
        for answer in answers:
            click.echo(answer.get("error") or f"{answer['job_id']} {answer['status']}", err="error" in answer)
        click.echo(f"{len(answers) - len(refused)} {'found' if dry_run else 'done'}, {len(refused)} refused", err=True)
    sys.exit(1 if refused else 0)


def _card(found: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    attempt = found.get("last_attempt") or {}
    rows = (
        ("job", found["id"]),
        ("blueprint", f"{found['blueprint_name']} {found.get('blueprint_version') or ''}"),
        ("state", found["current_state"]),
        ("since", when(found["quarantined_at"])),
        ("why", found["error_message"]),
        ("code", found.get("code")),
        ("task", attempt.get("type")),
        ("attempt", attempt.get("attempt")),
        ("worker deaths", attempt.get("deaths") or None),
        ("worker", attempt.get("worker_id")),
        ("tries", found.get("attempts") or None),
        ("retries in all", found.get("retry_count")),
        ("params", attempt.get("params")),
        ("initial data", found.get("initial_data") or None),
        ("state history", found.get("state_history") or None),
        ("parent job", found.get("parent_job_id")),
    )
    for name, value in rows:
        if value is not None:
            shown = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value)
            table.add_row(name, Text(shown.strip()))
    return table
