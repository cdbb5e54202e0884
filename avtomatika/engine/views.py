"""Jobs, tasks, events and workers as the API shows them."""

from __future__ import annotations

from datetime import UTC, datetime

from avtomatika.jobs import JSON, Approval, Event, FanOut, Job, SubJob, TaskInfo, TaskState, WorkerRecord
from avtomatika.state.base import Store, TaskRecord


def timestamp(seconds: float | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def job_view(job: Job, store: Store) -> JSON:
    """A job with what it waits for right now."""
    task = await store.get_task(job.waiting.id) if isinstance(job.waiting, TaskInfo) else None
    branches = await store.branches(job.id) if isinstance(job.waiting, FanOut) else {}
    return {
        **job_summary(job),
        "initial_data": job.initial_data,
        "state_history": job.state_history,
        "result": job.result,
        "progress": _progress(job, task, [r is not None for r in branches.values()]),
        "current_task": _current_task(job, task),
        "waiting_for": _waiting_for(job, sum(r is not None for r in branches.values())),
        "cancel_requested": job.cancel_requested,
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


def event_view(event: Event) -> JSON:
    return {**event.to_dict(), "timestamp": timestamp(event.timestamp)}


def worker_view(worker: WorkerRecord) -> JSON:
    skills = [s for s, models in worker.skill_dependencies.items() if models and set(models) <= set(worker.hot_cache)]
    return {
        "worker_id": worker.id,
        "worker_type": worker.type,
        "status": worker.status,
        "supported_tasks": list(worker.supported_tasks),
        "load": worker.load,
        "limits": worker.capabilities,
        "max_concurrent_tasks": worker.max_concurrent_tasks,
        "hot_cache": list(worker.hot_cache),
        "hot_skills": skills,
        "resources": worker.resources,
        "software": worker.software,
        "registered_at": timestamp(worker.registered_at),
        "seen_at": timestamp(worker.seen_at),
    }


def _progress(job: Job, task: TaskRecord | None, branches: list[bool]) -> float | None:
    """Of what the job waits for: 0..1, or None where nobody can tell."""
    if job.status.is_terminal:
        return 1.0
    if branches:
        return round(sum(branches) / len(branches), 4)
    return task.progress if task is not None else None


def _current_task(job: Job, task: TaskRecord | None) -> JSON | None:
    if not isinstance(job.waiting, TaskInfo):
        return None
    info = job.waiting
    since = task.claimed_at or task.dispatched_at if task is not None else info.created_at
    return {
        "task_id": info.id,
        "type": info.type,
        "attempt": info.attempt,
        "worker_id": task.worker_id if task is not None else None,
        "state": task.state.value if task is not None else TaskState.DELAYED.value,
        "since": timestamp(since),
        "progress": task.progress if task is not None else None,
        "message": task.progress_message if task is not None else None,
        "why": _why(info, task),
    }


def _why(info: TaskInfo, task: TaskRecord | None) -> str | None:
    """Why a task does not run; None while it does."""
    if task is None:
        return "it waits for its next attempt"
    match task.state:
        case TaskState.UNROUTED:
            return f"no worker has named the task {info.type!r} yet; start one that declares it"
        case TaskState.DISPATCHED if info.is_plain:
            return "it was given to its fleet's queue"
        case TaskState.DISPATCHED:
            return "it is in its queue: no worker has a free slot for it"
        case _:
            return None


def _waiting_for(job: Job, done: int) -> JSON | None:
    match job.waiting:
        case FanOut(aggregate_into=state, total=total):
            return {"kind": "parallel_tasks", "total": total, "done": done, "aggregate_into": state}
        case SubJob(job_id=child, blueprint_name=name):
            return {"kind": "sub_job", "job_id": child, "blueprint_name": name}
        case Approval(integration=integration, message=message, transitions=transitions, asked_at=asked):
            return {
                "kind": "approval",
                "integration": integration,
                "message": message,
                "decisions": sorted(transitions),
                "asked_at": timestamp(asked),
            }
        case _:
            return None
