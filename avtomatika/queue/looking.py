"""What a client sees of the queue: tasks, their logs and places, and the queue in numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from avtomatika.engine.service import Service
from avtomatika.jobs import JSON, Client, Job
from avtomatika.operations.admission import CATEGORY, LOGS, NAME, STATUS, check_queue
from avtomatika.operations.config import operations_config
from avtomatika.operations.errors import PolicyError
from avtomatika.operations.registry import registry
from avtomatika.operations.types import TaskStatus, TaskType
from avtomatika.queue.errors import UnknownTaskError
from avtomatika.queue.process import service_here
from avtomatika.queue.reading import LOG_LINES, read_log, read_task, read_tasks
from avtomatika.queue.statistics import COUNTED, statistics
from avtomatika.queue.task import Task
from avtomatika.state.base import Order

#: Whoever has direct access to the store may do what the single CLIENT_TOKEN may.
LOCAL = Client("default", admin=True)
#: Tasks of `get_all_tasks` and of the filters, unless more are asked for.
LISTED_MOST = 1000
#: Tasks that a filter looks through at most: none is slower, however long the queue is.
LOOKED_AT = 20_000
RECENT = 10
#: Tasks read in one call to the store, while all are gone through.
PAGE = 200


class QueueView:
    """The part of `TaskQueue` that changes nothing."""

    def __init__(
        self, service: Service | None = None, client: Client = LOCAL, *, max_concurrent: int | None = None, name: str = "default"
    ) -> None:
        self._given = service
        self.client = client
        self.max_concurrent = max_concurrent
        self.name = name

    async def service(self) -> Service:
        """The engine's service that it works on."""
        return self._given or await service_here()

    async def _allowed(self, what: str) -> Service:
        service = await self.service()
        check_queue(self.client, operations_config(service.settings), what)
        return service

    @property
    def _owner(self) -> str | None:
        return None if self.client.admin else self.client.name

    async def note_for(self, task_type: str) -> str | None:
        """What is to be known of a type now: that no live worker offers it, and what to do; None where all is well."""
        service = await self.service()
        if (await service.store.candidates(task_type, Order.COST, service.clock(), count=1)).known:
            return None
        operation = registry().get(task_type)
        return (
            f"no live worker offers {task_type} now: the task waits until one does. Start one, `celery -A avtomatika worker "
            f"-Q {operation.capability}`, where `avtomatika queue operations` says that it can run"
        )

    async def job(self, task_id: str, service: Service | None = None) -> Job:
        """The job of a task; UnknownTaskError for one that is not there, or another client's."""
        service = service or await self.service()
        job = await service.store.load(task_id)
        if job is None or job.blueprint_name != NAME or self._owner not in (None, job.client.name):
            raise UnknownTaskError(task_id)
        return job

    async def find(self, task_id: str, *, logs: bool = False) -> Task:
        """A task; UnknownTaskError."""
        service = await self._allowed(STATUS)
        return await read_task(service.store, await self.job(task_id, service), logs=logs)

    async def get_task(self, task_id: str) -> Task | None:
        """A task with its log, or None."""
        try:
            return await self.find(task_id, logs=await self.may(LOGS))
        except UnknownTaskError:
            return None

    async def may(self, what: str) -> bool:
        """Whether the client may do this."""
        try:
            await self._allowed(what)
        except PolicyError:
            return False
        return True

    async def get_tasks(
        self,
        *,
        status: TaskStatus | str | None = None,
        task_type: TaskType | str | None = None,
        category: str | None = None,
        tag: str | None = None,
        limit: int = LISTED_MOST,
    ) -> list[Task]:
        """The tasks that fit, newest first, without logs.

        Of those that have not ended the first LISTED_MOST are looked through; of others the newest LOOKED_AT.
        """
        service, found, looked_at = await self._allowed(STATUS), list[Task](), 0
        if status is not None and not TaskStatus(status).is_final:
            jobs = await service.store.listed_live(NAME, client=self._owner, limit=LISTED_MOST)
            fitting = [job for job in jobs if _fits(job, task_type, category, tag, status)]
            live = [task for task in await read_tasks(service.store, fitting) if task.status == status]
            return sorted(live, key=lambda task: (task.created_at, task.id), reverse=True)[:limit]
        before: tuple[float, str] | None = None
        while len(found) < limit and looked_at < LOOKED_AT:
            jobs = await service.store.listed(NAME, client=self._owner, limit=PAGE, before=before)
            fitting = [job for job in jobs if _fits(job, task_type, category, tag, status)]
            found += [task for task in await read_tasks(service.store, fitting) if status is None or task.status == status]
            looked_at += len(jobs)
            if len(jobs) < PAGE:
                break
            before = (jobs[-1].created_at, jobs[-1].id)
        return found[:limit]

    async def get_all_tasks(self) -> list[Task]:
        """The newest tasks, LISTED_MOST at most."""
        return await self.get_tasks()

    async def get_tasks_by_status(self, status: TaskStatus | str) -> list[Task]:
        """Tasks of one status, newest first."""
        return await self.get_tasks(status=TaskStatus(status))

    async def get_tasks_by_type(self, task_type: TaskType | str) -> list[Task]:
        """Tasks of one type, newest first."""
        return await self.get_tasks(task_type=task_type)

    async def get_tasks_by_category(self, category: str) -> list[Task]:
        """Tasks of one category, newest first."""
        return await self.get_tasks(category=category)

    async def get_tasks_by_tag(self, tag: str) -> list[Task]:
        """Tasks with a tag, newest first."""
        return await self.get_tasks(tag=tag)

    async def get_task_summary(self, task_id: str) -> JSON | None:
        """A task in short; None where it is not there."""
        task = await self.get_task(task_id)
        return task.summary() if task is not None else None

    async def get_task_logs(self, task_id: str, limit: int = LOG_LINES) -> list[str] | None:
        """The latest lines of a task's log, oldest first; None where it is not there."""
        service = await self._allowed(LOGS)
        try:
            return await read_log(service.store, await self.job(task_id, service), limit=limit)
        except UnknownTaskError:
            return None

    async def get_task_position(self, task_id: str) -> int | None:
        """Its place among all tasks that have not ended, by priority, then age; 1 is the first. None where it has ended."""
        service = await self._allowed(STATUS)
        with suppress(UnknownTaskError):
            rank = await service.store.live_rank(NAME, (await self.job(task_id, service)).id)
            return None if rank is None else rank + 1
        return None

    async def get_place(self, task_id: str) -> int | None:
        """The same, for whoever has just added it."""
        rank = await (await self.service()).store.live_rank(NAME, task_id)
        return None if rank is None else rank + 1

    async def get_queue_stats(self) -> JSON:
        """Numbers, of the newest COUNTED tasks; `total_tasks` and `unfinished_tasks` count all of them."""
        return self._stats(await self._newest(), *await self._counts())

    async def get_queue_status(self) -> JSON:
        """The numbers, at the top and as `statistics`; the RECENT newest tasks; and those that run."""
        tasks, counts = await asyncio.gather(self._newest(), self._counts())
        found, running = self._stats(tasks, *counts), [t for t in tasks if runs(t.status)]
        return {
            **found,
            "statistics": found,
            "recent_tasks": [task.to_dict() for task in tasks[:RECENT]],
            "running_tasks": [task.to_dict() for task in running],
        }

    async def _newest(self) -> list[Task]:
        """The newest COUNTED tasks, and among them all that have not ended, however old (COUNTED of those, too, at most)."""
        service = await self._allowed(STATUS)
        newest = await service.store.listed(NAME, client=self._owner, limit=COUNTED)
        live = await service.store.listed_live(NAME, client=self._owner, limit=COUNTED)
        jobs = {job.id: job for job in (*newest, *live)}
        first = sorted(jobs.values(), key=lambda job: (not job.status.is_terminal, job.created_at, job.id), reverse=True)[
            :COUNTED
        ]
        return await read_tasks(service.store, sorted(first, key=lambda job: (job.created_at, job.id), reverse=True))

    async def _counts(self) -> tuple[int, int, bool]:
        store, owner = (await self.service()).store, self._owner
        total, live = await store.count_listed(NAME, client=owner), await store.count_listed(NAME, client=owner, live=True)
        return total, live, await store.held(NAME) is not None

    def _stats(self, tasks: Sequence[Task], total: int, live: int, paused: bool) -> JSON:
        return statistics(tasks, total=total, live=live, max_concurrent=self.max_concurrent, paused=paused)


def runs(status: TaskStatus) -> bool:
    """Whether a worker is at it."""
    return status is TaskStatus.RUNNING or status.is_intermediate


def _fits(job: Job, task_type: str | None, category: str | None, tag: str | None, status: TaskStatus | str | None) -> bool:
    """What can be told from the record alone."""
    data = job.initial_data
    return (
        (task_type is None or data.get("task_type") == task_type)
        and (category is None or (data.get("category") or CATEGORY) == category)
        and (tag is None or tag in job.tags)
        and (status is None or TaskStatus(status).is_final == job.status.is_terminal)
    )
