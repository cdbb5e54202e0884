"""What every request passes: errors become JSON, then the token is checked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import redis.exceptions
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from kombu.exceptions import OperationalError

from avtomatika.api.auth import ClientTokens, token_of
from avtomatika.api.keys import CLIENT
from avtomatika.errors import (
    AvtomatikaError,
    StoreUnavailableError,
    UnknownBlueprintError,
    UnknownJobError,
    WrongStateError,
)

logger = logging.getLogger(__name__)

RETRY_AFTER = 2
# The state store answers in milliseconds; a request that takes this long would be a hang.
PATIENCE = 10.0

_AWAY = (
    StoreUnavailableError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    OperationalError,
    TimeoutError,
)
_STATUS: dict[type[AvtomatikaError], int] = {UnknownBlueprintError: 404, UnknownJobError: 404, WrongStateError: 409}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)


class RequestError(AvtomatikaError):
    """A request does not fit; `status` is the answer's code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as ``{"error": …}`` with its code; 503 while the store or the broker is away."""
    try:
        if getattr(request.match_info.handler, "unbounded", False):
            return await handler(request)
        async with asyncio.timeout(PATIENCE):
            return await handler(request)
    except RequestError as exc:
        return error_response(exc.status, str(exc))
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return error_response(exc.status, _words(request, exc), _kept_headers(exc))
    except _AWAY as exc:
        logger.warning("store or broker away: %s", exc, extra={"action": "unavailable", "path": request.path})
        return error_response(
            503, "the state store or the broker does not answer now; try again in a moment", {"Retry-After": str(RETRY_AFTER)}
        )
    except AvtomatikaError as exc:
        status = next((code for kind, code in _STATUS.items() if isinstance(exc, kind)), None)
        if status is None:
            logger.exception("request failed", extra={"action": "request_failed", "path": request.path})
            status = 500
        return error_response(status, str(exc))
    except Exception:
        logger.exception("request failed", extra={"action": "request_failed", "path": request.path})
        return error_response(500, "this request failed here; the server's log says why")


def authentication(tokens: ClientTokens) -> Middleware:
    """Requires a client's token under /api/ and puts the client on the request."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/api/"):
            return await handler(request)
        token = token_of(request)
        client = tokens.client_of(token) if token is not None else None
        if client is None:
            what = "no token" if token is None else "this token is not known"
            return error_response(
                401, f"{what}: send it as X-Avtomatika-Token or Authorization: Bearer", {"WWW-Authenticate": "Bearer"}
            )
        request[CLIENT] = client
        return await handler(request)

    return authenticate


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
