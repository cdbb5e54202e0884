"""`avtomatika history`: whether it is what was written, and what it counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from avtomatika.cli.db import database_options, opened
from avtomatika.cli.facade import ask, facade_options
from avtomatika.cli.output import json_option, show_json, show_table
from avtomatika.client import calls
from avtomatika.history.analytics import By
from avtomatika.history.upgrade import check
from avtomatika.history.verify import Counts, Problem, verify


@click.group()
def history() -> None:
    """The history in SQL: verify it, count what is in it."""


@history.command("verify")
@click.argument("job_id", required=False)
@database_options
@json_option
def verify_command(job_id: str | None, uri: str, as_json: bool) -> None:
    """Check the hash chain of JOB_ID's events, or of all jobs. Exit code 1 where something was edited, removed or is missing."""
    counts, problems = Counts(), list[Problem]()
    with opened(uri) as database:
        check(database)
        with database.transaction() as connection:
            for problem in verify(connection, job_id, counts):
                problems.append(problem)
                if not as_json:
                    where = problem.job_id if problem.seq is None else f"{problem.job_id}, event {problem.seq}"
                    click.secho(f"{where}: {problem.what}", fg="red")
    if job_id is not None and not counts.jobs and not problems:
        raise click.ClickException(f"the history has no job {job_id}")
    if as_json:
        found = [{"job_id": problem.job_id, "seq": problem.seq, "problem": problem.what} for problem in problems]
        show_json({"jobs": counts.jobs, "events": counts.events, "problems": found})
    else:
        click.echo(f"{counts.events} events of {counts.jobs} jobs: {len(problems) or 'no'} problems")
    sys.exit(1 if problems else 0)


@history.command()
@click.option("--by", type=click.Choice([by.value for by in By]), default=By.BLUEPRINT.value, show_default=True)
@click.option("--since", help="Ended at this time or later, e.g. 2026-01-31T12:00:00Z  [default: seven days before --until]")
@click.option("--until", help="Ended before this time  [default: now]")
@facade_options
@json_option
def stats(by: str, since: str | None, until: str | None, url: str, data_dir: Path, as_json: bool) -> None:
    """Count what ended: jobs by blueprint, or attempts by task or worker; success rates, durations and cost."""
    answer: dict[str, Any] = ask(url, data_dir, calls.analytics(by, since=since, until=until))
    if as_json:
        show_json(answer)
        return
    show_table(
        [by, "count", "success", "p50 ms", "p90 ms", "p99 ms", "cost", "outcomes"],
        [
            (
                group["key"],
                group["count"],
                f"{100 * group['success_rate']:.1f} %",
                *(None if value is None else f"{value:.0f}" for value in group["duration_ms"].values()),
                None if group["cost"] is None else f"{group['cost']:.4g}",
                ", ".join(f"{count} {name}" for name, count in sorted(group["outcomes"].items())),
            )
            for group in answer["groups"]
        ],
    )
