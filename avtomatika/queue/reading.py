"""Tasks read off their jobs: what the engine knows, in the words of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from avtomatika.errors import ErrorCode, FailureCode
from avtomatika.jobs import JSON, Event, FanOut, Job, JobStatus, TaskInfo, TaskState
from avtomatika.operations.blueprint import many, task_of
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.run import PAUSED_AT
from avtomatika.operations.types import TaskStatus
from avtomatika.queue.command_line import command_of
from avtomatika.queue.task import Task, iso, moment
from avtomatika.state.base import Store, TaskRecord

#: Lines of a task's log that are shown.
LOG_LINES = 1000
#: Of how many branches of a task on many hosts it is looked up whether one runs.
_LOOKED_AT = 50
#: Tasks that are looked up at once.
_AT_ONCE = 100

_ENDS = {JobStatus.FINISHED: TaskStatus.COMPLETED, JobStatus.CANCELLED: TaskStatus.CANCELLED}
_CODES: dict[FailureCode | None, TaskErrorCode] = {
    FailureCode.TIMEOUT: TaskErrorCode.SYSTEM_TIMEOUT,
    FailureCode.JOB_TIMEOUT: TaskErrorCode.SYSTEM_TIMEOUT,
    FailureCode.WORKER_LOST: TaskErrorCode.SYSTEM_PROCESS_KILLED,
    FailureCode.HANDLER_ERROR: TaskErrorCode.INTERNAL_ERROR,
    FailureCode.HANDLER_EXCEPTION: TaskErrorCode.INTERNAL_ERROR,
    FailureCode.UNKNOWN_STATE: TaskErrorCode.INTERNAL_ERROR,
    FailureCode.STRANDED: TaskErrorCode.INTERNAL_ERROR,
    FailureCode.UNLISTED_STATUS: TaskErrorCode.INTERNAL_ERROR,
    FailureCode.BY_HAND: TaskErrorCode.UNKNOWN_ERROR,
}
_CLAIMED = (TaskState.CLAIMED, TaskState.DONE)
_ENDINGS = ("task_finished", "task_lost", "branch_finished")


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where the work itself stands.

    Attributes:
        done: hosts of the batch under way that have ended.
        since: when what runs began.
    """

    status: TaskStatus = TaskStatus.PENDING
    progress: float = 0.0
    step: str = ""
    done: int = 0
    since: tuple[float, ...] = field(default=())


async def read_task(store: Store, job: Job, *, logs: bool = False) -> Task:
    """A job of the blueprint ``operation`` as a task; with `logs`, its log and what happened to it, by time."""
    standing, events = await asyncio.gather(_standing(store, job), store.events(job.id))
    return await _task(store, job, standing, events, logs=logs)


async def _task(store: Store, job: Job, standing: _Standing, events: Sequence[Event], *, logs: bool = False) -> Task:
    lines: Sequence[str] = await read_log(store, job, events) if logs else ()
    given, status = task_of(job.initial_data, job.state_history), status_of(job, standing.status)
    error, code, details = _error(job, status)
    params, task_type = job.initial_data.get("params") or {}, str(job.initial_data.get("task_type") or "")
    return Task(
        id=job.id,
        task_type=task_type,
        params=params,
        status=status,
        command=command_of(task_type, params),
        created_at=moment(job.created_at),
        started_at=moment(_started(events, standing)),
        completed_at=moment(job.updated_at) if job.status.is_terminal else None,
        progress=_percent(job, given, status, standing),
        current_step=standing.step or _step(job, status),
        result=_result(job),
        error=error,
        error_code=code,
        error_details=details,
        logs=lines,
        timeout_seconds=given.get("timeout_seconds"),
        retry_count=job.retry_count,
        max_retries=given.get("max_retries"),
        priority=job.priority,
        category=str(job.initial_data.get("category") or "general"),
        tags=list(job.tags),
        client=job.client.name,
    )


