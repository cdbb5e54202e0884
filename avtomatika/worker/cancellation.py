"""Why a running task is being cancelled, for whoever runs tasks and for the tasks themselves."""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol


class CancelReason(StrEnum):
    """Why a running task was cancelled."""

    REVOKED = "revoked"
    SOFT_TIMEOUT = "soft_timeout"
    HARD_TIMEOUT = "hard_timeout"
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"


class Cancellable(Protocol):
    """What runs a task, as far as its cancellation goes."""

    @property
    def reason(self) -> CancelReason | None: ...


current_run: ContextVar[Cancellable | None] = ContextVar("avtomatika_run", default=None)


def current_cancel_reason() -> CancelReason | None:
    """Why the running task is being cancelled; None while it is not, and outside of a task."""
    run = current_run.get()
    return run.reason if run is not None else None
