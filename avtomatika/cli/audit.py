"""`avtomatika audit`: whether the audit of operations is what was written."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from avtomatika.cli.output import json_option, show_json
from avtomatika.operations.auditfile import Verified, verify


@click.group()
def audit() -> None:
    """The audit of operations."""


@audit.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--contains", metavar="HASH", help="A hash noted earlier: one of the lines must have it, so that none was cut off.")
@json_option
def verify_command(file: Path, contains: str | None, as_json: bool) -> None:
    """Check the hash chain of FILE. Exit code 1 where a line was edited, removed, or is broken."""
    seen, problems = Verified(), []
    for problem in verify(file, seen, contains):
        problems.append(problem)
        if not as_json:
            click.secho(f"{file}:{problem.line}: {problem.what}", fg="red")
    if as_json:
        found = [{"line": problem.line, "problem": problem.what} for problem in problems]
        show_json({"lines": seen.lines, "last_hash": seen.last_hash, "problems": found})
    else:
        click.echo(f"{seen.lines} lines: {len(problems) or 'no'} problems; the hash of the last one is {seen.last_hash}")
    sys.exit(1 if problems else 0)