async def read_tasks(store: Store, jobs: Iterable[Job]) -> list[Task]:
    """Many of them, without logs."""
    found: list[Task] = []
    for page in batched(jobs, _AT_ONCE):
        events = await store.events_of([job.id for job in page])
        standings = await asyncio.gather(*(_standing(store, job) for job in page))
        found += [await _task(store, job, at, events[job.id]) for job, at in zip(page, standings, strict=True)]
    return found


def batched(jobs: Iterable[Job], size: int) -> Iterator[Sequence[Job]]:
    """In pieces of this size: `itertools.batched`, which Python 3.11 lacks."""
    left = iter(jobs)
    while page := tuple(islice(left, size)):
        yield page


async def read_log(store: Store, job: Job, events: Sequence[Event] | None = None, limit: int = LOG_LINES) -> list[str]:
    """The latest lines, oldest first: what the operation has said, and what happened to the task."""
    events = await store.events(job.id) if events is None else events
    said = [(line.at, line.text) for line in await store.job_log(job.id, limit)]
    told = [(event.timestamp, line) for event in events if (line := _told(event))]
    return [f"[{iso(moment(at))}] {text}" for at, text in sorted([*said, *told], key=lambda row: row[0])[-limit:]]


def status_of(job: Job, work: TaskStatus) -> TaskStatus:
    """Where a task stands, from its job and (`work`) from what runs for it."""
    if job.status in _ENDS:
        return _ENDS[job.status]
    if job.status.is_terminal:
        in_time = job.failure is None or _CODES.get(_known(job.failure.code)) is not TaskErrorCode.SYSTEM_TIMEOUT
        return TaskStatus.FAILED if in_time else TaskStatus.TIMEOUT
    return TaskStatus.PAUSED if job.status is JobStatus.PAUSED else work


def _known(code: str) -> FailureCode | None:
    with suppress(ValueError):
        return FailureCode(code)
    return None


async def _standing(store: Store, job: Job) -> _Standing:
    match job.waiting:
        case TaskInfo(id=task_id):
            record = await store.get_task(task_id)
            return _of_record(record) if record is not None else _Standing()
        case FanOut():
            return await _of_branches(store, job)
    return _Standing(TaskStatus.RUNNING if job.state_history.get("rows") else TaskStatus.PENDING)


def _of_record(record: TaskRecord) -> _Standing:
    if record.state not in _CLAIMED:
        return _Standing()
    status = TaskStatus.RUNNING
    with suppress(ValueError):
        said = TaskStatus(record.progress_status)
        status = said if said.is_intermediate else status
    since = () if record.claimed_at is None else (record.claimed_at,)
    return _Standing(status, record.progress or 0.0, record.progress_message or "", since=since)


async def _of_branches(store: Store, job: Job) -> _Standing:
    results = await store.branches(job.id)
    open_ = [task_id for task_id, result in results.items() if result is None]
    records = await asyncio.gather(*(store.get_task(task_id) for task_id in open_[:_LOOKED_AT]))
    since = tuple(record.claimed_at for record in records if record is not None and record.claimed_at is not None)
    done = len(results) - len(open_)
    runs = bool(done or since or job.state_history.get("rows"))
    step = f"{done} of {len(results)} hosts of this batch have ended" if runs else ""
    return _Standing(TaskStatus.RUNNING if runs else TaskStatus.PENDING, step=step, done=done, since=since)


def _result(job: Job) -> Any:
    """What came of it; of a task on many hosts that was ended from outside, what had come until then."""
    if job.result is None and job.status.is_terminal and job.state_history.get("rows"):
        return many(job.initial_data, job.state_history)
    return job.result


