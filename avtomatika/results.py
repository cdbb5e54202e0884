"""What a worker reports of one attempt, and how patiently a dispatch is tried."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from avtomatika.errors import ErrorCode, RetryPolicyError

JSON = dict[str, Any]

#: What a job says that failed since an attempt did not end in time.
TIMED_OUT = "Worker task timed out"


@dataclass(frozen=True, slots=True)
class ResultError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Result:
    """A result envelope: what a worker reports of one attempt.

    Attributes:
        status: ``success``, ``failure``, ``cancelled``, ``timeout``, or any status named in transitions.
        data: merged into the job's state_history.
    """

    SUCCESS: ClassVar[str] = "success"
    FAILURE: ClassVar[str] = "failure"
    CANCELLED: ClassVar[str] = "cancelled"
    TIMEOUT: ClassVar[str] = "timeout"

    status: str
    data: JSON = field(default_factory=dict)
    error: ResultError | None = None

    @classmethod
    def success(cls, data: JSON | None = None) -> Result:
        return cls(cls.SUCCESS, data or {})

    @classmethod
    def failure(cls, code: str, message: str, data: JSON | None = None) -> Result:
        return cls(cls.FAILURE, data or {}, ResultError(code, message))

    def to_dict(self) -> JSON:
        out: JSON = {"status": self.status, "data": self.data}
        if self.error is not None:
            out["error"] = {"code": self.error.code, "message": self.error.message}
        return out

    @classmethod
    def from_value(cls, value: Any) -> Result:
        """An envelope from what a handler returned: an envelope's dict, any other dict (data), None, or a value.

        A dict is an envelope where it has a ``status`` string and no key that an envelope does not have.
        """
        if isinstance(value, Result):
            return value
        if value is None:
            return cls.success()
        if not isinstance(value, Mapping):
            return cls.success({"result": value})
        if isinstance(value.get("status"), str) and set(value) <= {"status", "data", "error", "meta"}:
            return cls.from_dict(value)
        return cls.success(dict(value))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Result:
        data = value.get("data")
        error = value.get("error")
        if isinstance(error, Mapping):
            parsed = ResultError(str(error.get("code") or ""), str(error.get("message") or ""))
        elif error is not None:
            parsed = ResultError("", str(error))
        else:
            parsed = None
        if data is not None and not isinstance(data, Mapping):
            data = {"result": data}
        return cls(str(value["status"]), dict(data or {}), parsed)


#: Outcome of an attempt whose result came when the attempt was over.
LATE = "late"
#: Outcome of an attempt whose worker died.
LOST = "lost"

_CLASSES = {
    "": "transient",
    ErrorCode.TRANSIENT: "transient",
    ErrorCode.PERMANENT: "permanent",
    ErrorCode.INVALID_INPUT: "invalid_input",
}


def outcome_of(result: Result) -> str:
    """What a result says of the worker that reported it: a class for its reputation.

    ``success``, ``status`` (one of the task's own), ``transient``, ``permanent``, ``invalid_input``, ``failure`` (a code of the
    task's own), ``timeout`` or ``cancelled``.
    """
    if result.status == Result.FAILURE:
        return _CLASSES.get(result.error.code if result.error is not None else "", Result.FAILURE)
    known = (Result.SUCCESS, Result.TIMEOUT, Result.CANCELLED)
    return result.status if result.status in known else "status"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job was quarantined or has failed; the reason in words is its error message.

    Attributes:
        code: the error's own code, or a `FailureCode` where no task named one.
        attempts: how often it was tried, the last time included; workers that died are not counted.
        task: the attempt over which it happened: task_id, type, params, attempt, deaths, worker_id; None where it was none.
    """

    code: str = ""
    attempts: int = 0
    task: JSON | None = None

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}


#: How long a pause between two attempts grows, unless the policy says otherwise.
MAX_BACKOFF_SECONDS = 60.0
#: A code of `RetryPolicy.retry_on`: the attempt was not started, or did not end, in time.
TIMEOUT = "TIMEOUT"
_THEN = ("quarantine", "failure")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently one dispatch is tried again.

    The pause before attempt n + 1 is ``backoff_seconds * 2 ** (n - 1)``, at most `max_backoff_seconds`, with jitter.

    Attributes:
        max_attempts: attempts in all, the first included, without those whose worker died; None means JOB_MAX_RETRIES + 1.
        backoff_seconds: wait before the second attempt; None means RETRY_BACKOFF_SECONDS.
        max_backoff_seconds: the longest wait, before jitter.
        jitter: the share of a wait by which it is made longer or shorter at random, 0 to 1.
        retry_on: codes of errors that are tried again, in place of ``TRANSIENT_ERROR`` (which stands for errors without a code,
            and exceptions, too); ``TIMEOUT`` stands for attempts that were out of time. None means those that are transient.
        then: what becomes of an error that is not tried any more, and would be quarantined: ``quarantine``, or ``failure``, the
            `failure` transition.

    Raises:
        RetryPolicyError: a value that does not fit.
    """

    max_attempts: int | None = None
    backoff_seconds: float | None = None
    max_backoff_seconds: float = MAX_BACKOFF_SECONDS
    jitter: float = 0.25
    retry_on: tuple[str, ...] | None = None
    then: str = "quarantine"

    def __post_init__(self) -> None:
        if self.then not in _THEN:
            raise RetryPolicyError("then", "is 'quarantine' or 'failure'", self.then)
        if self.max_attempts is not None and (not _is_whole(self.max_attempts) or self.max_attempts < 1):
            raise RetryPolicyError("max_attempts", "counts the first attempt, too: a whole number, at least 1", self.max_attempts)
        if self.backoff_seconds is not None and not _is_seconds(self.backoff_seconds):
            raise RetryPolicyError("backoff_seconds", "is a number of seconds, 0 or more", self.backoff_seconds)
        if not _is_seconds(self.max_backoff_seconds):
            raise RetryPolicyError("max_backoff_seconds", "is a number of seconds, 0 or more", self.max_backoff_seconds)
        if not _is_seconds(self.jitter) or self.jitter > 1:
            raise RetryPolicyError("jitter", "is a share of the wait, from 0 (none) to 1", self.jitter)
        if self.retry_on is not None:
            object.__setattr__(self, "retry_on", _codes(self.retry_on))

    def retries(self, code: str) -> bool:
        """Whether an error with this code is worth another attempt."""
        return (code or ErrorCode.TRANSIENT) in (self.retry_on if self.retry_on is not None else (ErrorCode.TRANSIENT,))

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _codes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise RetryPolicyError("retry_on", 'is a list of codes, such as ["TRANSIENT_ERROR", "RATE_LIMITED"]', value)
    for code in value:
        if not isinstance(code, str) or not code:
            raise RetryPolicyError("retry_on", "holds codes, which are texts", code)
        if code == ErrorCode.INVALID_INPUT:
            raise RetryPolicyError("retry_on", "cannot hold a code that fails the job at once: raise another one", code)
    return tuple(str(code) for code in value)
