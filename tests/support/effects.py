"""A log of effects: each run of a task or a handler appends what it did, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LOG = "EFFECTS_LOG"
_MAX_LINE = 4096


@dataclass(frozen=True)
class Run:
    """One run of one step.

    Attributes:
        token: names the step: what must have its effect once.
        slot: the capability whose slot it takes.
        limits: names of the concurrency limits that it holds a lease of.
        ended: None where its process was killed over it.
        outcome: `done`, `raised` or `cancelled`; None where it has not ended.
    """

    token: str
    job_id: str
    task_id: str
    attempt: int
    worker: str
    pid: int
    began: float
    slot: str = ""
    limits: tuple[str, ...] = ()
    ended: float | None = None
    outcome: str | None = None


def now() -> float:
    """The machine's clock, also in a process whose `time.time` is told to be wrong."""
    return time.clock_gettime(time.CLOCK_REALTIME)


def append(path: str | Path, line: dict[str, Any]) -> None:
    """Adds a line, whole or not at all: one write to a file opened for appending."""
    body = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    assert len(body) <= _MAX_LINE
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, body)
    finally:
        os.close(file)


@contextmanager
def effect(**fields: Any) -> Iterator[None]:
    """Notes the beginning and the end of a run in the file that EFFECTS_LOG names. `fields`: those of `Run` that are known."""
    path, run = os.environ[LOG], f"{os.getpid()}-{time.monotonic_ns()}"
    append(path, {"event": "begin", "run": run, "pid": os.getpid(), "at": now(), **fields})
    outcome = "cancelled"
    try:
        yield
        outcome = "done"
    except Exception:
        outcome = "raised"
        raise
    finally:
        append(path, {"event": "end", "run": run, "at": now(), "outcome": outcome})


def read(path: Path) -> list[Run]:
    """The runs that a log tells of, in the order in which they began."""
    runs: dict[str, Run] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        key, event, at = row.pop("run"), row.pop("event"), row.pop("at")
        if event == "begin":
            row["limits"] = tuple(row.get("limits", ()))
            runs[key] = Run(**row, began=at)
        else:
            runs[key] = replace(runs[key], ended=at, outcome=row["outcome"])
    return list(runs.values())
