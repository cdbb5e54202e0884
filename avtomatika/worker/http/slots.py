"""How much this process may run at once, and what of it is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from avtomatika.results import JSON
from avtomatika.worker.sdk import Declared


class Slots:
    """A slot is taken from the moment a task arrives until its handler has ended.

    Args:
        on_change: called after every change.
    """

    def __init__(self, merged: Declared, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.most = merged.max_concurrent_tasks
        self.capability_of = {task: merged.capability_of(task) for task in sorted(merged.tasks)}
        self.limits = {name: merged.limit_of(name) for name in self.capability_of.values()}
        self.taken = dict.fromkeys(self.limits, 0)
        self._all = asyncio.Semaphore(self.most)
        self._each = {name: asyncio.Semaphore(limit) for name, limit in self.limits.items()}

    def take(self, task: str) -> None:
        name = self.capability_of[task]
        self.taken[name] += 1
        self._on_change()

    def give_back(self, task: str) -> None:
        self.taken[self.capability_of[task]] -= 1
        self._on_change()

    @asynccontextmanager
    async def turn(self, task: str) -> AsyncIterator[None]:
        """Waits where a slot was taken twice: two orchestrators may have given a task for the same one."""
        async with self._each[self.capability_of[task]], self._all:
            yield

    @property
    def full(self) -> frozenset[str]:
        return frozenset(name for name, limit in self.limits.items() if self.taken[name] >= limit)

    @property
    def room(self) -> int:
        """How many tasks could start now, whichever of the supported ones they are."""
        left = [limit - self.taken[name] for name, limit in self.limits.items() if self.taken[name] < limit]
        return max(0, min(self.most - sum(self.taken.values()), *left)) if left else 0

    def state(self) -> JSON:
        """As a heartbeat tells it."""
        full = self.full
        busy = len(full) == len(self.limits) or sum(self.taken.values()) >= self.most
        return {
            "status": "busy" if busy else "idle",
            "load": dict(self.taken),
            "supported_tasks": [task for task, capability in self.capability_of.items() if capability not in full],
        }
