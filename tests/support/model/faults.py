"""The store as processes see it that die, or get no answer, at a chosen call."""

from __future__ import annotations

import asyncio
import inspect
import random
from dataclasses import dataclass
from typing import Any

from avtomatika.errors import StoreUnavailableError
from avtomatika.testing.machine import Killed

#: Calls that change nothing: dying in one of them is the same as dying before the next one that does.
_READS = frozenset(
    {
        *("load", "is_claimed", "get_task", "branches", "events", "capability_of", "secret", "ledger_get", "outbox_messages"),
        *("ended_boots", "claims", "assigned", "workers", "picking", "heads", "candidates", "knowing", "due", "unrouted_types"),
        *("unrouted", "outbox", "ledger", "unclaimed", "acquire", "renew", "forget_expired", "lane_position"),
    }
)


@dataclass
class Fault:
    """What befalls a process at its n-th call from now on that changes something in the store.

    Attributes:
        dies: else the store does not answer this one time.
        after: the call has taken effect.
    """

    at: int
    dies: bool = True
    after: bool = False


class FaultyStore:
    """The store as one boot of a process sees it. Others get a turn around each call, by chance."""

    def __init__(self, store: Any, chance: random.Random) -> None:
        self._store = store
        self._random = chance
        self.dead = False
        self.fault: Fault | None = None
        self.together = False
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._turn()
            fault = None if name in _READS else self._fault_now()
            if fault is not None and not fault.after:
                self._befall(fault)
            done = await method(*args, **kwargs)
            if fault is not None:
                self._befall(fault)
            await self._turn()
            return done

        return call

    async def _turn(self) -> None:
        self._alive()
        for _ in range(self._random.randrange(3) if self.together else 0):
            await asyncio.sleep(0)
        self._alive()

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    def _fault_now(self) -> Fault | None:
        self.calls += 1
        fault = self.fault
        if fault is None or self.calls < fault.at:
            return None
        self.fault = None
        return fault

    def _befall(self, fault: Fault) -> None:
        if not fault.dies:
            raise StoreUnavailableError("by chance")
        self.dead = True
        raise Killed
