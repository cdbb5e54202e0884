"""The engine's Celery tasks, on queue `orchestrator`: thin shells around the engine's methods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.exceptions import BackendError
from redis.exceptions import RedisError

from avtomatika.compiler import AGGREGATE, CANCEL, CHILD_ENDED, RESUME, RESUME_ERROR, STEP, cancel_key
from avtomatika.engine.fleet import envelope_of_failure
from avtomatika.engine.orders import Orders
from avtomatika.errors import StoreUnavailableError, UnknownJobError, WrongStateError
from avtomatika.holdings import holdings
from avtomatika.jobs import Result
from avtomatika.worker.pool import Requeue, TaskRequest
from avtomatika.worker.requests import request_of

if TYPE_CHECKING:
    from avtomatika.runtime import Runtime

logger = logging.getLogger(__name__)


class ControlTask(Task):
    """A control message. It runs on the pool's loop; under Celery's own pools on a loop beside them.

    Attributes:
        claims: it claims the job, so that the claim has to be given back where it is not carried out to its end.
    """

    abstract = True
    acks_late = True
    ignore_result = True
    typing = False
    claims = True
    runtime: Runtime

    async def run_async(self, request: TaskRequest) -> None:
        with holdings().job(request.kwargs["job_id"]):
            await self._carry_out(request)

    async def _carry_out(self, request: TaskRequest) -> None:
        job_id = request.kwargs["job_id"]
        wait = 0.1
        interrupted = False
        while True:
            try:
                if interrupted and self.claims:
                    await self.runtime.engine.give_back(job_id)
                    interrupted = False
                await self.handle(*request.args, **request.kwargs)
                return
            except StoreUnavailableError as exc:
                logger.warning("%s waits for the store: %s", self.name, exc, extra={"action": self.name, "job_id": job_id})
                interrupted = True
                try:
                    await asyncio.sleep(wait)
                except asyncio.CancelledError:
                    await self._give_back(job_id)
                    raise Requeue from None
                wait = min(2.0, wait * 2)
            except asyncio.CancelledError:
                # The process is stopping: whoever takes the message next goes on.
                await self._give_back(job_id)
                raise Requeue from None
            except Exception:
                await self._give_back(job_id)
                raise

    async def _give_back(self, job_id: str) -> None:
        if not self.claims:
            return
        try:
            await self.runtime.engine.give_back(job_id)
        except StoreUnavailableError:
            logger.debug("the claim stays until this boot ends or the store is back", extra={"job_id": job_id})

    def run(self, *args: Any, **kwargs: Any) -> None:
        self.runtime.run(self.run_async(request_of(self, args, kwargs)))

    def handle(self, *args: Any, **kwargs: Any) -> Awaitable[None]:
        raise NotImplementedError


class Step(ControlTask):
    name = STEP

    def handle(self, job_id: str, version: int) -> Awaitable[None]:
        return self.runtime.engine.step(job_id, version)


class Resume(ControlTask):
    name = RESUME

    def handle(self, envelope: Any, *, job_id: str, task_id: str, fanout_id: str | None = None) -> Awaitable[None]:
        return self.runtime.engine.resume(job_id, task_id, envelope, fanout_id)


class ResumeError(ControlTask):
    """What a plain Celery task's worker calls when the task raised: it knows the id only, not the exception."""

    name = RESUME_ERROR

    async def handle(self, task_id: str, *_: Any, job_id: str, fanout_id: str | None = None) -> None:
        try:
            envelope = await asyncio.to_thread(envelope_of_failure, self.runtime.settings, task_id)
        except (BackendError, OSError, RedisError) as exc:
            raise StoreUnavailableError(f"the fleet's result backend does not answer: {exc}") from exc
        await self.runtime.engine.resume_plain(task_id, None, Result.from_value(envelope))


class Aggregate(ControlTask):
    name = AGGREGATE

    def handle(self, *_: Any, job_id: str, fanout_id: str) -> Awaitable[None]:
        return self.runtime.engine.aggregate(job_id, fanout_id)


class ChildEnded(ControlTask):
    name = CHILD_ENDED

    def handle(self, *, job_id: str, child_id: str) -> Awaitable[None]:
        return self.runtime.engine.child_ended(job_id, child_id)


class Cancel(ControlTask):
    """A job that is cancelled has its child cancelled, too."""

    name = CANCEL
    claims = False

    async def handle(self, *, job_id: str, who: str = "", force: bool = False) -> None:
        key = cancel_key(job_id)
        try:
            await Orders(self.runtime.engine).cancel(job_id, who=who, force=force, settles=(key,))
        except (UnknownJobError, WrongStateError):  # it has ended by itself
            await self.runtime.engine.store.settle([key])


def register(app: Celery, runtime: Runtime) -> None:
    """Registers the engine's tasks with an app."""
    for cls in (Step, Resume, ResumeError, Aggregate, ChildEnded, Cancel):
        task = cls()
        task.runtime = runtime
        app.register_task(task)
