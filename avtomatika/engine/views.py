"""Jobs, tasks, events and workers as the API shows them."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from avtomatika.deliveries import Delivery, DeliveryStatus, end_id
from avtomatika.jobs import JSON, Approval, Event, Failure, FanOut, Job, Result, SubJob, TaskInfo, TaskState, WorkerRecord
from avtomatika.state.base import Reputation, Store, TaskRecord

#: Of how many open branches each one's state is looked up.
MAX_BRANCHES = 1000

_FAILED = (Result.FAILURE, Result.TIMEOUT, Result.CANCELLED)


class Reads(Protocol):
    """What a view asks; a `Service` is one."""

    store: Store

    def explain(self, record: TaskRecord) -> Awaitable[JSON]:
        """See `Dispatcher.explain`."""


def timestamp(seconds: float | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class _Branches:
    """How the branches of a fan-out stand. `running` and `waiting` are None where there are too many to look at each."""

    done: int = 0
    failed: int = 0
    running: int | None = 0
    waiting: int | None = 0
    first: JSON = field(default_factory=dict)


async def job_view(job: Job, service: Reads) -> JSON:
    """A job with what it waits for right now, and why."""
    task = await service.store.get_task(job.waiting.id) if isinstance(job.waiting, TaskInfo) else None
    branches = await _branches(job, service) if isinstance(job.waiting, FanOut) else _Branches()
    request = await service.store.delivery(job.waiting.id) if isinstance(job.waiting, Approval) else None
    return {
        **job_summary(job),
        "initial_data": job.initial_data,
        "state_history": job.state_history,
        "result": job.result,
        "progress": _progress(job, task, branches.done),
        "current_task": await _current_task(job, task, service),
        "waiting_for": _waiting_for(job, branches, request),
        "webhook": await _webhook(job, service),
        "code": job.failure.code if job.failure is not None else None,
        "deadline_at": timestamp(job.deadline_at),
        "blueprint_version": job.blueprint_version or None,
        "cancel_requested": job.cancel_requested,
        "pause_requested": job.pause_requested,
        "client": job.client.name,
    }


def job_summary(job: Job) -> JSON:
    """A job in a list."""
    return {
        "id": job.id,
        "blueprint_name": job.blueprint_name,
        "status": job.status.value,
        "current_state": job.current_state,
        "error_message": job.error_message,
        "retry_count": job.retry_count,
        "priority": job.priority,
        "tags": list(job.tags),
        "parent_job_id": job.parent_job_id,
        "child_job_ids": list(job.child_job_ids),
        "created_at": timestamp(job.created_at),
        "updated_at": timestamp(job.updated_at),
    }


def quarantined_view(job: Job, since: float) -> JSON:
    """A quarantined job, and why it is there."""
    failure = job.failure or Failure()
    return {
        "id": job.id,
        "blueprint_name": job.blueprint_name,
        "error_message": job.error_message,
        "code": failure.code or None,
        "task": (failure.task or {}).get("type"),
        "attempts": failure.attempts,
        "current_state": job.current_state,
        "quarantined_at": timestamp(since),
        "retry_count": job.retry_count,
    }


def quarantined_details(job: Job) -> JSON:
    """The same with what it takes to understand it: the attempt with its params, the job's data and version."""
    failure = job.failure or Failure()
    return {
        **quarantined_view(job, job.updated_at),
        "last_attempt": failure.task,
        "initial_data": job.initial_data,
        "state_history": job.state_history,
        "blueprint_version": job.blueprint_version or None,
        "parent_job_id": job.parent_job_id,
        "tags": list(job.tags),
        "client": job.client.name,
        "created_at": timestamp(job.created_at),
    }


def event_view(event: Event) -> JSON:
    return {**event.to_dict(), "timestamp": timestamp(event.timestamp)}


def worker_view(worker: WorkerRecord, reputation: Reputation | None = None) -> JSON:
    """A worker; a new one has the reputation 1."""
    reputation = reputation or Reputation()
    return {
        "worker_id": worker.id,
        "worker_type": worker.type,
        "http": worker.http,
        "status": worker.status,
        "tasks": list(worker.tasks),
        "supported_tasks": list(worker.supported_tasks),
        "load": worker.load,
        "limits": worker.capabilities,
        "max_concurrent_tasks": worker.max_concurrent_tasks,
        "hot_cache": list(worker.hot_cache),
        "hot_skills": list(worker.hot_skills),
        "installed_models": list(worker.installed_models),
        "load_times": worker.load_times,
        "cost_per_second": worker.cost_per_second,
        "cost_per_skill": worker.cost_per_skill,
        "reputation": reputation.value,
        "reputation_made_of": reputation.made_of,
        "resources": worker.resources,
        "software": worker.software,
        "registered_at": timestamp(worker.registered_at),
        "seen_at": timestamp(worker.seen_at),
    }


