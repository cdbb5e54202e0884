"""The pool: async tasks on one event loop, Celery's ordinary tasks in threads, all in one process.

Used as ``worker_pool = "avtomatika.worker.pool:AsyncPool"``. One process keeps a loaded model for every task, and a task is
cancelled by cancelling its coroutine. What the pool has to tell Celery it tells in the hub's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from time import monotonic
from typing import Any, ClassVar, TypeVar

from celery.concurrency.base import BasePool
from celery.exceptions import Reject, Terminated
from celery.utils.saferepr import saferepr
from celery.worker import state as worker_state
from kombu.serialization import loads, prepare_accept_content

from avtomatika.loops import new_event_loop
from avtomatika.settings import get_settings
from avtomatika.worker.cancellation import CancelReason, current_cancel_reason, current_run
from avtomatika.worker.runs import Requeue, Run, TaskRequest, exception_info
from avtomatika.worker.threads import DaemonThreads, Mailbox

__all__ = ["AsyncPool", "CancelReason", "Requeue", "TaskRequest", "current_cancel_reason"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

CANCEL_SECONDS = 1.75  # at a stop: for cancelled coroutines to clean up, and for the replies of fetches in flight
LEAVE_SECONDS = 0.5  # at a stop: for the coroutines of `at_stop`, and for the loop's thread to end
PLAIN_THREADS = 256  # at most, for `asyncio.to_thread`; the slots bound how many are used


class AsyncPool(BasePool):
    """Runs a task that has a coroutine function `run_async` on the event loop, every other one in a thread."""

    limit: int
    signal_safe = False
    body_can_be_buffer = True
    task_join_will_block = False

    current: ClassVar[AsyncPool | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = self.limit or os.cpu_count() or 1
        self.loop = new_event_loop()
        self.threads = DaemonThreads(self.limit, "task")
        self._mailbox = Mailbox()
        self._runs: dict[int, Run] = {}
        self._hub: Any = None
        self._thread: threading.Thread | None = None
        self._farewells: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        self._pending: list[Callable[[], bool]] = []

    # What the rest of a worker uses

    def submit(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs a coroutine on the pool's loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop)

    def cancel(self, task_id: str, reason: CancelReason = CancelReason.CANCELLED) -> bool:
        """Cancels what runs under this task id, from any thread; False when nothing does."""
        found = [run for run in tuple(self._runs.values()) if run.task_id == task_id]
        for run in found:
            self.stop_run(run, reason)
        return bool(found)

    def running(self) -> list[str]:
        """Ids of the tasks that hold a slot: running, cleaning up after a cancel, or waiting for a thread."""
        return [run.task_id for run in tuple(self._runs.values())]

    def at_stop(self, farewell: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Adds a coroutine function to be awaited, briefly, after the last task ended and before the loop stops."""
        self._farewells.append(farewell)

    def wait_for(self, pending: Callable[[], bool]) -> None:
        """Adds a question that a stop asks: while it is true (a fetch is in flight), the hub goes on being served."""
        self._pending.append(pending)

    # What Celery calls

    def on_start(self) -> None:
        self.loop.set_default_executor(DaemonThreads(max(PLAIN_THREADS, self.limit), "plain"))
        self._thread = threading.Thread(target=self._run_loop, name="avtomatika-loop", daemon=True)
        self._thread.start()
        AsyncPool.current = self

    def did_start_ok(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def register_with_event_loop(self, hub: Any) -> None:
        self._hub = hub
        self._mailbox.attach(hub)

    def on_apply(
        self, target: Any, args: Any = None, kwargs: Any = None, correlation_id: str | None = None, **options: Any
    ) -> Run:
        run = Run(self, correlation_id or args[1], args[0], options)
        self._runs[id(run)] = run
        if run.slot is not None:
            run.slot.started()
        task = self.app.tasks.get(run.name) if self.app is not None else None
        run_async = getattr(task, "run_async", None)
        run.expected = tuple(getattr(task, "throws", ()) or ())
        if run_async is None:
            run.future = self.threads.submit(self._in_thread, run, target, args or (), kwargs or {})
        else:
            if run.accept_callback is not None:
                run.accept_callback(os.getpid(), run.started)
            self.loop.call_soon_threadsafe(self._begin, run, run_async, args)
        return run

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Celery names a process here, which is this one; the handle's `terminate` follows and names the task."""

    def on_stop(self) -> None:
        """Warm: waits for running work, then cancels the rest. In a cold one's signal handler it only cancels."""
        if worker_state.should_terminate:
            self._stop_all()
            return
        self._drain(get_settings().shutdown_grace_seconds)
        self._leave()

    def on_terminate(self) -> None:
        self._leave()

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "running": len(self._runs), "threads": self.threads.size}

    # In the loop's thread

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _begin(self, run: Run, run_async: Callable[[TaskRequest], Awaitable[Any]], args: Any) -> None:
        run.task = self.loop.create_task(self._drive(run, run_async, args), name=f"{run.name}[{run.task_id}]")
        run.task.add_done_callback(lambda task: self._done(run, task))
        if run.reason is not None:
            run.task.cancel()
        self._arm(run)

    async def _drive(self, run: Run, run_async: Callable[[TaskRequest], Awaitable[Any]], args: Any) -> Any:
        current_run.set(run)
        try:
            return await run_async(self._decode(run, *args))
        except (SystemExit, KeyboardInterrupt, MemoryError) as exc:
            # The first two would stop the loop, the third Celery's main loop: a task must stop neither.
            raise RuntimeError(f"the task raised {type(exc).__name__}: {exc}") from exc

    def _decode(
        self, run: Run, name: str, task_id: str, headers: dict[str, Any], body: Any, content_type: str | None, encoding: str
    ) -> TaskRequest:
        if content_type:
            accept = prepare_accept_content(self.app.conf.accept_content)
            args, kwargs, embed = loads(body, content_type, encoding, accept=accept)
        else:
            args, kwargs, embed = body
        message = getattr(run.request, "message", None)
        return TaskRequest(
            id=task_id,
            name=name,
            args=list(args or ()),
            kwargs=dict(kwargs or {}),
            headers=headers if message is None else message.headers,
            chain=list((embed or {}).get("chain") or ()),
            root_id=headers.get("root_id"),
            parent_id=headers.get("parent_id"),
            delivery=headers.get("delivery_info") or {},
        )

    def _arm(self, run: Run) -> None:
        """Starts the clocks of the time limits."""
        if run.ended:
            return
        if run.soft_limit:
            run.timers.append(self.loop.call_later(run.soft_limit, self._on_soft_limit, run))
        if run.hard_limit:
            run.timers.append(self.loop.call_later(run.hard_limit, self._on_hard_limit, run))

    def _on_soft_limit(self, run: Run) -> None:
        if run.ended or run.reason is not None:
            return
        if run.timeout_callback is not None:
            self._mailbox.post(run.timeout_callback, True, run.soft_limit)
        if run.task is not None:
            self._stop_in_loop(run, CancelReason.SOFT_TIMEOUT)

    def _on_hard_limit(self, run: Run) -> None:
        if not run.ended:
            self._mailbox.post(self._report_timeout, run)
            self._stop_in_loop(run, CancelReason.HARD_TIMEOUT)

    def _stop_in_loop(self, run: Run, reason: CancelReason) -> None:
        if run.ended:
            return
        run.reason = reason
        if run.task is not None:
            run.task.cancel()
        elif run.future is not None and run.future.cancel():
            self._end(run, run.as_exception())
        elif run.future is not None:
            logger.warning(
                "%s[%s] runs in a thread and cannot be stopped (%s); it keeps its slot until it ends",
                run.name, run.task_id, reason.value, extra={"action": "thread_not_stopped", "task_id": run.task_id},
            )  # fmt: skip

    def _done(self, run: Run, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return self._end(run, run.as_exception())
        exc = task.exception()
        if exc is None:
            return self._end(run, None, task.result())
        if isinstance(exc, Requeue):
            return self._end(run, Reject(str(exc), requeue=True))
        if isinstance(exc, run.expected):
            logger.info("%s[%s] failed: %s", run.name, run.task_id, exc, extra={"action": "task_failed"})
        elif not isinstance(exc, Reject | Terminated):
            logger.error("%s[%s] raised %r", run.name, run.task_id, exc, exc_info=exc, extra={"action": "task_raised"})
        return self._end(run, exc)

    def _end(self, run: Run, exc: BaseException | None, result: Any = None) -> None:
        """Reports an end, once, from any thread."""
        runtime = monotonic() - run.started
        if exc is None:
            self._finish_later(run, (0, saferepr(result), runtime))
        else:
            self._finish_later(run, (1, exception_info(exc), runtime))

    def _finish_later(self, run: Run, outcome: tuple[int, Any, float]) -> None:
        run.ended = True
        self._mailbox.post(self._finish, run, outcome)

    # In a thread of its own

    def _in_thread(self, run: Run, target: Callable[..., Any], args: Any, kwargs: Any) -> None:
        run.started = monotonic()
        if run.accept_callback is not None:
            self._mailbox.post(run.accept_callback, os.getpid(), run.started)
        if run.soft_limit or run.hard_limit:
            self.loop.call_soon_threadsafe(self._arm, run)
        try:
            outcome = target(*args, **kwargs)
        except (SystemExit, KeyboardInterrupt, MemoryError) as exc:
            self._end(run, RuntimeError(f"the task raised {type(exc).__name__}: {exc}"))
        except BaseException as exc:
            self._end(run, exc)
        else:
            self._finish_later(run, outcome)

    # In the hub's thread

    def _report_timeout(self, run: Run) -> None:
        if id(run) not in self._runs:
            return
        run.reported = True
        try:
            if run.timeout_callback is not None:
                run.timeout_callback(False, run.hard_limit)
        finally:
            self._settle(run)

    def _finish(self, run: Run, outcome: tuple[int, Any, float]) -> None:
        self._runs.pop(id(run), None)
        for timer in run.timers:
            self.loop.call_soon_threadsafe(timer.cancel)
        # A revoke has been announced and acknowledged already; success would contradict it.
        revoked = getattr(run.request, "_already_revoked", False) and not outcome[0]
        try:
            if run.callback is not None and not run.reported and not revoked:
                run.callback(outcome)
        except SystemExit as exc:
            logger.error("%s[%s] raised SystemExit(%s)", run.name, run.task_id, exc.code)
        finally:
            self._settle(run)
            if run.slot is not None:
                run.slot.ended()

    def _settle(self, run: Run) -> None:
        """A callback that failed half-way must not leave its message unacknowledged for ever."""
        request = run.request
        if request is None or request.acknowledged or not request.task.acks_late:
            return
        if not request._already_cancelled:  # those stay unacknowledged on purpose: a cold stop hands them back
            request.acknowledge()

    def stop_run(self, run: Run, reason: CancelReason) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs any more
            self.loop.call_soon_threadsafe(self._stop_in_loop, run, reason)

    # The stop

    def _stop_all(self) -> None:
        for run in tuple(self._runs.values()):
            self.stop_run(run, CancelReason.SHUTDOWN)

    def _drain(self, seconds: float) -> None:
        """Serves the hub until nothing runs, so that acknowledgements are sent; new messages are not fetched by now."""
        deadline = monotonic() + seconds
        while self._runs and (left := deadline - monotonic()) > 0 and not worker_state.should_terminate:
            self._turn(left)

    def _turn(self, seconds: float) -> None:
        hub = self._hub
        if hub is None:
            self._mailbox.wait(seconds)
            return
        timer = hub.call_later(min(seconds, 1.0), _nothing)
        try:
            next(hub.create_loop())
        except StopIteration:
            pass
        except Exception as exc:
            # The broker is gone; what could not be acknowledged is given out again by the broker.
            logger.warning("the hub failed during the stop: %r", exc, extra={"action": "hub_failed"})
            self._hub = None
        finally:
            timer.cancel()

    def _leave(self) -> None:
        if self._thread is None:
            return
        self._stop_all()
        deadline = monotonic() + CANCEL_SECONDS
        while (self._runs or any(pending() for pending in self._pending)) and (left := deadline - monotonic()) > 0:
            self._turn(left)
        for _ in range(3):  # an end queues an acknowledgement, which the hub sends one turn later
            self._mailbox.post(_nothing)
            self._turn(0.05)
        for run in tuple(self._runs.values()):
            logger.warning(
                "%s[%s] did not end; its message goes back to the broker", run.name, run.task_id,
                extra={"action": "task_abandoned", "task_id": run.task_id},
            )  # fmt: skip
        self._end_loop()

    def _end_loop(self) -> None:
        thread, self._thread = self._thread, None
        if self._farewells:
            with contextlib.suppress(FutureTimeoutError):
                self.submit(self._say_farewell()).result(LEAVE_SECONDS)
        self.threads.shutdown(cancel_futures=True)
        self.loop.call_soon_threadsafe(self._close_loop)
        if thread is not None:
            thread.join(LEAVE_SECONDS)
            if not thread.is_alive():
                self.loop.close()
        if AsyncPool.current is self:
            AsyncPool.current = None

    async def _say_farewell(self) -> None:
        results = await asyncio.gather(*(farewell() for farewell in self._farewells), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                logger.warning("a farewell failed: %r", result, extra={"action": "farewell_failed"})

    def _close_loop(self) -> None:
        left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
        for task in left:
            task.cancel()
        self.loop.call_later(LEAVE_SECONDS / 2 if left else 0, self.loop.stop)


def _nothing() -> None:
    """Wakes the hub."""
