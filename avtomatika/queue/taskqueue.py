"""`TaskQueue`: one client's view on the queue, and what it may do there."""

from __future__ import annotations

from collections.abc import Callable, Collection

from avtomatika.jobs import JSON
from avtomatika.operations.admission import CATEGORY, NAME
from avtomatika.operations.types import TaskType
from avtomatika.queue.ordering import QueueOrders
from avtomatika.queue.reading import read_task
from avtomatika.queue.task import Task


class TaskQueue(QueueOrders):
    """Tasks are jobs of the blueprint ``operation``: whatever this class does, it does with those.

    A client sees and manages its own tasks, an admin all of them; what it may do at all says `queue` of its role's policy.
    Every method raises `StoreUnavailableError` while the store is away, and `PolicyError` for what the client may not do.

    Args:
        service: of the engine; without one, that of this process is opened at first use.
        max_concurrent: so many of the tasks that this object adds run at once; None leaves it to the workers' slots.
        name: queues of one name and client share `max_concurrent`.
    """

    async def push(
        self,
        task_type: TaskType | str,
        params: JSON,
        *,
        priority: float = 0.0,
        category: str = CATEGORY,
        tags: Collection[str] = (),
        timeout_seconds: float | None = None,
        max_retries: int | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        repeated: Callable[[], None] = lambda: None,
    ) -> Task:
        """Stores a new task; see `Task` and `Service.create` for what is what.

        Raises:
            OperationError: it does not fit (a VALIDATION code, or QUEUE_PRIORITY_INVALID).
            WrongStateError: the idempotency key was used for another task.
        """
        service = await self.service()
        wish = {
            "task_type": str(task_type),
            "params": params,
            "priority": priority,
            "category": category,
            "timeout_seconds": timeout_seconds,
            "max_retries": max_retries,
            "max_concurrent": self.max_concurrent,
            "queue": self.name if self.max_concurrent is not None else None,
        }
        job = await service.create(
            NAME,
            {name: value for name, value in wish.items() if value is not None},
            client=self.client,
            priority=priority,
            tags=tags,
            webhook_url=webhook_url,
            idempotency_key=idempotency_key,
            repeated=repeated,
        )
        return await read_task(service.store, job)

    async def add_task(self, task: Task) -> str:
        """Adds a task as it is described; its id."""
        added = await self.push(
            task.task_type,
            task.params,
            priority=task.priority,
            category=task.category,
            tags=tuple(task.tags),
            timeout_seconds=task.timeout_seconds,
            max_retries=task.max_retries,
        )
        return added.id
