"""Small records for tests of stores and of the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from avtomatika.jobs import Event, FanOut, Job, JobStatus, Message, TaskInfo, TaskState, WorkerRecord, new_id
from avtomatika.state.base import Commit, NewTask

NOW = 1_700_000_000.0


def a_job(**fields: Any) -> Job:
    given = {"id": new_id(), "blueprint_name": "b", "current_state": "start", "created_at": NOW, "updated_at": NOW}
    return Job(**{**given, **fields})


def a_message(key: str | None = None, **fields: Any) -> Message:
    given = {"queue": "cpu.work", "body": f'["{new_id()}"]', "headers": {"id": new_id()}, "properties": {"reply_to": ""}}
    return Message(**{**given, "key": key, **fields})


def a_task(job: Job, **fields: Any) -> TaskInfo:
    given = {"id": new_id(), "job_id": job.id, "type": "work", "params": {"x": 1}, "transitions": {"success": "done"}}
    return TaskInfo(**{**given, "created_at": NOW, **fields})


def an_event(job: Job, number: int = 0, **fields: Any) -> Event:
    given = {"id": f"{job.id}:{job.version}:{number}", "job_id": job.id, "event_type": "something", "timestamp": NOW}
    return Event(**{**given, **fields})


def a_worker(worker_id: str = "w1", boot_id: str = "boot1", **fields: Any) -> WorkerRecord:
    return WorkerRecord(**{"id": worker_id, "boot_id": boot_id, "registered_at": NOW, "seen_at": NOW, **fields})


def creation(job: Job, **fields: Any) -> Commit:
    """The commit that brings a job into being."""
    return Commit(job, None, **fields)


def change(job: Job, /, _commit: dict[str, Any] | None = None, **fields: Any) -> Commit:
    """The commit that changes fields of a stored job."""
    after = replace(job, version=job.version + 1, updated_at=job.updated_at + 1, **fields)
    return Commit(after, job.version, job.status, **(_commit or {}))


def dispatched(info: TaskInfo) -> NewTask:
    return NewTask(info, TaskState.DISPATCHED)


def fanned_out(job: Job, count: int, **fields: Any) -> tuple[Commit, FanOut, list[TaskInfo]]:
    """The commit with which a job fans out, its fan-out and its tasks."""
    fanout = FanOut(new_id(), "merge", count)
    infos = [a_task(job, branch=n, fanout_id=fanout.id, **fields) for n in range(count)]
    tasks = [dispatched(info) for info in infos]
    messages = tuple(a_message() for _ in tasks)
    commit = change(
        job,
        {"tasks": tuple(tasks), "messages": messages},
        status=JobStatus.WAITING_FOR_PARALLEL_TASKS,
        waiting=fanout,
    )
    return commit, fanout, infos
