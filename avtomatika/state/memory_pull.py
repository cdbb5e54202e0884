"""HTTP workers in memory: what they hold, and what they are to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from avtomatika.jobs import WorkerRecord
from avtomatika.state.base import News, NewsKind, PullView
from avtomatika.state.memory_picks import MemoryPicks


class MemoryPull(MemoryPicks):
    async def worker(self, worker_id: str, now: float) -> WorkerRecord | None:
        record, expires = self._workers.get(worker_id, (None, 0.0))
        return record if expires > now else None

    async def pull_view(self, worker_id: str, now: float) -> PullView | None:
        record = await self.worker(worker_id, now)
        if record is None or not record.http:
            return None
        leases = dict(self._claimed.get(record.boot_id, {}))
        handing = {task: at for task, at in self._handing.get(record.boot_id, {}).items() if task in leases}
        return PullView(record, leases, dict(self._assigned.get(record.boot_id, {})), handing)

    async def delivered(self, boot_id: str, task_id: str) -> None:
        self._handing.get(boot_id, {}).pop(task_id, None)

    async def take_left_behind(self, boot_id: str, before: float, now: float) -> str | None:
        for task_id, at in self._handing.get(boot_id, {}).items():
            if at <= before and task_id in self._claimed.get(boot_id, {}):
                self._handing[boot_id][task_id] = now
                return task_id
        return None

    async def take_stops(self, boot_id: str) -> Sequence[str]:
        return sorted(self._stops.pop(boot_id, ()))

    async def pending_stops(self, boot_id: str) -> dict[str, str]:
        return dict(self._stops.get(boot_id, {}))

    async def settle_stop(self, boot_id: str, task_id: str) -> None:
        self._stops.get(boot_id, {}).pop(task_id, None)

    async def news(self) -> AsyncIterator[News]:
        queue: asyncio.Queue[News] = asyncio.Queue()
        self._listeners.append(queue.put_nowait)
        try:
            yield News(NewsKind.RESUMED)
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue.put_nowait)

    async def note_socket(self, name: str, until: float, now: float) -> None:
        self._sockets[name] = until

    async def forget_socket(self, name: str, until: float) -> None:
        if self._sockets.get(name) == until:
            del self._sockets[name]

    async def has_socket(self, worker_id: str, now: float, *, shared: bool) -> bool:
        found = self._workers.get(worker_id)
        names = (worker_id, *(("*",) if shared else ()))
        return found is not None and found[0].http and any(self._sockets.get(name, 0) > now for name in names)
