"""Running one attempt: claim it, call the handler, report the result together with the message that carries it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.canvas import maybe_signature
from celery.signals import task_revoked

from avtomatika.broker.messages import prepare
from avtomatika.compiler import resume_key
from avtomatika.errors import ErrorCode, StoreUnavailableError, TaskError
from avtomatika.jobs import JSON, Message, Result, ResultError
from avtomatika.results import LATE, TIMED_OUT, outcome_of
from avtomatika.state.base import ClaimOutcome, TaskClaim
from avtomatika.worker.pool import CancelReason, Requeue, TaskRequest, current_cancel_reason
from avtomatika.worker.requests import request_of, request_of_context
from avtomatika.worker.sdk import TaskDeclaration, declared
from avtomatika.worker.threads import call_plainly

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
        call = Call(self.runtime, self.declaration, {**request.kwargs}, {**context, "task_id": request.id, "priority": 0.0})
        return await call.value()


class Call:
    """One call of a handler with what it may ask for."""

    def __init__(self, runtime: Runtime, declaration: TaskDeclaration, params: JSON, context: JSON) -> None:
        self._runtime = runtime
        self._declaration = declaration
        self._params = params
        self._context = {
            "tracing_context": {},
            **context,
            "worker_id": runtime.worker_id,
            "send_progress": self._send_progress if declaration.is_async else self._send_progress_from_thread,
            "add_to_hot_cache": runtime.hot_cache.add,
            "remove_from_hot_cache": runtime.hot_cache.discard,
        }

    async def value(self) -> Any:
        """What the handler returns; what it raises passes through."""
        declaration = self._declaration
        if declaration.process:
            return await self._in_process()
        arguments = declaration.arguments(self._params, self._context)
        if declaration.is_async:
            return await declaration.func(**arguments)
        return await _in_thread(declaration.func, arguments)

    async def _in_process(self) -> Any:
        from avtomatika.worker.process import ProcessRunner

        declaration = self._declaration
        assert declaration.path is not None
        plain = {name: value for name, value in self._context.items() if not callable(value)}

        async def on_progress(progress: float, message: str) -> None:
            await self._send_progress(plain["task_id"], plain.get("job_id"), progress, message)

        def on_cache(change: str, model: str) -> None:
            (self._runtime.hot_cache.add if change == "add" else self._runtime.hot_cache.discard)(model)

        return await ProcessRunner.current().run(declaration.path, declaration.name, self._params, plain, on_progress, on_cache)

    async def _send_progress(self, task_id: str, job_id: str | None, progress: float, message: str = "") -> None:
        if job_id is None:
            return
        progress = min(1.0, max(0.0, float(progress)))
        try:
            await self._runtime.store.task_progress(task_id, self._runtime.boot_id, progress, str(message))
        except StoreUnavailableError as exc:
            logger.debug("progress is not shown: %s", exc, extra={"action": "progress", "task_id": task_id})

    def _send_progress_from_thread(self, task_id: str, job_id: str | None, progress: float, message: str = "") -> None:
        asyncio.run_coroutine_threadsafe(self._send_progress(task_id, job_id, progress, message), self._runtime.loop)


class Attempt:
    """One attempt from its message to its result."""

    def __init__(self, runtime: Runtime, declaration: TaskDeclaration, request: TaskRequest) -> None:
        self._runtime = runtime
        self._declaration = declaration
        self._request = request
        self.task_id: str = request.kwargs["task_id"]
        self.job_id: str = request.kwargs["job_id"]

    async def run(self) -> Any:
        claim = await self._store(lambda: self._claim())
        with contextlib.suppress(StoreUnavailableError):  # others' messages: the housekeeping publishes what stays in the outbox
            await self._runtime.publisher.flush(claim.outbox)
        if claim.outcome is not ClaimOutcome.OK:
            logger.info(
                "attempt %s is not run: %s", self.task_id, claim.outcome.value, extra={"action": "claim", "job_id": self.job_id}
            )
            return None
        began = time.perf_counter()
        try:
            result = await self._call(claim)
        except asyncio.CancelledError:
            result = await self._cancelled()
        meta = {
            "worker_id": self._runtime.worker_id,
            "type": self._declaration.name,
            "attempt": self._request.kwargs.get("attempt"),
            "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        }
        await self._store(lambda: self._finish(result, meta))
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
            time.time(),
            runtime.settings.worker_timeout_seconds,
            declared().capability_of(self._declaration.name),
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
        call = Call(self._runtime, self._declaration, kwargs.get("params") or {}, context)
        left = max(0.0, (claim.timeout_at or 0) - time.time())
        try:
            async with asyncio.timeout(left) as clock:
                value = await call.value()
        except TimeoutError as exc:
            if clock.expired():
                return Result(Result.TIMEOUT, error=ResultError("TIMEOUT", TIMED_OUT))
            return _raised(exc)
        except TaskError as exc:
            value = Result.failure(exc.code, str(exc), exc.data)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:  # whatever it is (a panic of an extension, say), the attempt ends and is reported
            logger.warning("task %s raised", self._declaration.name, exc_info=exc, extra={"action": "run", "job_id": self.job_id})
            return _raised(exc)
        return _checked(value, self._declaration.name)

    async def _cancelled(self) -> Result:
        """Why the coroutine was cancelled decides: a stopping worker hands the attempt back, everything else ends it."""
        reason = current_cancel_reason()
        if reason in (CancelReason.SOFT_TIMEOUT, CancelReason.HARD_TIMEOUT):
            return Result(Result.TIMEOUT, error=ResultError("TIMEOUT", "the task's time limit has passed"))
        if reason in (CancelReason.REVOKED, CancelReason.CANCELLED):
            return Result(Result.CANCELLED, error=ResultError("CANCELLED", f"the task was {reason.value}"))
        here = asyncio.current_task()
        if reason is None and here is not None and not here.cancelling():
            return Result.failure(ErrorCode.TRANSIENT, "CancelledError: the task was cancelled from within")
        runtime = self._runtime
        with contextlib.suppress(StoreUnavailableError):  # then the end of this boot gives it back
            await runtime.store.release_task(self.task_id, runtime.boot_id, time.time())
        raise Requeue("the worker stops; the attempt goes back to its queue")

    async def _finish(self, result: Result, meta: JSON) -> None:
        runtime = self._runtime
        message = self._message(result, meta)
        now = time.time()
        done = await runtime.store.finish_task(self.task_id, runtime.boot_id, result, message, now, outcome_of(result))
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
        return prepare(self._runtime.app, resume, time.time(), declare="default", key=resume_key(self.task_id))

    async def _store(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A store that is away is waited for: the work is not thrown away. A stopping worker hands the message back."""
        wait = 0.1
        while True:
            try:
                return await call()
            except StoreUnavailableError as exc:
                logger.warning("%s waits for the store: %s", self._declaration.name, exc, extra={"job_id": self.job_id})
                try:
                    await asyncio.sleep(wait)
                except asyncio.CancelledError:
                    raise Requeue("the worker stops while the store is away") from None
                wait = min(2.0, wait * 2)


async def _in_thread(func: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Runs a plain function in a thread. A thread cannot be stopped: the slot stays taken until it has ended."""
    future = asyncio.ensure_future(asyncio.to_thread(call_plainly, func, **arguments))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done() and current_cancel_reason() is not CancelReason.SHUTDOWN:
            with contextlib.suppress(asyncio.CancelledError):  # once more: a stop after its time limit, say
                await asyncio.wait({future})
        if future.done() and not future.cancelled():
            future.exception()  # its outcome is no longer asked for
        raise


def _raised(exc: BaseException) -> Result:
    return Result.failure(ErrorCode.TRANSIENT, f"{type(exc).__name__}: {exc}")


def _checked(value: Any, name: str) -> Result:
    try:
        result = Result.from_value(value)
        json.dumps(result.data, allow_nan=False)
    except (TypeError, ValueError) as exc:
        return Result.failure(ErrorCode.PERMANENT, f"task {name!r} returned something that is not JSON: {exc}")
    return result


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
