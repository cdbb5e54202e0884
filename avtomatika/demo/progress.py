"""How far a job is, read from its record and its history. Pure: JSON in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]


@dataclass
class TaskCount:
    """How many tasks of one name there are, and how far they are."""

    name: str
    capability: str
    total: int = 0
    done: int = 0
    failed: int = 0
    workers: dict[str, int] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        return self.done + self.failed


@dataclass
class StateMark:
    """One state of the blueprint, with what became of it: waiting, active, done or failed."""

    name: str
    mark: str = "waiting"


@dataclass
class Progress:
    """Everything that a view shows of one job."""

    status: str
    states: list[StateMark]
    tasks: list[TaskCount]
    notes: list[str] = field(default_factory=list)
    result: Any = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("finished", "failed", "cancelled", "quarantined")

    @property
    def total(self) -> int:
        return sum(task.total for task in self.tasks)

    @property
    def ended(self) -> int:
        return sum(task.ended for task in self.tasks)


@dataclass(frozen=True)
class Outline:
    """What is known of a blueprint before it runs: its states in order, and the capability of each of its tasks."""

    states: tuple[str, ...]
    ends: frozenset[str]
    capabilities: Mapping[str, str]


def read(outline: Outline, job: JSON, events: Sequence[JSON], children: Sequence[tuple[JSON, Sequence[JSON]]] = ()) -> Progress:
    """How far a job and its children are."""
    counts = {name: TaskCount(name, capability) for name, capability in outline.capabilities.items()}
    for one in (events, *(history for _, history in children)):
        count_tasks(one, counts)
    return Progress(
        status=job["status"],
        states=mark_states(outline, job, events),
        tasks=list(counts.values()),
        notes=why_waiting(job),
        result=job.get("result"),
        error=job.get("error_message"),
    )


def mark_states(outline: Outline, job: JSON, events: Sequence[JSON]) -> list[StateMark]:
    visited = {event.get("state") for event in events}
    current, status = job["current_state"], job["status"]
    # While branches run, the job stands in the state that gave them out; where they lead is what it works towards.
    marks = []
    for name in outline.states:
        mark = "done" if name in visited else "waiting"
        if name == current:
            over = status in ("finished", "failed", "cancelled", "quarantined")
            mark = "active" if not over else "done" if status == "finished" else "failed"
        marks.append(StateMark(name, mark))
    # An end that was not taken is no part of the way.
    return [mark for mark in marks if mark.name not in outline.ends or mark.name == current or mark.name == "finished"]


def count_tasks(events: Sequence[JSON], counts: dict[str, TaskCount]) -> None:
    """Counts the tasks in a history. An attempt that is followed by another one is not counted."""
    for event in events:
        details = event.get("details") or {}
        kind, task = event["event_type"], counts.get(details.get("type", ""))
        if kind == "tasks_dispatched":
            for name, total in shares(details).items():
                if name in counts:
                    counts[name].total += total
        elif task is None:
            continue
        elif kind == "task_dispatched":
            task.total += 1
        elif kind == "task_retry":
            task.failed -= 1
        elif kind in ("task_finished", "branch_finished"):
            if details.get("status") == "success":
                task.done += 1
                worker = event.get("worker_id")
                if worker:
                    task.workers[worker] = task.workers.get(worker, 0) + 1
            else:
                task.failed += 1


def shares(details: JSON) -> dict[str, int]:
    """How many tasks of each name a fan-out gave out: counted there, or in equal parts where only the sum is known."""
    if isinstance(details.get("counts"), dict):
        return dict(details["counts"])
    types = details.get("types") or []
    return {name: int(details.get("count", 0)) // len(types) for name in types}


def why_waiting(job: JSON) -> list[str]:
    """What people should know while nothing moves."""
    task = job.get("current_task") or {}
    why = task.get("why") or task.get("waits_for") or task.get("reason")
    return [str(why)] if why else []
