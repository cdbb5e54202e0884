"""What runs here: each task once, from its arrival to the result that goes into its orchestrator's outbox."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from avtomatika.errors import ErrorCode
from avtomatika.results import JSON, Result
from avtomatika.worker.calls import Call, Report, result_of, result_of_cancel
from avtomatika.worker.cancellation import CancelReason, current_run
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.http.client import Task
from avtomatika.worker.http.slots import Slots
from avtomatika.worker.sdk import Declared

logger = logging.getLogger(__name__)

#: So many ids of ended tasks are remembered.
REMEMBERED = 10_000


@dataclass(eq=False, slots=True)
class Run:
    """One task that runs; what a handler sees of its cancellation is `reason`.

    Attributes:
        first_reason: decides what is reported: a stop of the worker does not undo an earlier cancel.
    """

    task: Task
    handle: asyncio.Task[Result] | None = None
    reason: CancelReason | None = None
    first_reason: CancelReason | None = None


class Runs:
    """
    Args:
        done: ids of tasks that ended in a former life of this worker; they are not run again.
    """

    def __init__(self, merged: Declared, slots: Slots, worker_id: str, done: Collection[str] = ()) -> None:
        self._merged = merged
        self._slots = slots
        self._worker_id = worker_id
        self._running: dict[str, Run] = {}
        self._driving: set[asyncio.Task[None]] = set()
        self._done = dict.fromkeys(done)
        self._cancelled: dict[str, None] = {}  # before they came: a cancel may be faster than the poll's answer

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, task: Task, report: Report, deliver: Callable[[JSON], None]) -> bool:
        """Runs a task; False where it runs or has run already. `deliver` gets the body of its result."""
        if task.id in self._running or task.id in self._done:
            logger.warning("task %s came again; it is not run twice", task.id, extra={"action": "run", "task_id": task.id})
            return False
        run = self._running[task.id] = Run(task)
        if task.type in self._merged.tasks:
            self._slots.take(task.type)
        driving = asyncio.get_running_loop().create_task(self._drive(run, report, deliver), name=f"{task.type}[{task.id}]")
        self._driving.add(driving)
        driving.add_done_callback(self._driving.discard)
        if task.id in self._cancelled:
            self.cancel(task.id)
        return True

    def cancel(self, task_id: str, reason: CancelReason = CancelReason.CANCELLED) -> bool:
        """Cancels what runs under this id; False where nothing does."""
        run = self._running.get(task_id)
        if run is None:
            if task_id not in self._done:
                _remember(self._cancelled, task_id)
            return False
        if run.reason is reason:
            return True  # told twice, by socket and heartbeat: its clean-up goes on undisturbed
        run.reason = reason
        run.first_reason = run.first_reason or reason
        if run.handle is not None:
            run.handle.cancel()
        return True

    async def wait(self, seconds: float) -> bool:
        """Waits until nothing runs, at most so long; whether nothing does."""
        if self._driving and seconds > 0:
            await asyncio.wait(self._driving, timeout=seconds)
        return not self._driving

    def stop(self) -> None:
        """Cancels what still runs, so that it is handed back."""
        for task_id in tuple(self._running):
            self.cancel(task_id, CancelReason.SHUTDOWN)

    async def _drive(self, run: Run, report: Report, deliver: Callable[[JSON], None]) -> None:
        """Never cancelled itself: a task that is cancelled before its first step would never be heard of again."""
        task = run.task
        try:
            run.handle = asyncio.get_running_loop().create_task(self._result(run, report))
            if run.reason is not None:
                run.handle.cancel()
            await asyncio.wait({run.handle})
            result = _ended(run, run.handle)
        finally:
            del self._running[task.id]
            _remember(self._done, task.id)
            self._cancelled.pop(task.id, None)
            if task.type in self._merged.tasks:
                self._slots.give_back(task.type)
        logger.info(
            "%s[%s] ended: %s", task.type, task.id, result.status,
            extra={"action": "run", "task_id": task.id, "job_id": task.job_id},
        )  # fmt: skip
        deliver({"job_id": task.job_id, "task_id": task.id, "worker_id": self._worker_id, "result": result.to_dict()})

    async def _result(self, run: Run, report: Report) -> Result:
        current_run.set(run)
        declaration = self._merged.tasks.get(run.task.type)
        if declaration is None:
            return Result.failure(
                ErrorCode.TRANSIENT, f"this worker declares no task {run.task.type!r}; it has {sorted(self._merged.tasks)}"
            )
        seconds = run.task.seconds
        ends_at = None if seconds is None else time.time() + seconds
        context = {
            "task_id": run.task.id,
            "job_id": run.task.job_id,
            "priority": run.task.priority,
            "attempt": run.task.attempt,
            "timeout_at": ends_at,
            "tracing_context": run.task.tracing_context,
            "worker_id": self._worker_id,
        }
        params = run.task.params if run.task.params is not None else {}
        call = Call(declaration, params, context, report, hot_cache(), asyncio.get_running_loop())
        try:
            async with self._slots.turn(declaration.name):
                return await result_of(call, None if ends_at is None else max(0.0, ends_at - time.time()))
        except asyncio.CancelledError:
            return _handed_back(run)


def _ended(run: Run, handle: asyncio.Task[Result]) -> Result:
    if handle.cancelled():
        return _handed_back(run)
    error = handle.exception()
    if error is None:
        return handle.result()
    logger.error("%s could not be run", run.task.type, exc_info=error, extra={"action": "run", "task_id": run.task.id})
    return Result.failure(ErrorCode.TRANSIENT, f"{type(error).__name__}: {error}")


def _handed_back(run: Run) -> Result:
    """What a cancelled task is reported as. A stopping worker gives it back for another attempt."""
    return result_of_cancel(run.first_reason) or Result.failure(ErrorCode.TRANSIENT, "the worker stopped")


def _remember(ids: dict[str, None], task_id: str) -> None:
    ids[task_id] = None
    if len(ids) > REMEMBERED:
        del ids[next(iter(ids))]
