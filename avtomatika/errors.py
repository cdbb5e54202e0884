"""One tree of exceptions: each class says in one sentence what is wrong, and its message names the fix."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """The codes of a result envelope that decide what happens before any transition is looked at."""

    TRANSIENT = "TRANSIENT_ERROR"
    PERMANENT = "PERMANENT_ERROR"
    INVALID_INPUT = "INVALID_INPUT_ERROR"


class AvtomatikaError(Exception):
    """Root of every exception of this package."""


class ConfigurationError(AvtomatikaError):
    """A setting, a file or a command line does not fit; nothing was started."""


class BlueprintError(AvtomatikaError):
    """A blueprint was refused at registration.

    Attributes:
        problems: every problem found, each a sentence with ``file:line`` and the fix.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class ConditionError(BlueprintError):
    """A `.when` condition is not of the small language that conditions are written in."""


class HandlerError(AvtomatikaError):
    """A handler broke a rule of the engine: no action, two actions, or an argument found nowhere."""


class UnknownBlueprintError(AvtomatikaError):
    """No blueprint of this name is registered here."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        hint = f"known: {', '.join(known)}" if known else "no blueprint is registered; check BLUEPRINTS_DIR"
        super().__init__(f"unknown blueprint {name!r}; {hint}")
        self.name = name


class UnknownJobError(AvtomatikaError):
    """No job of this id is stored."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"unknown job {job_id!r}; it never existed, or its retention has passed")
        self.job_id = job_id


class WrongStateError(AvtomatikaError):
    """The job is not in a state in which this can be done."""


class StoreUnavailableError(AvtomatikaError):
    """The state store does not answer; try again once it is back."""


class RegistrationError(AvtomatikaError):
    """Two workers declare what cannot both be true: a task twice, or two capabilities for one task."""


class TaskError(AvtomatikaError):
    """Raise a subclass in a worker's handler to choose the error class of its result.

    Args:
        message: what went wrong, for people.
        code: the code of the result envelope; any string. The three of `ErrorCode` decide about retries,
            every other one takes the `failure` transition.
        data: merged into the result envelope's data.
    """

    default_code: str = "TASK_ERROR"

    def __init__(self, message: str = "", *, code: str | None = None, data: dict[str, Any] | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").split("\n", 1)[0])
        self.code = code or self.default_code
        self.data = data or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.code, self.data)


class TransientError(TaskError):
    """This may work at another time or on another worker; it is tried again with backoff."""

    default_code = ErrorCode.TRANSIENT


class PermanentError(TaskError):
    """This will not work however often it is tried; the job goes to quarantine."""

    default_code = ErrorCode.PERMANENT


class InvalidInputError(TaskError):
    """The parameters of the task do not fit; the job fails at once."""

    default_code = ErrorCode.INVALID_INPUT


def _rebuild(cls: type[TaskError], message: str, code: str, data: dict[str, Any]) -> TaskError:
    return cls(message, code=code, data=data)
