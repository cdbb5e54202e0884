"""Plain Celery tasks as steps: how what their fleet's worker recorded becomes a result envelope."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from celery import Celery, states

from avtomatika.errors import ErrorCode
from avtomatika.jobs import JSON, Result
from avtomatika.settings import Settings

#: Exceptions by name, since the fleet's own classes need not exist here. Everything else may work another time.
_INVALID = frozenset({"NotRegistered", "TypeError", "ValidationError"})
_TIMEOUTS = frozenset({"TimeLimitExceeded", "SoftTimeLimitExceeded"})


@lru_cache(maxsize=1)
def _backend(url: str) -> Any:
    app = Celery("avtomatika-fleet", backend=url, set_as_current=False)
    app.conf.accept_content = ["json"]
    return app.backend


def envelope_of_failure(settings: Settings, task_id: str) -> JSON:
    """The envelope of a plain task that raised.

    The exception is read from PLAIN_RESULT_BACKEND; without one nobody can tell what it was, and it counts as permanent.
    """
    if settings.plain_result_backend is None:
        reason = "the task raised; set PLAIN_RESULT_BACKEND to its fleet's result backend to see what"
        return Result.failure(ErrorCode.PERMANENT, reason).to_dict()
    meta = _backend(settings.plain_result_backend.get_secret_value()).get_task_meta(task_id)
    if meta.get("status") == states.REVOKED:
        return Result(Result.CANCELLED).to_dict()
    name, message = _described(meta.get("result"))
    if name is None:
        return Result.failure(ErrorCode.PERMANENT, "the task raised; its result backend holds no exception of it").to_dict()
    return envelope_of_exception(name, message)


def envelope_of_exception(name: str, message: str) -> JSON:
    """The envelope of a plain task that raised an exception of this class name."""
    if name in _TIMEOUTS:
        return {"status": Result.TIMEOUT, "data": {}, "error": {"code": "TIMEOUT", "message": f"{name}: {message}"}}
    code = ErrorCode.INVALID_INPUT if name in _INVALID else ErrorCode.TRANSIENT
    return Result.failure(code, f"{name}: {message}").to_dict()


def _described(error: Any) -> tuple[str | None, str]:
    if isinstance(error, BaseException):
        return type(error).__name__, str(error)
    if isinstance(error, dict) and "exc_type" in error:
        message = error.get("exc_message")
        return str(error["exc_type"]), " ".join(map(str, message)) if isinstance(message, list | tuple) else str(message)
    return None, ""
