"""What runs in the pool: the decoded request, and the handle that Celery keeps of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import Reject, SoftTimeLimitExceeded, Terminated, TimeLimitExceeded
from celery.worker.request import Request

from avtomatika.worker.cancellation import CancelReason

if TYPE_CHECKING:
    from avtomatika.worker.pool import AsyncPool


class Requeue(Exception):
    """Raise it in `run_async` to hand the message back to the broker."""


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One message, decoded, as `run_async` gets it.

    Attributes:
        headers: of the message.
        chain: the remaining signatures of the message's embed, in Celery's order: the next one is the last.
        delivery: the message's delivery info: exchange, routing_key, priority, redelivered.
    """

    id: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    headers: Mapping[str, Any]
    chain: list[dict[str, Any]]
    root_id: str | None
    parent_id: str | None
    delivery: Mapping[str, Any]


class Run:
    """One request in the pool, and the handle by which Celery terminates it."""

    def __init__(self, pool: AsyncPool, task_id: str, name: str, options: Mapping[str, Any]) -> None:
        self.pool = pool
        self.task_id = task_id
        self.name = name
        self.callback: Callable[..., Any] | None = options.get("callback")
        self.accept_callback: Callable[..., Any] | None = options.get("accept_callback")
        self.timeout_callback: Callable[..., Any] | None = options.get("timeout_callback")
        self.soft_limit: float | None = options.get("soft_timeout")
        self.hard_limit: float | None = options.get("timeout")
        owner = getattr(self.accept_callback, "__self__", None)
        self.request: Any = owner if isinstance(owner, Request) else None
        self.slot: Any = getattr(getattr(self.request, "message", None), "slot", None)
        self.task: asyncio.Task[Any] | None = None
        self.future: Future[Any] | None = None
        self.reason: CancelReason | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self.started = monotonic()
        self.expected: tuple[type[BaseException], ...] = ()  # the task's `throws`: logged without a traceback
        self.reported = False  # a hard time limit has been reported; the end is not reported again
        self.ended = False

    def terminate(self, signal: int | None = None) -> None:
        """Celery's order to stop: a revoke, or its own cancelling at a cold shutdown, which hands the message back."""
        shutdown = getattr(self.request, "_already_cancelled", False)
        self.pool.stop_run(self, CancelReason.SHUTDOWN if shutdown else CancelReason.REVOKED)

    def as_exception(self) -> BaseException:
        """What a coroutine that ended by CancelledError is reported as."""
        match self.reason:
            case CancelReason.SOFT_TIMEOUT:
                return SoftTimeLimitExceeded(self.soft_limit)
            case CancelReason.HARD_TIMEOUT:
                return TimeLimitExceeded(self.hard_limit)
            case CancelReason.SHUTDOWN:
                return Reject("the worker stops", requeue=True)
            case None:
                return RuntimeError("the task was cancelled from within")
            case reason:
                return Terminated(reason.value)


def exception_info(exc: BaseException) -> ExceptionInfo:
    """The exception in the form in which Celery takes failures."""
    try:
        raise exc  # billiard's record wants a traceback, which an exception never raised does not have
    except BaseException:
        return ExceptionInfo()
