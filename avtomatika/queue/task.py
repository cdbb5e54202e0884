"""`Task`: a queue task as its owner sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from avtomatika.jobs import JSON
from avtomatika.operations.types import TaskStatus, TaskType

DESCRIPTIONS = {
    TaskStatus.PENDING: "Task is waiting in queue",
    TaskStatus.RUNNING: "Task is currently executing",
    TaskStatus.PAUSED: "Task execution is paused",
    TaskStatus.VALIDATING: "Validating task parameters",
    TaskStatus.PREPARING: "Preparing task execution",
    TaskStatus.UPLOADING: "Uploading data",
    TaskStatus.DOWNLOADING: "Downloading data",
    TaskStatus.BUILDING: "Building/compiling",
    TaskStatus.PULLING: "Pulling/retrieving data",
    TaskStatus.COMPLETED: "Task completed successfully",
    TaskStatus.FAILED: "Task failed with error",
    TaskStatus.CANCELLED: "Task was cancelled",
    TaskStatus.TIMEOUT: "Task execution timed out",
}


def moment(seconds: float | None) -> datetime | None:
    """A time of the store, with its zone (UTC)."""
    return None if not seconds else datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A queue task at one moment: a view on its job, which is all that is stored. One that you make yourself is a wish:
    `TaskQueue.add_task` takes what it says of type, params, priority, category, tags, timeout and retries.

    Attributes:
        command: what it does, as one line for people; without secrets.
        started_at: when its first attempt began.
        progress: 0..100.
        logs: the latest lines, oldest first, each with its time in UTC; where they were asked for.
        timeout_seconds: of an attempt; None means the operation's own.
        retry_count: further attempts so far, its own and those that somebody asked for.
        max_retries: attempts that it may make by itself after the first one; None means the operation's own.
        priority: 0..10; the higher goes first.
    """

    task_type: TaskType | str
    params: JSON = field(default_factory=dict)
    id: str = ""
    status: TaskStatus = TaskStatus.PENDING
    command: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    progress: int = 0
    current_step: str = ""
    result: Any = None
    error: str | None = None
    error_code: str | None = None
    error_details: JSON | None = None
    logs: Sequence[str] = ()
    timeout_seconds: float | None = None
    retry_count: int = 0
    max_retries: int | None = None
    priority: float = 0.0
    category: str = "general"
    tags: Sequence[str] = ()
    client: str = ""

    def can_retry(self) -> bool:
        """Whether somebody may have it tried again. Its own retries are over then."""
        return self.status in (TaskStatus.FAILED, TaskStatus.TIMEOUT)

    def get_duration(self) -> float | None:
        """Seconds from its start to its end, or until now; None before it starts."""
        if self.started_at is None:
            return None
        return round(max(0.0, ((self.completed_at or datetime.now(UTC)) - self.started_at).total_seconds()), 3)

    def to_dict(self) -> JSON:
        """Everything as JSON; times as ISO 8601 in UTC."""
        return {
            "id": self.id,
            "task_type": str(self.task_type),
            "status": self.status.value,
            "status_description": DESCRIPTIONS[self.status],
            "command": self.command,
            "params": self.params,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "completed_at": iso(self.completed_at),
            "progress": self.progress,
            "current_step": self.current_step,
            "result": self.result,
            "error": self.error,
            "error_code": self.error_code,
            "error_details": self.error_details,
            "logs": list(self.logs),
            "duration": self.get_duration(),
            "timeout_seconds": self.timeout_seconds,
            "retry_count": self.retry_count,
            "max_retries": self.max_retries,
            "can_retry": self.can_retry(),
            "priority": self.priority,
            "category": self.category,
            "tags": list(self.tags),
        }

    def summary(self) -> JSON:
        """The same in short, by what one asks for."""
        error = {"message": self.error, "code": self.error_code, "details": self.error_details}
        return {
            "id": self.id,
            "type": str(self.task_type),
            "status": {
                "current": self.status.value,
                "description": DESCRIPTIONS[self.status],
                "progress": self.progress,
                "current_step": self.current_step,
            },
            "timing": {
                "created": iso(self.created_at),
                "started": iso(self.started_at),
                "completed": iso(self.completed_at),
                "duration": self.get_duration(),
            },
            "error": error if self.error is not None or self.error_code is not None else None,
            "retry": {"count": self.retry_count, "max": self.max_retries, "can_retry": self.can_retry()},
            "result": self.result,
        }


def iso(at: datetime | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
