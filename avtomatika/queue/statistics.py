"""The queue in numbers: counted over the tasks that were looked at, without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from avtomatika.jobs import JSON
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.types import TaskStatus, TaskType
from avtomatika.queue.task import Task

#: The newest tasks that statistics are counted over, so that their cost does not grow with the queue.
COUNTED = 1000

_IDLE = (TaskStatus.PENDING, TaskStatus.PAUSED)


def statistics(tasks: Sequence[Task], *, total: int, live: int, max_concurrent: int | None, paused: bool) -> JSON:
    """
    Args:
        tasks: the newest ones, COUNTED at most.
        total, live: how many there are in all, and how many of those have not ended.
        max_concurrent: how many may run at once; None where only the workers' slots say that.
        paused: whether the queue is.
    """
    now = datetime.now(UTC)
    statuses = Counter(task.status for task in tasks)
    completed, failed = statuses[TaskStatus.COMPLETED], statuses[TaskStatus.FAILED] + statuses[TaskStatus.TIMEOUT]
    durations = [seconds for task in tasks if task.status.is_final and (seconds := task.get_duration()) is not None]
    return {
        "summary": {
            "total_tasks": total,
            "unfinished_tasks": live,
            "counted_tasks": len(tasks),
            "max_concurrent": max_concurrent,
            "current_running": sum(statuses[status] for status in TaskStatus if not status.is_final and status not in _IDLE),
            "queue_size": statuses[TaskStatus.PENDING],
            "paused": paused,
        },
        "status_distribution": {status.value: statuses[status] for status in TaskStatus},
        "type_distribution": _spread([*TaskType], (str(task.task_type) for task in tasks)),
        "error_distribution": _spread([*TaskErrorCode], (task.error_code for task in tasks if task.error_code)),
        "performance": {
            "average_duration_seconds": round(sum(durations) / len(durations), 3) if durations else 0.0,
            "completed_tasks": completed,
            "failed_tasks": failed,
            "success_rate": round(100 * completed / len(tasks), 2) if tasks else 0.0,
        },
        "retry_statistics": {
            "total_retries": sum(task.retry_count for task in tasks),
            "tasks_with_retries": sum(task.retry_count > 0 for task in tasks),
            "max_retries_reached": sum(bool(task.max_retries) and task.retry_count >= (task.max_retries or 0) for task in tasks),
        },
        "recent_activity": {
            "last_24h": _since(tasks, now - timedelta(hours=24)),
            "last_hour": _since(tasks, now - timedelta(hours=1)),
        },
    }


def _spread(known: Sequence[str], found: object) -> dict[str, int]:
    """Every known name with how often it was found, and those of other packages, too."""
    counts = Counter(found)  # type: ignore[call-overload]
    return {**{str(name): counts.pop(str(name), 0) for name in known}, **counts}


def _since(tasks: Sequence[Task], at: datetime) -> int:
    return sum(task.created_at is not None and task.created_at >= at for task in tasks)
