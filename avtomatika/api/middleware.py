"""What every request passes first: whatever goes wrong inside becomes JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import redis.exceptions
from aiohttp import web
from aiohttp.typedefs import Handler
from kombu.exceptions import OperationalError

from avtomatika.api.keys import PATIENCE
from avtomatika.errors import (
    AvtomatikaError,
    ForbiddenError,
    HistoryUnavailableError,
    RegistrationError,
    StoreUnavailableError,
    UnknownBlueprintError,
    UnknownDecisionError,
    UnknownJobError,
    UnknownScheduleError,
    UnknownWorkerError,
    WrongStateError,
)
from avtomatika.operations.errors import OperationError, PolicyError

logger = logging.getLogger(__name__)

RETRY_AFTER = 2
# The state store answers in milliseconds; a request that takes this long would be a hang.
PATIENCE_SECONDS = 10.0

#: The store or the broker is away: 503.
AWAY = (
    StoreUnavailableError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    OperationalError,
    TimeoutError,
)
# The first that fits counts: a subclass comes before its base.
_STATUS: dict[type[AvtomatikaError], int] = {
    UnknownBlueprintError: 404,
    UnknownJobError: 404,
    UnknownScheduleError: 404,
    UnknownWorkerError: 404,
    UnknownDecisionError: 422,
    WrongStateError: 409,
    RegistrationError: 409,
    ForbiddenError: 403,
    PolicyError: 403,
    OperationError: 400,
}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)


class RequestError(AvtomatikaError):
    """A request does not fit; `status` is the answer's code, `headers` are its headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as ``{"error": …}`` with its code; 503 while the store or the broker is away."""
    try:
        if getattr(request.match_info.handler, "unbounded", False):
            return await handler(request)
        async with asyncio.timeout(PATIENCE_SECONDS) as patience:
            request[PATIENCE] = patience
            return await handler(request)
    except RequestError as exc:
        return error_response(exc.status, str(exc), exc.headers)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return error_response(exc.status, _words(request, exc), _kept_headers(exc))
    except AWAY as exc:
        logger.warning("store or broker away: %s", exc, extra={"action": "unavailable", "path": request.path})
        return error_response(
            503, "the state store or the broker does not answer now; try again in a moment", {"Retry-After": str(RETRY_AFTER)}
        )
    except HistoryUnavailableError as exc:
        logger.warning("history away: %s", exc, extra={"action": "unavailable", "path": request.path})
        return error_response(503, str(HistoryUnavailableError()), {"Retry-After": str(RETRY_AFTER)})
    except AvtomatikaError as exc:
        status = next((code for kind, code in _STATUS.items() if isinstance(exc, kind)), None)
        if status is None:
            logger.exception("request failed", extra={"action": "request_failed", "path": request.path})
            status = 500
        return error_response(status, str(exc))
    except Exception:
        logger.exception("request failed", extra={"action": "request_failed", "path": request.path})
        return error_response(500, "this request failed here; the server's log says why")


def _words(request: web.Request, exc: web.HTTPException) -> str:
    if exc.status == 404:
        return f"nothing is served at {request.path}"
    if exc.status == 405:
        allowed = ", ".join(sorted(getattr(exc, "allowed_methods", ())))
        return f"{request.method} does not work here; {allowed} does"
    if exc.status == 413:
        return "the body is larger than BODY_LIMIT_MB allows; send less, or raise the limit"
    return exc.text if exc.text and not exc.text.startswith(str(exc.status)) else HTTPStatus(exc.status).phrase


def _kept_headers(exc: web.HTTPException) -> dict[str, Any]:
    return {name: value for name, value in exc.headers.items() if name.lower() not in ("content-type", "content-length")}
