"""One call of a handler, and the result envelope that comes of it: the same for every kind of worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from avtomatika.errors import ErrorCode, TaskError
from avtomatika.results import JSON, TIMED_OUT, Result, ResultError
from avtomatika.worker.cancellation import CancelReason, current_cancel_reason
from avtomatika.worker.hotcache import HotCache
from avtomatika.worker.sdk import TaskDeclaration
from avtomatika.worker.threads import call_plainly

logger = logging.getLogger(__name__)

#: Gets (task id, job id, 0..1, message).
Report = Callable[[str, str, float, str], Awaitable[Any]]


class Call:
    """One call of a handler with what it may ask for.

    Args:
        context: plain data for it (task_id, job_id, worker_id, …).
        report: is told of its progress, on the event loop.
        loop: on which the call is awaited.
    """

    def __init__(
        self,
        declaration: TaskDeclaration,
        params: JSON,
        context: JSON,
        report: Report,
        cache: HotCache,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.declaration = declaration
        self._params = params
        self._report = report
        self._cache = cache
        self._loop = loop
        self.context = {
            "tracing_context": {},
            **context,
            "send_progress": self._send_progress if declaration.is_async else self._send_progress_from_thread,
            "add_to_hot_cache": cache.add,
            "remove_from_hot_cache": cache.discard,
        }

    async def value(self) -> Any:
        """What the handler returns; what it raises passes through."""
        declaration = self.declaration
        if declaration.process:
            return await self._in_process()
        arguments = declaration.arguments(self._params, self.context)
        if declaration.is_async:
            return await declaration.func(**arguments)
        return await _in_thread(declaration.func, arguments)

    async def _in_process(self) -> Any:
        from avtomatika.worker.process import ProcessRunner

        declaration = self.declaration
        assert declaration.path is not None
        plain = {name: value for name, value in self.context.items() if not callable(value)}

        async def on_progress(progress: float, message: str) -> None:
            await self._send_progress(plain["task_id"], plain.get("job_id"), progress, message)

        def on_cache(change: str, model: str) -> None:
            (self._cache.add if change == "add" else self._cache.discard)(model)

        return await ProcessRunner.current().run(declaration.path, declaration.name, self._params, plain, on_progress, on_cache)

    async def _send_progress(self, task_id: str, job_id: str | None, progress: float, message: str = "") -> None:
        if job_id is not None:
            await self._report(task_id, job_id, min(1.0, max(0.0, float(progress))), str(message))

    def _send_progress_from_thread(self, task_id: str, job_id: str | None, progress: float, message: str = "") -> None:
        asyncio.run_coroutine_threadsafe(self._send_progress(task_id, job_id, progress, message), self._loop)


async def result_of(call: Call, seconds: float | None) -> Result:
    """Makes a call that has so many seconds (None: all it needs), and judges its end. A cancel passes through."""
    name = call.declaration.name
    try:
        async with asyncio.timeout(seconds) as clock:
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
        logger.warning("task %s raised", name, exc_info=exc, extra={"action": "run", "job_id": call.context.get("job_id")})
        return _raised(exc)
    return _checked(value, name)


def result_of_cancel(reason: CancelReason | None) -> Result | None:
    """What a cancelled call is reported as; None where the worker stops, so that the attempt has to be handed back."""
    if reason in (CancelReason.SOFT_TIMEOUT, CancelReason.HARD_TIMEOUT):
        return Result(Result.TIMEOUT, error=ResultError("TIMEOUT", "the task's time limit has passed"))
    if reason in (CancelReason.REVOKED, CancelReason.CANCELLED):
        return Result(Result.CANCELLED, error=ResultError("CANCELLED", f"the task was {reason.value}"))
    here = asyncio.current_task()
    if reason is None and here is not None and not here.cancelling():
        return Result.failure(ErrorCode.TRANSIENT, "CancelledError: the task was cancelled from within")
    return None


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
