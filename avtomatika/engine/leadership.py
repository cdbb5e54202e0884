"""One of many: a lock in the store that is taken, renewed while it is held, and given back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from avtomatika.errors import StoreUnavailableError
from avtomatika.state.base import Store

logger = logging.getLogger(__name__)


class Leadership:
    """Whether this process leads. Only who holds the lock renews and releases it.

    Args:
        holder: this process's boot id: a leader whose boot has ended is not waited for.
        ttl: seconds after which the lock of a leader that died without a word is free.

    Attributes:
        held: whether it leads, as far as it knows.
    """

    def __init__(self, store: Store, name: str, holder: str, ttl: float, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._ttl = ttl
        self._clock = clock
        self._renewed = 0.0
        self.held = False

    async def take(self) -> bool:
        """Takes or renews the lock; whether it is held now."""
        if self.held and await self._renew():
            return True
        for ended in await self._store.ended_boots(self._clock()):
            await self._store.release(self._name, ended)
        began = time.monotonic()
        self.held = await self._store.acquire(self._name, self._holder, self._ttl)
        self._renewed = began
        return self.held

    async def during(self, work: Coroutine[Any, Any, None]) -> bool:
        """Does the work, and renews the lock meanwhile. A lost lock stops it: false.

        A store that does not answer counts as a loss once the lock may have run out.
        """
        doing = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({doing}, timeout=self._ttl / 3))[0]:
                if not await self._still():
                    logger.warning("the lock %s was lost: its work stops", self._name, extra={"action": "lead"})
                    return False
        finally:
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
        doing.result()
        return True

    async def leave(self) -> None:
        """Gives the lock back, so that another need not wait for its end."""
        if self.held:
            self.held = False
            try:
                await self._store.release(self._name, self._holder)
            except StoreUnavailableError:
                logger.debug("the lock %s ends by its time", self._name)

    async def _still(self) -> bool:
        try:
            return await asyncio.wait_for(self._renew(), self._ttl / 3)
        except (StoreUnavailableError, TimeoutError):
            self.held = time.monotonic() - self._renewed < self._ttl / 2
            return self.held

    async def _renew(self) -> bool:
        began = time.monotonic()
        self.held = await self._store.renew(self._name, self._holder, self._ttl)
        self._renewed = began
        return self.held
