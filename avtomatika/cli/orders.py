"""`avtomatika job cancel|retry|pause|resume|decide`: orders on jobs, several at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from avtomatika.cli.facade import ask, connected, facade_options
from avtomatika.cli.output import json_option, show_json
from avtomatika.client import calls
from avtomatika.client.blocking import Client
from avtomatika.client.calls import Call
from avtomatika.errors import BadRequestError, ConflictError, NotFoundError

jobs_argument = click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)


@click.command()
@jobs_argument
@click.option("--force", is_flag=True, help="End them now, whatever their clean-up does.")
@facade_options
@json_option
def cancel(job_ids: tuple[str, ...], force: bool, url: str, data_dir: Path, as_json: bool) -> None:
    """Cancel jobs: what has not started is removed, what runs is told to stop."""
    with connected(url, data_dir) as client:
        give(client, job_ids, lambda job_id: calls.cancel(job_id, force=force), as_json)


@click.command()
@jobs_argument
@facade_options
@json_option
def retry(job_ids: tuple[str, ...], url: str, data_dir: Path, as_json: bool) -> None:
    """Let failed or quarantined jobs try again."""
    with connected(url, data_dir) as client:
        give(client, job_ids, calls.retry, as_json)


@click.command()
@jobs_argument
@facade_options
@json_option
def pause(job_ids: tuple[str, ...], url: str, data_dir: Path, as_json: bool) -> None:
    """Pause jobs before their next step."""
    with connected(url, data_dir) as client:
        give(client, job_ids, calls.pause, as_json)


@click.command()
@jobs_argument
@facade_options
@json_option
def resume(job_ids: tuple[str, ...], url: str, data_dir: Path, as_json: bool) -> None:
    """Let paused jobs go on."""
    with connected(url, data_dir) as client:
        give(client, job_ids, calls.resume, as_json)


@click.command()
@click.argument("job_id")
@click.argument("decision")
@click.option("--comment", help="Kept with the decision.")
@facade_options
@json_option
def decide(job_id: str, decision: str, comment: str | None, url: str, data_dir: Path, as_json: bool) -> None:
    """Answer the question that a job waits with: DECISION is one of those that `job show` lists."""
    answer = ask(url, data_dir, calls.decide(job_id, decision, comment))
    if as_json:
        show_json(answer)
    else:
        click.echo(f"{job_id}: {decision}")


ORDERS = (cancel, retry, pause, resume, decide)


def give(client: Client, job_ids: Sequence[str], order: Callable[[str], Call[Any]], as_json: bool) -> None:
    """Gives every job the order and says of each how it went; exit code 1 where one was refused, the others are done."""
    answers: list[dict[str, Any]] = []
    for job_id in job_ids:
        try:
            answer = {"job_id": job_id, "status": client.send(order(job_id))}
        except (NotFoundError, ConflictError, BadRequestError) as exc:
            answer = {"job_id": job_id, "error": str(exc)}
        answers.append(answer)
        if not as_json:
            refused = "error" in answer
            click.echo(answer["error"] if refused else f"{job_id} {answer['status']}", err=refused)
    if as_json:
        show_json(answers)
    if any("error" in answer for answer in answers):
        sys.exit(1)
