"""How often a token may ask: so many requests a second over all facades, and twice as many at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from avtomatika.api.auth import place_of
from avtomatika.api.keys import ACCOUNT, WORKER
from avtomatika.api.middleware import RequestError
from avtomatika.errors import StoreUnavailableError
from avtomatika.settings import Settings
from avtomatika.state.base import QuotaStore

#: Of whoever asks quickly, so many seconds' worth of requests are taken at a time; they are used up soon, or not at all.
AHEAD_SECONDS = 0.05
USED_SECONDS = 0.5
MAX_AHEAD = 100
_TOKENS = 10_000


@dataclass
class _Taken:
    """What one token may still ask here without another call to the store."""

    left: int = 0
    until: float = float("-inf")
    ahead: int = 1
    waiting: int = 0
    failed: tuple[float, StoreUnavailableError] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimit:
    """Counts in the store, for all facades together. Those that ask at the same time, or quickly, share a call to it.

    What is taken ahead and not used counts as asked: never more than the limit goes through, at a change of pace a little less.
    """

    def __init__(self, store: QuotaStore, settings: Settings, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._rate = settings.rate_limit
        self._burst = max(1, round(2 * settings.rate_limit))
        self._most = max(1, min(MAX_AHEAD, int(settings.rate_limit * AHEAD_SECONDS)))
        self._tokens: OrderedDict[str, _Taken] = OrderedDict()

    async def wait_for(self, key: str) -> float:
        """0 where a request of this token may go, else seconds to wait."""
        taken = self._tokens.setdefault(key, _Taken())
        self._tokens.move_to_end(key)
        if len(self._tokens) > _TOKENS:
            self._tokens.popitem(last=False)
        if self._use(taken):
            return 0.0
        taken.waiting += 1
        try:
            asked = time.monotonic()
            async with taken.lock:
                if taken.failed is not None and taken.failed[0] >= asked:  # it has asked for this one, too
                    raise taken.failed[1]
                return 0.0 if self._use(taken) else await self._take(key, taken)
        finally:
            taken.waiting -= 1

    @staticmethod
    def _use(taken: _Taken) -> bool:
        if taken.left < 1 or time.monotonic() > taken.until:
            return False
        taken.left -= 1
        return True

    async def _take(self, key: str, taken: _Taken) -> float:
        quick = time.monotonic() <= taken.until  # all that was taken is used up already
        taken.ahead = min(self._most, 2 * taken.ahead) if quick else 1
        count = max(taken.ahead, min(taken.waiting, self._burst))
        try:
            go, wait = await self._store.take_requests(key, self._rate, self._burst, self._clock(), count)
        except StoreUnavailableError as exc:
            taken.failed = (time.monotonic(), exc)
            raise
        taken.left, taken.until = max(0, go - 1), time.monotonic() + USED_SECONDS
        return wait


def rate_limit(store: QuotaStore, settings: Settings, clock: Callable[[], float]) -> Middleware:
    """429 with Retry-After where a token asks too often. A store that is away lets nobody through: that is a 503."""
    limit = RateLimit(store, settings, clock)

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        key = _key(request)
        if key is not None and settings.rate_limiting_enabled:
            wait = await limit.wait_for(key)
            if wait > 0:
                seconds = max(1, math.ceil(wait))
                words = f"too many requests: RATE_LIMIT allows {settings.rate_limit:g} a second; try again in {seconds} s"
                raise RequestError(429, words, {"Retry-After": str(seconds)})
        return await handler(request)

    return limited


def _key(request: web.Request) -> str | None:
    """Whose requests are counted; None where this one is not."""
    if ACCOUNT in request:
        return f"client:{request[ACCOUNT].client.name}"
    if WORKER not in request or _keeps_contact(request.method, place_of(request)):
        return None
    return f"worker:{request[WORKER].worker_id}" if request[WORKER].worker_id is not None else "workers"


def _keeps_contact(method: str, place: str) -> bool:
    """Polls, heartbeats and WebSockets: what a worker does all the time, and no sign of haste."""
    return method == "PATCH" or place.endswith("/tasks/next") or place.startswith("/_worker/ws")
