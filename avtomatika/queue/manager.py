"""`QueueManager`: the queue for programs, with one method for each type of task."""

from __future__ import annotations

from typing import Any

from avtomatika.engine.service import Service
from avtomatika.jobs import JSON, Client
from avtomatika.operations.admission import CATEGORY
from avtomatika.operations.types import TaskType
from avtomatika.queue.adding import Adding
from avtomatika.queue.looking import LOCAL
from avtomatika.queue.process import close_here
from avtomatika.queue.taskqueue import TaskQueue


class QueueManager(Adding, TaskQueue):
    """A `TaskQueue` with a method for each type of task. Without a `service` it connects at first use, by the process's settings.

    Every `add_…_task` returns the new task's id. Its options are parameters of the operation, and those of the task:
    priority, category, tags, timeout_seconds, max_retries, webhook_url, idempotency_key.
    """

    def __init__(
        self, service: Service | None = None, client: Client = LOCAL, *, max_concurrent: int | None = None, name: str = "default"
    ) -> None:
        super().__init__(service, client, max_concurrent=max_concurrent, name=name)

    async def add_generic_task(self, task_type: TaskType | str, params: JSON | None = None, **options: Any) -> str:
        """A task of any type."""
        return await self._add(task_type, params or {}, options)

    async def get_task_status(self, task_id: str) -> JSON | None:
        """A task with its log, as JSON; None where it is not there."""
        task = await self.get_task(task_id)
        return task.to_dict() if task is not None else None

    async def clear_completed_tasks(self) -> int:
        """See `clear_completed`."""
        return await self.clear_completed()

    async def _add(self, task_type: TaskType | str, params: JSON, options: JSON, *tags: str) -> str:
        own = {name: options.pop(name) for name in _TASK_OPTIONS if name in options}
        own.setdefault("category", str(task_type).partition("_")[0] if tags else CATEGORY)
        own.setdefault("tags", tags)
        given = {name: value for name, value in {**params, **options}.items() if value is not None}
        return (await self.push(task_type, given, **own)).id

    async def close(self) -> None:
        """Closes the connections of the running event loop; the next call opens others."""
        if self._given is None:
            await close_here()


_TASK_OPTIONS = ("priority", "category", "tags", "timeout_seconds", "max_retries", "webhook_url", "idempotency_key")

#: The queue of this process's settings.
queue_manager = QueueManager()
