"""One tree of exceptions: each class says in one sentence what is wrong, and its message names the fix."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """The codes of a result envelope that decide what happens before any transition is looked at."""

    TRANSIENT = "TRANSIENT_ERROR"
    PERMANENT = "PERMANENT_ERROR"
    INVALID_INPUT = "INVALID_INPUT_ERROR"


class FailureCode(StrEnum):
    """Why a job was quarantined or has failed, where no task's own code says it."""

    HANDLER_ERROR = "HANDLER_ERROR"  # a handler broke a rule of the engine
    HANDLER_EXCEPTION = "HANDLER_EXCEPTION"  # a handler kept raising
    UNKNOWN_STATE = "UNKNOWN_STATE"  # the loaded blueprint does not have the job's state (any more)
    WORKER_LOST = "WORKER_LOST"  # workers died under the task, too often
    UNLISTED_STATUS = "UNLISTED_STATUS"  # a result's status that no transition lists
    FAN_OUT_FAILED = "FAN_OUT_FAILED"  # the verdict on a fan-out was bad
    SUB_JOB_FAILED = "SUB_JOB_FAILED"
    TIMEOUT = "TIMEOUT"  # a task, or a question, was out of time
    JOB_TIMEOUT = "JOB_TIMEOUT"  # the job as a whole was
    BY_HAND = "BY_HAND"  # an operator wanted it
    STRANDED = "STRANDED"  # a new version of its blueprint has no place for it


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


class StrandedError(HandlerError):
    """The code that is loaded here has no place for a job: not its blueprint, or not its state."""


class RetryPolicyError(HandlerError, ValueError):
    """A `RetryPolicy` was given a value that does not fit."""

    def __init__(self, name: str, what: str, value: object) -> None:
        super().__init__(f"RetryPolicy.{name} {what}, not {value!r}")
        self.args = (name, what, value)
        self.message = f"RetryPolicy.{name} {what}, not {value!r}"

    def __str__(self) -> str:
        return self.message


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


class UnknownWorkerError(AvtomatikaError):
    """No live worker of this id is registered."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"worker {worker_id!r} is not registered (any more): register it with POST /_worker/workers/register")
        self.worker_id = worker_id


class UnknownScheduleError(AvtomatikaError):
    """No schedule of this name is there."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown schedule {name!r}; `avtomatika schedule list` shows those that there are")
        self.name = name


class ForbiddenError(AvtomatikaError):
    """What is asked for belongs to somebody else."""


class WrongStateError(AvtomatikaError):
    """The job is not in a state in which this can be done."""


class HoldChangedError(WrongStateError):
    """The queue was held, or let go, while an order to all of its tasks went through them."""


class UnknownDecisionError(WrongStateError):
    """A question was answered with a decision that leads nowhere."""


class TokenRefusedError(ForbiddenError):
    """This token answers no question of this job: it is wrong, was used, or belongs to another one."""

    def __init__(self) -> None:
        super().__init__("this token answers no question of this job: it is wrong, was used, or belongs to another one")


class StoreUnavailableError(AvtomatikaError):
    """The state store does not answer; try again once it is back."""


class HistoryUnavailableError(AvtomatikaError):
    """The database of the history does not answer; everything else goes on."""

    def __init__(self, message: str = "the database of the history does not answer now; try again in a moment") -> None:
        super().__init__(message)


class HistoryOutdatedError(HistoryUnavailableError):
    """The tables of the history are not those of this version."""

    def __init__(self, current: str | None) -> None:
        found = f"are of version {current}" if current else "do not exist yet"
        super().__init__(f"the tables of the history {found}: run `avtomatika db upgrade`")
        self.current = current

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.current,)


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


class ApiError(AvtomatikaError):
    """The facade refused a request of `avtomatika.client`, or did not answer.

    Attributes:
        status: the HTTP status of its answer; 0 where none came.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, str(self))


class BadRequestError(ApiError):
    """The request does not fit (400, 413, 422)."""


class NotAllowedError(ApiError):
    """The token is not known, or is not enough for this (401, 403)."""


class NotFoundError(ApiError):
    """There is no such job or blueprint, or it is another client's (404)."""


class ConflictError(ApiError):
    """The job is not in a state in which this can be done, or an idempotency key was used for another request (409)."""


class TooManyRequestsError(ApiError):
    """A limit or a quota is used up, and it stayed so for all repetitions (429)."""


class FacadeUnavailableError(ApiError):
    """The facade does not answer, or cannot serve now (5xx), and it stayed so for all repetitions."""


class JobFailedError(AvtomatikaError):
    """A job whose result was asked for has ended without finishing.

    Attributes:
        job: the job, a `JobView`.
    """

    def __init__(self, job: Any) -> None:
        super().__init__(f"job {job.id} is {job.status}: {job.error_message or 'no reason is recorded'}")
        self.job = job

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job,)


class WaitTimeoutError(AvtomatikaError, TimeoutError):
    """A job has not ended in the time that was given for waiting; it goes on."""


class HarnessError(AvtomatikaError, AssertionError):
    """A test in `avtomatika.testing` cannot go on as it is written; the message says what is missing."""