def _percent(job: Job, given: JSON, status: TaskStatus, standing: _Standing) -> int:
    if status is TaskStatus.COMPLETED:
        return 100
    hosts = given.get("hosts")
    if hosts:
        ended = len(job.state_history.get("rows") or {}) + standing.done
        return min(99, 100 * ended // len(hosts))
    done = job.state_history.get(PAUSED_AT, 0.0) if status is TaskStatus.PAUSED else standing.progress
    return min(99, max(0, int(100 * done)))


def _step(job: Job, status: TaskStatus) -> str:
    if job.status is JobStatus.AWAITING_RETRY:
        return "it waits for its next attempt"
    return "it pauses as soon as it can" if job.pause_requested and not status.is_final else ""


def _started(events: Sequence[Event], standing: _Standing) -> float | None:
    began = [e.timestamp - (e.duration_ms or 0) / 1000 for e in events if e.event_type in _ENDINGS and e.worker_id is not None]
    return min([*began, *standing.since], default=None)


def _error(job: Job, status: TaskStatus) -> tuple[str | None, str | None, JSON | None]:
    """(message, code, details) of a task that did not complete."""
    if status is TaskStatus.CANCELLED:
        return job.error_message, None, None
    if status not in (TaskStatus.FAILED, TaskStatus.TIMEOUT):
        return None, None, None
    given = task_of(job.initial_data, job.state_history)
    if job.failure is None and "hosts" in given:
        return _error_of_hosts(many(job.initial_data, job.state_history))
    known = _CODES.get(_known(job.failure.code)) if job.failure is not None else None
    said = job.error_message or "no reason is recorded"
    for code in ErrorCode:
        said = said.removeprefix(f"{code.value}: ")
    if known is not None:
        return said, known.value, None
    details = job.state_history.get("error_details")
    return said, str(job.state_history.get("error_code") or TaskErrorCode.UNKNOWN_ERROR), details


def _error_of_hosts(found: JSON) -> tuple[str, str, JSON]:
    counts = found["summary"]
    bad = {host: row for host, row in found["hosts"].items() if row.get("error_code")}
    first = next(iter(bad.values()), {"error_code": TaskErrorCode.UNKNOWN_ERROR.value, "error": ""})
    said = f"{counts['failed']} of {counts['total']} hosts failed"
    if counts["stopped"]:
        said = f"{said}; stopped: {counts['stopped']}"
    if counts["skipped"]:
        said = f"{said}; {counts['skipped']} were not reached"
    details = {"summary": counts, "failed_hosts": {host: row["error_code"] for host, row in bad.items()}}
    return f"{said}; first: {first['error']}", str(first["error_code"]), details


def _told(event: Event) -> str:
    """What happened, as a line of the log; '' for what is of no interest there."""
    details, attempt = event.details, f"attempt {event.attempt}" if event.attempt else "an attempt"
    by = f" by {details['by']}" if details.get("by") else ""
    error = (details.get("error") or {}).get("message", "")
    match event.event_type:
        case "job_created":
            return "queued"
        case "task_finished":
            return f"{attempt} on {event.worker_id or 'a worker'} ended: {details.get('status')}{f': {error}' if error else ''}"
        case "branch_finished":
            return f"a host on {event.worker_id or 'a worker'} ended: {details.get('status')}{f': {error}' if error else ''}"
        case "task_retry" | "branch_retry":
            return f"it is tried again: {details.get('reason') or 'no reason is recorded'}"
        case "task_lost" | "branch_lost":
            return f"its worker was lost: {details.get('reason') or event.worker_id}"
        case "tasks_dispatched":
            return f"a batch of {details.get('count')} hosts begins"
        case "cancel_requested" | "pause_requested" | "job_resumed" | "job_retried" | "job_discarded":
            return f"{event.event_type.removeprefix('job_').replace('_', ' ')}{by}"
        case "job_paused" | "job_finished" | "job_failed" | "job_cancelled" | "job_quarantined":
            reason = f": {details['reason']}" if details.get("reason") else ""
            return f"{event.event_type.removeprefix('job_')}{reason}"
    return ""
