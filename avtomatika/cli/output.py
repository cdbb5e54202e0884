"""What commands print: rich tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_COLOURS = {
    "finished": "green",
    "failed": "red",
    "quarantined": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "completed": "green",
    "timeout": "red",
    "paused": "yellow",
    "pending": "dim",
}


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_json_line(value: Any) -> None:
    """One line, written at once: whoever reads a stream of them need not wait."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; its cells are plain text, whatever they hold. The first column is never broken: it is what one copies."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(
            *(cell if isinstance(cell, Text | ProgressBar) else Text("" if cell is None else str(cell)) for cell in row)
        )
    console().print(table)


def console() -> Console:
    """Standard output; wide where it is no terminal, so that a script reads one line a row."""
    found = Console()
    return found if found.is_terminal else Console(width=240)


def status_text(status: str) -> Text:
    return Text(status, style=_COLOURS.get(status, "blue"))


def when(value: Any) -> str:
    """A time as this machine's clock shows it; times are seconds since the epoch or ISO 8601."""
    if value is None:
        return ""
    at = datetime.fromtimestamp(value) if isinstance(value, int | float) else datetime.fromisoformat(str(value)).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}"
