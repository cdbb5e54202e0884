"""The state store in one process's memory, for unit tests and the testing kit: every promise of base.py, but no restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avtomatika.jobs import Message, Timer
from avtomatika.state.base import CommitResult
from avtomatika.state.memory_base import Change
from avtomatika.state.memory_deliveries import MemoryDeliveries
from avtomatika.state.memory_listed import MemoryListed
from avtomatika.state.memory_pull import MemoryPull
from avtomatika.state.memory_quotas import MemoryQuotas
from avtomatika.state.memory_schedules import MemorySchedules


class MemoryStore(MemoryPull, MemoryListed, MemorySchedules, MemoryDeliveries, MemoryQuotas):
    """Timers, messages on their way and locks; jobs, tasks, lanes, workers, deliveries, schedules and quotas are beside.

    Args:
        push: gets every published message at once, as a broker would; without it messages wait in the outbox.
        retention: seconds for which the records of an ended job are kept.
    """

    def __init__(self, push: Callable[[Message], None] | None = None, retention: float = 7 * 24 * 3600) -> None:
        super().__init__(push)
        self._retention = retention
        MemoryQuotas.__init__(self)
        self._locks: dict[str, str] = {}

    async def due(self, now: float, limit: int = 1000) -> Sequence[Timer]:
        found = sorted((due, member) for member, due in self._timers.items() if due <= now)
        return [Timer.from_member(member, due) for due, member in found[:limit]]

    async def set_timer(self, timer: Timer) -> None:
        self._timers[timer.member] = timer.due

    async def drop_timer(self, timer: Timer) -> None:
        if self._timers.get(timer.member) == timer.due:
            del self._timers[timer.member]

    async def publish(self, message: Message, now: float) -> CommitResult:
        change = Change(now)
        self._publish(message, change)
        return change.result()

    async def outbox(self, older_than: float, limit: int = 1000) -> Sequence[tuple[str, Message]]:
        return [(i, m) for i, (m, at) in self._outbox.items() if at <= older_than][:limit]

    async def outbox_messages(self, ids: Sequence[str]) -> Sequence[tuple[str, Message]]:
        return [(i, self._outbox[i][0]) for i in ids if i in self._outbox]

    async def clear_outbox(self, ids: Sequence[str]) -> None:
        for outbox_id in ids:
            self._outbox.pop(outbox_id, None)

    async def ledger(self, published_before: float, limit: int = 1000) -> Sequence[tuple[Message, float]]:
        found = [(m, at) for m, at in self._ledger.values() if at <= published_before]
        return sorted(found, key=lambda row: row[1])[:limit]

    async def ledger_get(self, key: str) -> Message | None:
        entry = self._ledger.get(key)
        return entry[0] if entry is not None else None

    async def settle(self, keys: Sequence[str]) -> None:
        self._settle(keys)

    async def acquire(self, name: str, holder: str, ttl: float) -> bool:
        return self._locks.setdefault(name, holder) == holder

    async def renew(self, name: str, holder: str, ttl: float) -> bool:
        return self._locks.get(name) == holder

    async def release(self, name: str, holder: str) -> bool:
        if self._locks.get(name) != holder:
            return False
        del self._locks[name]
        return True

    async def ping(self) -> None: ...

    async def flush(self) -> None:
        vars(self).update(vars(MemoryStore(self._push, self._retention)))

    async def close(self) -> None: ...
