"""What an operation raises, and how an operation is told to stop."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from avtomatika.errors import AvtomatikaError, ErrorCode
from avtomatika.operations.codes import TaskErrorCode, class_of


class OperationError(AvtomatikaError):
    """An operation failed for a known cause.

    Args:
        code: the cause.
        message: what went wrong, for people: without secrets.
        details: further facts, as JSON.
        kind: what is done about it, where that is not what the code stands for.
    """

    def __init__(
        self,
        code: TaskErrorCode,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        kind: ErrorCode | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details or {}
        self.kind = kind or class_of(code)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.code, str(self), self.details, self.kind)


class PolicyError(OperationError):
    """The policy does not allow it; see docs/operations.md."""

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, message, details=details)

    def __reduce__(self) -> tuple[Any, ...]:
        return _refused, (str(self), self.details)


def _refused(message: str, details: dict[str, Any]) -> PolicyError:
    return PolicyError(message, details=details)


def _rebuild(code: TaskErrorCode, message: str, details: dict[str, Any], kind: ErrorCode) -> OperationError:
    return OperationError(code, message, details=details, kind=kind)


class StopReason(StrEnum):
    """Why an operation is to stop."""

    CANCEL = "cancel"  # for good: what it has begun is taken back
    PAUSE = "pause"  # it goes on later: what it has done so far stays
    SHUTDOWN = "shutdown"  # its worker stops: another one goes on
    TIMEOUT = "timeout"


class OperationStopped(AvtomatikaError):
    """Raised by `OperationContext.checkpoint` in an operation that is to stop; let it pass."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(f"the operation is to stop: {reason.value}")
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return OperationStopped, (self.reason,)
