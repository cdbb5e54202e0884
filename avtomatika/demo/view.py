"""What the demo shows while it runs: a live picture on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from avtomatika.demo.progress import Progress, StateMark, TaskCount

_MARKS = {"done": ("✔", "green"), "active": ("●", "bold yellow"), "failed": ("✘", "bold red"), "waiting": ("○", "dim")}


class View(Protocol):
    """Shows a job's progress. Used as a context manager around the whole run."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, words: str) -> None:
        """What is being done before the job runs."""

    def show(self, progress: Progress) -> None:
        """How far the job is now."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        return None

    def say(self, words: str) -> None:
        return None

    def show(self, progress: Progress) -> None:
        return None


class Lines(Silent):
    """For a log or a pipe: one line for each thing that changes, and now and then the counts."""

    COUNTS_EVERY = 2.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._active: tuple[str, ...] = ()
        self._counts = ""
        self._counted_at = 0.0

    def say(self, words: str) -> None:
        self._line(words)

    def show(self, progress: Progress) -> None:
        active = tuple(f"{_MARKS[s.mark][0]} {s.name}" for s in progress.states if s.mark in ("active", "failed"))
        counts = ", ".join(f"{t.name} {t.ended}/{t.total}" for t in progress.tasks if t.total)
        changed = active != self._active
        due = time.monotonic() - self._counted_at >= self.COUNTS_EVERY or progress.is_over
        if changed or (due and counts != self._counts):
            self._active, self._counts, self._counted_at = active, counts, time.monotonic()
            self._line("  ".join(part for part in (" ".join(active) or f"✔ {progress.status}", counts) if part))

    def _line(self, words: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {words}", highlight=False, markup=False, soft_wrap=True)


class Picture(Silent):
    """For a terminal: the states as they are passed, the tasks as they run, redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._words = ""
        self._progress: Progress | None = None
        self._began = time.monotonic()
        self._ended: float | None = None
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=10, transient=False)

    def __enter__(self) -> Picture:
        self._live.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._live.refresh()
        self._live.stop()

    def say(self, words: str) -> None:
        self._words = words

    def show(self, progress: Progress) -> None:
        if self._progress is None:
            self._began = time.monotonic()
        self._progress = progress
        if progress.is_over and self._ended is None:
            self._ended = time.monotonic()

    def _render(self) -> RenderableType:
        elapsed = (self._ended or time.monotonic()) - self._began
        head = Text.assemble((self._title, "bold"), (f"   {elapsed:5.1f} s", "cyan"))
        if self._progress is None:
            return Padding(Group(head, Text(self._words, "dim")), (1, 2))
        notes = [Text(note, "yellow") for note in self._progress.notes]
        parts: list[RenderableType] = [
            head,
            Text(""),
            way(self._progress.states),
            Text(""),
            task_table(self._progress.tasks),
            *notes,
        ]
        return Padding(Group(*parts), (1, 2))


def way(states: list[StateMark]) -> Text:
    """The states in one line, each with its mark."""
    line = Text()
    for number, state in enumerate(states):
        sign, style = _MARKS[state.mark]
        if number:
            line.append("  →  ", "dim")
        line.append(f"{sign} {state.name}", style)
    return line


def task_table(tasks: list[TaskCount]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("task")
    table.add_column("capability")
    table.add_column("", width=30)
    table.add_column("done", justify="right")
    table.add_column("failed", justify="right")
    table.add_column("by", style="dim", no_wrap=True)
    for task in tasks:
        style = "dim" if not task.total else "green" if task.ended == task.total else ""
        table.add_row(
            Text(task.name, style),
            Text(task.capability, style or "cyan"),
            ProgressBar(total=max(1, task.total), completed=task.ended, width=30),
            f"{task.ended}/{task.total}" if task.total else "",
            Text(str(task.failed or ""), "red"),
            ", ".join(f"{worker.partition('@')[0]}: {count}" for worker, count in sorted(task.workers.items())),
        )
    return table
