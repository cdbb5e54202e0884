"""Running one attempt: claim it, call the handler, report the result together with the message that carries it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.canvas import maybe_signature
from celery.signals import task_revoked

from avtomatika.broker.messages import prepare
from avtomatika.compiler import resume_key
from avtomatika.errors import StoreUnavailableError
from avtomatika.holdings import HeldAttempt, holdings
from avtomatika.jobs import JSON, Message, Result, ResultError, new_id
from avtomatika.results import LATE, outcome_of
from avtomatika.state.base import ClaimOutcome, CommitResult, TaskClaim
from avtomatika.worker.calls import Call, result_of, result_of_cancel
from avtomatika.worker.pool import CancelReason, Requeue, TaskRequest, current_cancel_reason
from avtomatika.worker.requests import request_of, request_of_context
from avtomatika.worker.sdk import TaskDeclaration, declared

if TYPE_CHECKING:
    from avtomatika.runtime import Runtime

logger = logging.getLogger(__name__)


class TaskFailed(Exception):
    """The attempt ended with a failure; its envelope is on its way to the orchestrator. Shown by events and Flower."""


class DeclaredTask(Task):
    """A task declared with the SDK, as Celery sees it."""

    abstract = True
    acks_late = True
    ignore_result = True
    typing = False
    throws = (TaskFailed,)  # told in one line; what the handler raised was logged where it was caught
    declaration: TaskDeclaration
    runtime: Runtime

    async def run_async(self, request: TaskRequest) -> Any:
        if "task_id" not in request.kwargs or "job_id" not in request.kwargs:
            return await self._by_hand(request)
        return await Attempt(self.runtime, self.declaration, request).run()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Under Celery's own pools: the same, on a loop beside the pool."""
        return self.runtime.run(self.run_async(request_of(self, args, kwargs)))

    async def _by_hand(self, request: TaskRequest) -> Any:
        """Sent by somebody without a job: the keyword arguments are the params, the return value is the result."""
        context = dict.fromkeys(("job_id", "attempt", "timeout_at"))
        call = _call(self.runtime, self.declaration, {**request.kwargs}, {**context, "task_id": request.id, "priority": 0.0})
        return await call.value()


def _call(runtime: Runtime, declaration: TaskDeclaration, params: JSON, context: JSON) -> Call:
    """A call of a handler whose progress goes into the store."""

    async def report(task_id: str, job_id: str, progress: float, message: str) -> None:
        try:
            await runtime.store.task_progress(task_id, runtime.boot_id, progress, message)
        except StoreUnavailableError as exc:
            logger.debug("progress is not shown: %s", exc, extra={"action": "progress", "task_id": task_id})

    context = {**context, "worker_id": runtime.worker_id}
    return Call(declaration, params, context, report, runtime.hot_cache, runtime.loop)


