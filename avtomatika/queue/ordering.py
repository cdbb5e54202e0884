"""What a client may have done with tasks: cancel, pause, resume, retry, remove; and with the queue as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from avtomatika.engine.service import Service
from avtomatika.errors import HoldChangedError, UnknownJobError, WrongStateError
from avtomatika.jobs import FanOut, Job, JobStatus, SubJob
from avtomatika.operations.admission import CANCEL, MANAGE, NAME
from avtomatika.operations.errors import PolicyError
from avtomatika.operations.registry import registry
from avtomatika.operations.types import TaskStatus
from avtomatika.queue.errors import ActionFailedError, UnknownTaskError
from avtomatika.queue.looking import PAGE, QueueView, runs
from avtomatika.queue.reading import read_task
from avtomatika.queue.task import Task
from avtomatika.state.base import Hold
from avtomatika.state.listed import HELD_BY

_REASONS = {
    TaskStatus.COMPLETED: "Task is already completed",
    TaskStatus.FAILED: "Task has failed",
    TaskStatus.CANCELLED: "Task is already cancelled",
    TaskStatus.TIMEOUT: "Task has timed out",
    TaskStatus.PENDING: "Task is waiting in the queue",
    TaskStatus.PAUSED: "Task is paused",
}


class QueueOrders(QueueView):
    """The part of `TaskQueue` that changes tasks which are there."""

    async def cancel(self, task_id: str, *, force: bool = False) -> Task:
        """Cancels a task, whatever it does now; UnknownTaskError, ActionFailedError for one that has ended."""
        service = await self._allowed(CANCEL)
        return await self._order(service, "cancel", task_id, lambda: service.orders.cancel(task_id, who=self._who, force=force))

    async def pause(self, task_id: str) -> Task:
        """Pauses a task that waits, one whose operation can go on later, or one on many hosts before its next batch."""
        service = await self._allowed(MANAGE)
        return await self._order(service, "pause", task_id, lambda: service.orders.pause(task_id, who=self._who))

    async def resume(self, task_id: str) -> Task:
        """Lets a paused task go on."""
        service = await self._allowed(MANAGE)
        return await self._order(service, "resume", task_id, lambda: service.orders.resume(task_id, who=self._who))

    async def retry(self, task_id: str) -> Task:
        """Tries a failed task again; one on many hosts on those that have not succeeded."""
        service = await self._allowed(MANAGE)
        return await self._order(service, "retry", task_id, lambda: service.orders.retry(task_id, who=self._who))

    async def remove(self, task_id: str, *, force: bool = False) -> None:
        """Forgets an ended task; with `force` it is cancelled first where it lives."""
        service = await self._allowed(MANAGE)
        job = await self.job(task_id, service)
        if not job.status.is_terminal:
            task = await read_task(service.store, job)
            if not force:
                raise ActionFailedError("remove", task_id, task.status, "Task has not ended: cancel it first, or force it")
            job, _ = await service.orders.cancel(task_id, who=self._who, force=True)
        await self._forget(service, job)

    async def cancel_task(self, task_id: str, force: bool = False) -> bool:
        """Cancels a task; false where it has ended or is not there. Forced, it does not wait for its operation to stop."""
        return await _done(self.cancel(task_id, force=force))

    async def pause_task(self, task_id: str) -> bool:
        """See `pause`; false where it cannot be paused."""
        return await _done(self.pause(task_id))

    async def resume_task(self, task_id: str) -> bool:
        """See `resume`; false where it is not paused."""
        return await _done(self.resume(task_id))

    async def retry_task(self, task_id: str) -> bool:
        """See `retry`; false where it has not failed."""
        return await _done(self.retry(task_id))

    async def remove_task(self, task_id: str, force: bool = False) -> bool:
        """See `remove`; false where it lives, or is not there."""
        return await _done(self.remove(task_id, force=force))

    async def clear_completed(self) -> int:
        """Forgets every task that has ended, in whatever way; how many those were."""
        service, gone, before = await self._allowed(MANAGE), 0, None
        while jobs := await service.store.listed(NAME, client=self._owner, limit=PAGE, before=before):
            for job in jobs:
                if job.status.is_terminal:
                    gone += await _done(self._forget(service, job))
            before = (jobs[-1].created_at, jobs[-1].id)
        return gone

    async def pause_queue(self) -> int:
        """Holds the queue for all clients: new tasks wait, those that no worker has begun are paused; what runs goes on.

        Returns:
            How many tasks were paused.
        """
        service = await self._for_all()
        hold = Hold(service.clock(), self._who)
        await service.store.hold(NAME, hold)
        paused = 0
        with suppress(HoldChangedError):  # whoever came after this order goes through all of them as well
            async for job in _every_live(service):
                if (await read_task(service.store, job)).status is TaskStatus.PENDING:
                    with _ended_meanwhile():
                        paused += (await service.orders.pause(job.id, who=HELD_BY, hold=hold)).status is JobStatus.PAUSED
        return paused

    async def resume_queue(self, max_concurrent: int | None = None) -> int:
        """Lets the queue go on, and the tasks that it held; those that somebody paused by themselves stay so.

        Args:
            max_concurrent: of this object from now on, where it is given.
        """
        service = await self._for_all()
        self.max_concurrent = max_concurrent if max_concurrent is not None else self.max_concurrent
        await service.store.hold(NAME, None)
        resumed = 0
        with suppress(HoldChangedError):
            async for job in _every_live(service):
                if job.status is JobStatus.PAUSED and await _held_by_queue(service, job):
                    with _ended_meanwhile():
                        await service.orders.resume(job.id, who=HELD_BY)
                        resumed += 1
        return resumed

    @property
    def _who(self) -> str:
        return self.client.name

    async def _for_all(self) -> Service:
        service = await self._allowed(MANAGE)
        if not self.client.admin:
            raise PolicyError("only an admin may pause and resume the queue as a whole: set admin = true in clients.toml")
        return service

    async def _order(self, service: Service, action: str, task_id: str, give: Callable[[], Awaitable[Any]]) -> Task:
        job = await self.job(task_id, service)
        task = await read_task(service.store, job)
        reason = _reason_against(action, task, job)
        if reason is not None:
            raise ActionFailedError(action, task_id, task.status, reason)
        try:
            await give()
        except UnknownJobError:
            raise UnknownTaskError(task_id) from None
        except WrongStateError as exc:  # something has changed since we looked
            task = await read_task(service.store, await self.job(task_id, service))
            raise ActionFailedError(action, task_id, task.status, str(exc)) from None
        return await read_task(service.store, await self.job(task_id, service))

    async def _forget(self, service: Service, job: Job) -> None:
        parent = await service.store.load(job.parent_job_id) if job.parent_job_id else None
        if parent is not None and isinstance(parent.waiting, SubJob) and parent.waiting.job_id == job.id:
            raise ActionFailedError("remove", job.id, job.status, f"Job {parent.id} is about to take its result")
        if job.status is JobStatus.QUARANTINED:
            await service.orders.discard(job.id, who=self._who, reason="removed from the queue")
        if not await service.store.forget_job(job.id):
            raise UnknownTaskError(job.id)


async def _every_live(service: Service) -> AsyncIterator[Job]:
    """All tasks that have not ended now: what begins or ends meanwhile moves none of them out of sight."""
    ids = await service.store.live_ids(NAME)
    for begin in range(0, len(ids), PAGE):
        for job in await service.store.load_many(ids[begin : begin + PAGE]):
            yield job


@contextmanager
def _ended_meanwhile() -> Iterator[None]:
    """Of an order to all of them, what one refuses that has changed since it was read."""
    try:
        yield
    except HoldChangedError:
        raise
    except (WrongStateError, UnknownJobError):
        pass


async def _done(order: Awaitable[Any]) -> bool:
    try:
        await order
    except (UnknownTaskError, ActionFailedError):
        return False
    return True


def _reason_against(action: str, task: Task, job: Job) -> str | None:
    """Why an order cannot be given now; None where it can."""
    status = task.status
    match action:
        case "pause":
            if status is TaskStatus.PENDING:
                return None
            if not runs(status):
                return _REASONS[status]
            if job.cancel_requested:
                return "Task is being cancelled"
            return _reason_against_pausing(task, job)
        case "resume" if status is TaskStatus.PAUSED or job.pause_requested:
            return None
        case "resume":
            return "Task is already running" if runs(status) else f"Task is not paused: {_REASONS[status].lower()}"
        case "retry":
            return None if task.can_retry() else "Task is running" if runs(status) else _REASONS[status]
        case "cancel" if not status.is_final:
            return None
        case "cancel":
            return _REASONS[status]
    return "Action not allowed for current task status"


def _reason_against_pausing(task: Task, job: Job) -> str | None:
    if isinstance(job.waiting, FanOut):
        batches_left = len(job.state_history.get("todo") or ()) > 1
        return None if batches_left else "Its last batch of hosts runs, and a task on many hosts pauses between two batches"
    operation = registry().get(str(task.task_type))
    return None if operation.pausable else f"{operation.name} cannot be paused while it runs; cancel it instead"


async def _held_by_queue(service: Service, job: Job) -> bool:
    """Whether the queue paused it: it was made while the queue was paused, or the last order to pause was the queue's."""
    asked = [event for event in await service.store.events(job.id) if event.event_type == "pause_requested"]
    return not asked or asked[-1].details.get("by") == HELD_BY