def _progress(job: Job, task: TaskRecord | None, done: int) -> float | None:
    """Of what the job waits for: 0..1, or None where nobody can tell."""
    if job.status.is_terminal:
        return 1.0
    if isinstance(job.waiting, FanOut) and job.waiting.total:
        return round(done / job.waiting.total, 4)
    return task.progress if task is not None else None


async def _current_task(job: Job, task: TaskRecord | None, service: Reads) -> JSON | None:
    if not isinstance(job.waiting, TaskInfo):
        return None
    info = job.waiting
    since = task.claimed_at or task.dispatched_at or task.waiting_since if task is not None else info.created_at
    return {
        "task_id": info.id,
        "type": info.type,
        "attempt": info.attempt,
        "worker_id": (task.worker_id or task.assigned_to) if task is not None else None,
        "state": task.state.value if task is not None else TaskState.DELAYED.value,
        "since": timestamp(since),
        "progress": task.progress if task is not None else None,
        "message": task.progress_message if task is not None else None,
        **await _why(task, service),
        "decision": task.decision if task is not None else None,
    }


async def _why(task: TaskRecord | None, service: Reads) -> JSON:
    """`why` a task does not run, None while it does; and the `funnel` where workers were counted for that."""
    if task is None:
        return {"why": "it waits for its next attempt", "funnel": None}
    info = task.info
    match task.state:
        case TaskState.DELAYED:
            why = "it waits for its next attempt"
        case TaskState.UNROUTED:
            why = f"no worker has named the task {info.type!r} yet; start one that declares it"
        case TaskState.DISPATCHED if info.is_plain:
            why = "it was given to its fleet's queue"
        case TaskState.DISPATCHED if task.assigned_to is not None:
            why = f"it was given to {task.assigned_to}, which has not begun it"
        case TaskState.WAITING | TaskState.DISPATCHED:
            found = await service.explain(task)
            return {"why": found["reason"], "funnel": found["funnel"]}
        case _:
            return {"why": None, "funnel": None}
    return {"why": why, "funnel": None}


async def _branches(job: Job, service: Reads) -> _Branches:
    results = await service.store.branches(job.id)
    found = _Branches()
    for result in results.values():
        if result is not None:
            found.done += 1
            found.failed += result.status in _FAILED
    still_out = [task_id for task_id, result in results.items() if result is None]
    if len(still_out) > MAX_BRANCHES:
        found.running = found.waiting = None
    running = 0
    for task_id in still_out[:MAX_BRANCHES]:
        task = await service.store.get_task(task_id)
        if task is not None and task.state in (TaskState.CLAIMED, TaskState.DONE):
            running += 1
        elif not found.first:
            type_, branch = (task.info.type, task.info.branch) if task is not None else (None, None)
            found.first = {"task_id": task_id, "type": type_, "branch": branch, **await _why(task, service)}
    if found.running is not None:
        found.running, found.waiting = running, len(still_out) - running
    return found


async def _webhook(job: Job, service: Reads) -> JSON | None:
    """Who is told of the job's last end, and how that went; before an end nothing was tried."""
    if job.webhook_url is None:
        return None
    told = await service.store.delivery(end_id(job.id, job.version)) if job.status.is_terminal else None
    return {"url": job.webhook_url, **_delivery(told)}


def _delivery(delivery: Delivery | None) -> JSON:
    if delivery is None:
        return {"status": DeliveryStatus.PENDING.value, "attempts": [], "next_attempt_at": None}
    return {
        "status": delivery.status.value,
        "attempts": [
            {
                "at": timestamp(attempt.at),
                **({"status_code": attempt.status_code} if attempt.status_code is not None else {"error": attempt.error}),
                "duration_ms": attempt.duration_ms,
            }
            for attempt in delivery.attempts
        ],
        "next_attempt_at": None if delivery.is_over else timestamp(delivery.due),
    }


def _waiting_for(job: Job, branches: _Branches, request: Delivery | None) -> JSON | None:
    match job.waiting:
        case FanOut() as fanout:
            return {
                "kind": "parallel_tasks",
                "total": fanout.total,
                "done": branches.done,
                "failed": branches.failed,
                "running": branches.running,
                "waiting": branches.waiting,
                "first_waiting": branches.first or None,
                "aggregate_into": fanout.aggregate_into,
                "on_failure": fanout.on_failure,
                "deadline_at": timestamp(fanout.deadline_at),
            }
        case SubJob(job_id=child, blueprint_name=name):
            return {"kind": "sub_job", "job_id": child, "blueprint_name": name}
        case Approval() as approval:
            return {
                "kind": "approval",
                "integration": approval.integration,
                "message": approval.message,
                "decisions": sorted(approval.transitions),
                "asked_at": timestamp(approval.asked_at),
                "deadline_at": timestamp(approval.deadline_at),
                "on_timeout": approval.on_timeout,
                "request": _delivery(request),
            }
        case _:
            return None
