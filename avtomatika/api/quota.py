"""How many jobs a client may ask for in a month: `monthly_attempts` of clients.toml."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from avtomatika.api.keys import ACCOUNT, REPEATED, SERVICE
from avtomatika.api.middleware import RequestError
from avtomatika.errors import StoreUnavailableError

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

#: Facades' clocks may differ: a month's count stays a while after its end.
_KEPT = 24 * 3600.0


def takes_attempt(handler: F) -> F:
    """Marks a handler that creates a job."""
    handler.takes_attempt = True  # type: ignore[attr-defined]
    return handler


@web.middleware
async def quota(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Takes an attempt before a job is created; gives it back where none was. A store that is away lets nobody through."""
    account = request.get(ACCOUNT)
    if account is None or account.monthly_attempts is None or not getattr(request.match_info.handler, "takes_attempt", False):
        return await handler(request)
    service, name = request.app[SERVICE], account.client.name
    store = service.store
    period, left = month_of(service.clock())
    if not await store.take_attempt(name, period, account.monthly_attempts, left + _KEPT):
        if await _has_made_its_job(request, name):
            return await handler(request)
        raise RequestError(
            429,
            f"the monthly_attempts of client {name!r} ({account.monthly_attempts}) are used up until the next month (UTC); "
            "raise them in clients.toml",
            {"Retry-After": str(max(1, math.ceil(left)))},
        )
    created = False
    try:
        response = await handler(request)
        created = response.status < 400 and not request.get(REPEATED, False)
    finally:
        if not created:
            # Whatever ends this request must not end the return, too.
            await asyncio.shield(_give_back(request, name, period))
    return response


async def _has_made_its_job(request: web.Request, name: str) -> bool:
    """Whether this repeats a request whose job is there: that one was counted, and no new one can come of it."""
    key = request.headers.get("Idempotency-Key", "").strip()
    store = request.app[SERVICE].store
    job_id = await store.remembered_job(name, key) if key else None
    return job_id is not None and await store.load(job_id) is not None


async def _give_back(request: web.Request, name: str, period: str) -> None:
    try:
        await request.app[SERVICE].store.return_attempt(name, period)
    except StoreUnavailableError as exc:
        logger.warning("an attempt of %s stays counted: %s", name, exc, extra={"action": "attempt_lost", "client": name})


def month_of(now: float) -> tuple[str, float]:
    """The calendar month in UTC, and the seconds until the next one."""
    at = datetime.fromtimestamp(now, UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return f"{at:%Y-%m}", following.timestamp() - now
