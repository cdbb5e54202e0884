"""The state store in one process's memory, for unit tests and the testing kit: every promise of base.py, but no restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from avtomatika.errors import RegistrationError
from avtomatika.jobs import (
    Message,
    Timer,
    WorkerRecord,
)
from avtomatika.state.base import (
    CommitResult,
)
from avtomatika.state.memory_jobs import MemoryTasks


class MemoryStore(MemoryTasks):
    """
    Args:
        push: gets every published message at once, as a broker would; without it messages wait in the outbox.
    """

    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        super().__init__(push)
        self._workers: dict[str, tuple[WorkerRecord, float]] = {}
        self._pins: dict[str, str] = {}
        self._locks: dict[str, str] = {}

    async def register(self, record: WorkerRecord, now: float, ttl: float) -> None:
        before = self._workers.get(record.id)
        if before is not None and before[0].boot_id != record.boot_id:
            self._boots[before[0].boot_id] = 0
        self._workers[record.id] = (record, now + ttl)
        self._boots[record.boot_id] = now + ttl

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        found = self._workers.get(worker_id)
        if found is None or found[0].boot_id != boot_id or boot_id not in self._boots:
            return False
        self._workers[worker_id] = (replace(record or found[0], seen_at=now), now + ttl)
        self._boots[boot_id] = now + ttl
        return True

    async def unregister(self, worker_id: str, boot_id: str) -> None:
        found = self._workers.get(worker_id)
        if found is not None and found[0].boot_id == boot_id:
            del self._workers[worker_id]
        if boot_id in self._boots:
            self._boots[boot_id] = 0

    async def workers(self, now: float) -> Sequence[WorkerRecord]:
        self._workers = {i: w for i, w in self._workers.items() if w[1] > now}
        return [replace(r, seen_at=r.seen_at or r.registered_at) for _, (r, _) in sorted(self._workers.items())]

    async def pin_tasks(self, tasks: dict[str, str | None]) -> dict[str, str]:
        for task, capability in tasks.items():
            pinned = self._pins.get(task)
            if pinned is not None and capability is not None and pinned != capability:
                raise RegistrationError(
                    f"task {task!r} belongs to the capability {pinned!r}, pinned by its first worker, not to {capability!r}; "
                    f"declare it with task_type={pinned!r}, or give it another name"
                )
        return {task: self._pins.setdefault(task, capability or task) for task, capability in tasks.items()}

    async def capability_of(self, task_type: str) -> str | None:
        return self._pins.get(task_type)

    async def capabilities(self) -> dict[str, str]:
        return dict(self._pins)

    async def ended_boots(self, now: float) -> Sequence[str]:
        return [boot for boot, expires in self._boots.items() if expires <= now]

    async def claims(self, boot_id: str) -> tuple[dict[str, str], Sequence[str]]:
        jobs = {job: key for job, (boot, key) in self._job_claims.items() if boot == boot_id}
        return jobs, sorted(self._task_claims.get(boot_id, ()))

    async def drop_claim(self, boot_id: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        if job_id is not None:
            await self.release_job(job_id, boot_id)
        if task_id is not None:
            self._task_claims.get(boot_id, set()).discard(task_id)

    async def forget_boot(self, boot_id: str, now: float) -> None:
        jobs, tasks = await self.claims(boot_id)
        if not jobs and not tasks and self._boots.get(boot_id, 0) <= now:
            self._boots.pop(boot_id, None)
            self._task_claims.pop(boot_id, None)

    async def due(self, now: float, limit: int = 1000) -> Sequence[Timer]:
        found = sorted((due, member) for member, due in self._timers.items() if due <= now)
        return [Timer.from_member(member, due) for due, member in found[:limit]]

    async def set_timer(self, timer: Timer) -> None:
        self._timers[timer.member] = timer.due

    async def drop_timer(self, timer: Timer) -> None:
        if self._timers.get(timer.member) == timer.due:
            del self._timers[timer.member]

    async def publish(self, message: Message, now: float) -> CommitResult:
        return CommitResult(True, self._publish(message, now))

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
        for key in keys:
            self._ledger.pop(key, None)

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

    async def close(self) -> None: ...