class Attempt:
    """One attempt from its message to its result."""

    def __init__(self, runtime: Runtime, declaration: TaskDeclaration, request: TaskRequest) -> None:
        self._runtime = runtime
        self._declaration = declaration
        self._request = request
        self.task_id: str = request.kwargs["task_id"]
        self.job_id: str = request.kwargs["job_id"]
        self._store_is_away = False
        self._claim_call, self._finish_call = new_id(), new_id()

    async def run(self) -> Any:
        known = holdings().attempts.get(self.task_id)
        if known is not None:
            return await self._came_again(known)
        with holdings().attempt(self.task_id, self._claim) as held:
            return await self._run(held)

    async def _came_again(self, known: HeldAttempt) -> None:
        """Its message came a second time while it runs here. By a store that had lost its claim it would run twice."""
        logger.info("attempt %s runs here already", self.task_id, extra={"action": "claim", "job_id": self.job_id})
        if known.runs:
            claim, _ = await self._wholly(known.claim)
            with contextlib.suppress(StoreUnavailableError):
                await self._runtime.publisher.flush(claim.outbox)

    async def _run(self, held: HeldAttempt) -> Any:
        claim, stopped = await self._wholly(lambda: self._claim())
        with contextlib.suppress(StoreUnavailableError):  # others' messages: the housekeeping publishes what stays in the outbox
            await self._runtime.publisher.flush(claim.outbox)
        if claim.outcome is not ClaimOutcome.OK:
            logger.info(
                "attempt %s is not run: %s", self.task_id, claim.outcome.value, extra={"action": "claim", "job_id": self.job_id}
            )
            if claim.outcome is ClaimOutcome.CANCELLED:  # nobody will begin it any more: its job is not to wait
                result = Result(Result.CANCELLED, error=ResultError("CANCELLED", "cancelled before it began"))
                done, _ = await self._wholly(
                    lambda: self._runtime.store.publish(self._message(result, {}), self._runtime.clock())
                )
                await self._runtime.publisher.flush(done.outbox)
            return None
        began = time.perf_counter()
        held.runs = True
        try:
            result = await self._call(claim) if not stopped else await self._cancelled()
        except asyncio.CancelledError:
            result = await self._cancelled()
        meta = {
            "worker_id": self._runtime.worker_id,
            "type": self._declaration.name,
            "attempt": self._request.kwargs.get("attempt"),
            "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        }
        held.runs = False
        await self._wholly(lambda: self._finish(result, meta))
        if result.status == Result.SUCCESS:
            return result.to_dict()
        error = f": {result.error.code}: {result.error.message}" if result.error is not None else ""
        raise TaskFailed(f"{result.status}{error}")

    def _claim(self) -> Awaitable[TaskClaim]:
        runtime = self._runtime
        return runtime.store.claim_task(
            self.task_id,
            runtime.worker_id,
            runtime.boot_id,
            runtime.clock(),
            runtime.settings.worker_timeout_seconds,
            declared().capability_of(self._declaration.name),
            call=self._claim_call,  # the same for every try: it may have been applied without an answer
        )

    async def _call(self, claim: TaskClaim) -> Result:
        kwargs = self._request.kwargs
        context = {
            "task_id": self.task_id,
            "job_id": self.job_id,
            "priority": kwargs.get("priority", 0.0),
            "attempt": kwargs.get("attempt", 1),
            "timeout_at": claim.timeout_at,
            "tracing_context": kwargs.get("tracing_context", {}),
        }
        call = _call(self._runtime, self._declaration, kwargs.get("params") or {}, context)
        return await result_of(call, max(0.0, (claim.timeout_at or 0) - self._runtime.clock()))

    async def _cancelled(self) -> Result:
        """Why the coroutine was cancelled decides: a stopping worker hands the attempt back, everything else ends it."""
        result = result_of_cancel(current_cancel_reason())
        if result is not None:
            return result
        runtime = self._runtime
        with contextlib.suppress(StoreUnavailableError):  # then the end of this boot gives it back
            await runtime.store.release_task(self.task_id, runtime.boot_id, runtime.clock())
        raise Requeue("the worker stops; the attempt goes back to its queue")

    async def _finish(self, result: Result, meta: JSON) -> None:
        runtime = self._runtime
        message = self._message(result, meta)
        now = runtime.clock()

        async def finish() -> CommitResult:
            return await runtime.store.finish_task(
                self.task_id, runtime.boot_id, result, message, now, outcome_of(result), call=self._finish_call
            )

        done = await finish()
        if not done.applied and (await self._claim()).outcome is ClaimOutcome.OK:  # a store that had lost the claim
            done = await finish()
        if not done.applied:
            logger.info(
                "the result of %s is not taken: the attempt is over", self.task_id,
                extra={"action": "finish", "job_id": self.job_id},
            )  # fmt: skip
            await runtime.store.drop_claim(runtime.boot_id, task_id=self.task_id)
            if result.status != Result.CANCELLED:
                await runtime.store.note_outcome(runtime.worker_id, LATE, now)
        await runtime.publisher.flush(done.outbox)

    async def revoked(self) -> None:
        """Celery has thrown the message away, unstarted, since its id was revoked: the job is told."""
        with holdings().attempt(self.task_id, self._claim):
            claim = await self._store(lambda: self._claim())
            if claim.outcome is ClaimOutcome.OK:
                result = Result(Result.CANCELLED, error=ResultError("CANCELLED", "the task was revoked before it started"))
                meta = {"worker_id": self._runtime.worker_id, "attempt": self._request.kwargs.get("attempt")}
                await self._store(lambda: self._finish(result, meta))

    def _message(self, result: Result, meta: JSON) -> Message:
        """The next link of the chain, with the envelope as its first argument: what Celery's tracer would publish."""
        chain = list(self._request.chain)
        resume = maybe_signature(chain.pop(), app=self._runtime.app)
        resume = resume.clone(args=({**result.to_dict(), "meta": meta},))
        return prepare(self._runtime.app, resume, self._runtime.clock(), declare="default", key=resume_key(self.task_id))

    async def _wholly(self, call: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """A call to the store that no stop interrupts half-way; its answer, and whether one came meanwhile."""
        asking, stopped = asyncio.ensure_future(self._store(call)), False
        while not asking.done():
            try:
                await asyncio.shield(asking)
            except asyncio.CancelledError:
                stopped = True
                if self._store_is_away and current_cancel_reason() is CancelReason.SHUTDOWN:
                    asking.cancel()
            except Exception:
                break
        return asking.result(), stopped

    async def _store(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A store that is away is waited for: the work is not thrown away. A stopping worker hands the message back."""
        wait = 0.1
        while True:
            try:
                return await call()
            except StoreUnavailableError as exc:
                logger.warning("%s waits for the store: %s", self._declaration.name, exc, extra={"job_id": self.job_id})
                self._store_is_away = True
                try:
                    await asyncio.sleep(wait)
                except asyncio.CancelledError:
                    raise Requeue("the worker stops while the store is away") from None
                self._store_is_away = False
                wait = min(2.0, wait * 2)


@task_revoked.connect
def _on_revoked(sender: Any = None, request: Any = None, terminated: bool = False, **_: Any) -> None:
    if not isinstance(sender, DeclaredTask) or terminated or "job_id" not in (request.kwargs or {}):
        return
    attempt = Attempt(sender.runtime, sender.declaration, request_of_context(request))
    asyncio.run_coroutine_threadsafe(attempt.revoked(), sender.runtime.loop)


def register(app: Celery, runtime: Runtime, declaration: TaskDeclaration) -> None:
    """Registers a declared task with an app, under its own name."""
    task = DeclaredTask()
    task.name = declaration.name
    task.declaration = declaration
    task.runtime = runtime
    app.register_task(task)
