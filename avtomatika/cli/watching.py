"""How a job's way to its end is shown: a bar on a terminal, lines elsewhere, JSON lines for scripts."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from avtomatika.cli.output import show_json_line
from avtomatika.client import calls
from avtomatika.client.blocking import Client
from avtomatika.jobs import JSON

#: Between two lines about one task its progress grows by at least this, or its message changes.
_STEP = 0.1
# The job stays as it is when a branch of its fan-out goes on; there may be thousands of them.
_BRANCHES = "branch_"


class View:
    """Shows nothing; the others show what they are told.

    Attributes:
        wants_history: it is told the events from the beginning, else only new ones.
        wants_job: it is told the job again whenever that may have changed.
    """

    wants_history = False
    wants_job = True

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def job(self, found: JSON) -> None:
        """The job as it stands now."""

    def event(self, event: JSON) -> None:
        """One more event of its history."""

    def progress(self, said: JSON) -> None:
        """Its current task is further."""


class JsonLines(View):
    """Every event, from the first on, and every progress as a line of JSON."""

    wants_history = True
    wants_job = False

    def event(self, event: JSON) -> None:
        show_json_line(event)

    def progress(self, said: JSON) -> None:
        show_json_line({"event_type": "progress", **said})


class Lines(View):
    """A line at each change of status, state, or progress."""

    def __init__(self) -> None:
        self._head = ""
        self._said: tuple[Any, float, str] = (None, 0.0, "")

    def job(self, found: JSON) -> None:
        head = f"{found['id']} {found['status']} {found['current_state']}"
        if head != self._head:
            self._head = head
            click.echo(head)

    def progress(self, said: JSON) -> None:
        task, value, message = said["task_id"], said["progress"], said["message"] or ""
        last_task, last_value, last_message = self._said
        if task != last_task or message != last_message or abs(value - last_value) >= _STEP or value == 1:
            self._said = (task, value, message)
            click.echo(f"{self._head} {value:.0%} {message}".rstrip())


class Bar(View):
    """One bar: state and status, how far the current task or fan-out is, what its worker says, and for how long it goes."""

    def __init__(self, console: Console) -> None:
        message = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # what is left of the line
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}", style="dim", markup=False, table_column=message),
            console=console,
            expand=True,
        )
        self._row = self._bar.add_task("", total=None, message="")
        self._branches = self._done = 0

    def __enter__(self) -> View:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def job(self, found: JSON) -> None:
        waiting, task = found.get("waiting_for") or {}, found.get("current_task") or {}
        self._branches, self._done = waiting.get("total") or 0, waiting.get("done") or 0
        message = task.get("message") or task.get("why") or waiting.get("message") or ""
        status = found["status"].replace("_", " ")
        self._bar.update(self._row, description=f"{found['current_state']}: {status}")
        self._show(found.get("progress"), f"{self._done}/{self._branches}" if self._branches else message)

    def event(self, event: JSON) -> None:
        if event["event_type"] == "branch_finished" and self._done < self._branches:
            self._done += 1
            self._show(self._done / self._branches, f"{self._done}/{self._branches}")

    def progress(self, said: JSON) -> None:
        self._show(said["progress"], said["message"] or "")

    def _show(self, value: float | None, message: str) -> None:
        # Without a total the bar pulses: nobody can tell how far it is.
        self._bar.update(self._row, total=None if value is None else 1.0, completed=value or 0.0, message=message)


def view_for(as_json: bool) -> View:
    if as_json:
        return JsonLines()
    console = Console()
    return Bar(console) if console.is_terminal else Lines()


def follow(client: Client, job_id: str, view: View) -> JSON:
    """Shows a job until it has ended; the job as it ended."""
    call = calls.get(job_id).raw()
    last = "" if view.wants_history else _last_event(client, job_id)
    found: JSON = client.send(call)
    view.job(found)
    for data in client.messages(job_id, last):
        if "event_type" not in data:
            view.progress(data)
            continue
        view.event(data)
        if view.wants_job and not data["event_type"].startswith(_BRANCHES):
            found = client.send(call)
            view.job(found)
    found = client.send(call)
    view.job(found)
    return found


def _last_event(client: Client, job_id: str) -> str:
    events = client.send(calls.history(job_id))
    return events[-1].id if events else ""
