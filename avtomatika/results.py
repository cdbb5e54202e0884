"""What a worker reports of one attempt, and how patiently a dispatch is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from avtomatika.errors import ErrorCode

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
class RetryPolicy:
    """How often and how patiently one dispatch is tried again.

    Attributes:
        max_attempts: attempts in all, the first included; None means JOB_MAX_RETRIES + 1.
        backoff_seconds: wait before the second attempt, doubling to 60 s with jitter; None means RETRY_BACKOFF_SECONDS.
        then: ``quarantine``, or ``failure``: what would be quarantined takes the `failure` transition.
    """

    max_attempts: int | None = None
    backoff_seconds: float | None = None
    then: str = "quarantine"

    def __post_init__(self) -> None:
        if self.then not in ("quarantine", "failure"):
            raise ValueError(f"RetryPolicy.then must be 'quarantine' or 'failure', not {self.then!r}")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"RetryPolicy.max_attempts counts the first attempt, too: at least 1, not {self.max_attempts}")

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}
