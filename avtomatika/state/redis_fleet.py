"""The fleet in Redis: registered processes, the indexes that picks read, outcomes and reputations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from avtomatika.errors import RegistrationError
from avtomatika.jobs import WorkerRecord
from avtomatika.state.base import Candidate, Candidates, CommitResult, Order, Reputation
from avtomatika.state.redis_base import LIBRARIES, dumps, loads, text, todo
from avtomatika.state.redis_picks import RedisPicks
from avtomatika.state.values import disowned_by


@lru_cache(maxsize=4096)
def _worker(body: str) -> WorkerRecord:
    """A record, parsed once while it stays as it is."""
    return WorkerRecord.from_dict(loads(body))


def _slots(record: WorkerRecord) -> str:
    return dumps({**record.capabilities, "#": record.max_concurrent_tasks})


def _candidate(row: Sequence[Any]) -> Candidate:
    body, free, taken, reputation, turn, warm, idle = row
    return Candidate(_worker(text(body)), int(float(free)), int(taken), float(reputation), int(turn), bool(warm), bool(idle))


class RedisFleet(RedisPicks):
    async def register(self, record: WorkerRecord, now: float, ttl: float) -> CommitResult:
        keys = self._keys
        seen = record.seen_at or record.registered_at
        reply = await self._ask(
            self._script("register", *LIBRARIES)(
                keys=[keys.worker(record.id), keys.workers, keys.boots],
                args=[record.id, record.boot_id, dumps(record.to_dict()), now + ttl, seen, _slots(record), now],
            )
        )
        return todo(reply)

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        keys = self._keys
        body, slots = (dumps(record.to_dict()), _slots(record)) if record is not None else ("", "")
        reply = await self._ask(
            self._script("heartbeat", *LIBRARIES)(
                keys=[keys.worker(worker_id), keys.boots], args=[boot_id, now + ttl, body, now, worker_id, slots]
            )
        )
        return int(reply) == 1

    async def unregister(self, worker_id: str, boot_id: str, now: float) -> CommitResult:
        keys = self._keys
        script = self._script("unregister", *LIBRARIES)
        reply = await self._ask(script(keys=[keys.worker(worker_id), keys.workers, keys.boots], args=[worker_id, boot_id, now]))
        return todo(reply)

    async def workers(self, now: float) -> Sequence[WorkerRecord]:
        ids = sorted(text(i) for i in await self._ask(self._client.smembers(self._keys.workers)))
        async with self._client.pipeline(transaction=False) as pipe:
            for worker_id in ids:
                pipe.hmget(self._keys.worker(worker_id), ["d", "e", "at"])
            rows = await self._ask(pipe.execute()) if ids else []
        found = []
        for worker_id, (body, expires, seen) in zip(ids, rows, strict=True):
            if body is None or float(expires) <= now:
                forget = self._script("forget_worker", *LIBRARIES)
                await self._ask(forget(keys=[self._keys.worker(worker_id)], args=[worker_id, now]))
                continue
            fields = loads(body)
            fields["seen_at"] = float(seen or fields["registered_at"])
            found.append(WorkerRecord.from_dict(fields))
        return found

    async def pin_tasks(self, tasks: dict[str, str | None]) -> dict[str, str]:
        if not tasks:
            return {}
        words = [word for task, capability in tasks.items() for word in (task, capability or "")]
        reply = [text(part) for part in await self._ask(self._script("pin")(keys=[self._keys.pins], args=words))]
        if reply[0] == "conflict":
            raise RegistrationError(
                f"task {reply[1]!r} belongs to the capability {reply[2]!r}, pinned by its first worker, not to "
                f"{tasks[reply[1]]!r}; declare it with task_type={reply[2]!r}, or give it another name"
            )
        return dict(zip(reply[1::2], reply[2::2], strict=True))

    async def capability_of(self, task_type: str) -> str | None:
        found = await self._ask(self._client.hget(self._keys.pins, task_type))
        return text(found) if found is not None else None

    async def capabilities(self) -> dict[str, str]:
        rows = await self._ask(self._client.hgetall(self._keys.pins))
        return {text(task): text(capability) for task, capability in rows.items()}

    async def ended_boots(self, now: float) -> Sequence[str]:
        return [text(b) for b in await self._ask(self._client.zrange(self._keys.boots, "-inf", now, byscore=True))]

    async def claims(self, boot_id: str) -> tuple[dict[str, str], Sequence[str]]:
        rows = await self._ask(self._client.hgetall(self._keys.claims(boot_id)))
        jobs = {text(name)[2:]: text(key) for name, key in rows.items() if text(name).startswith("j:")}
        return jobs, [text(name)[2:] for name in rows if text(name).startswith("t:")]

    async def disown(self, boot_id: str, jobs: dict[str, str], task_ids: Sequence[str], now: float) -> CommitResult:
        keys, ended = self._keys, disowned_by(boot_id)
        reply = await self._ask(
            self._script("disown", *LIBRARIES)(
                keys=[keys.claims(boot_id), keys.claims(ended), keys.boots],
                args=[boot_id, ended, dumps(jobs), dumps(list(task_ids)), now],
            )
        )
        return todo(reply)

    async def drop_claim(self, boot_id: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        field = f"j:{job_id}" if job_id is not None else f"t:{task_id}"
        await self._ask(self._client.hdel(self._keys.claims(boot_id), field))

    async def forget_boot(self, boot_id: str, now: float) -> CommitResult:
        keys = self._keys
        forget = self._script("forget_boot", *LIBRARIES)
        return todo(await self._ask(forget(keys=[keys.claims(boot_id), keys.boots], args=[boot_id, now])))

    async def candidates(
        self, task_type: str, order: Order, now: float, *, offset: int = 0, count: int = 16, seed: int = 0
    ) -> Candidates:
        args = [task_type, order.value, now, offset, count, seed]
        known, idle, warm, more, rows = await self._ask(self._script("candidates", *LIBRARIES)(args=args))
        return Candidates(tuple(map(_candidate, rows)), int(known), int(idle), int(warm), bool(more))

    async def knowing(self, task_type: str, now: float) -> Sequence[Candidate]:
        reply = await self._ask(self._script("candidates", *LIBRARIES)(args=[task_type, "", now, 0, 0, 0]))
        return sorted(map(_candidate, reply[4]), key=lambda candidate: candidate.worker.id)

    async def note_outcome(self, worker_id: str, outcome: str, now: float) -> None:
        await self._ask(self._script("note_outcome", *LIBRARIES)(args=[worker_id, outcome, now]))

    async def outcomes(self, worker_id: str) -> Sequence[tuple[float, str]]:
        rows = [text(row).partition(" ") for row in await self._ask(self._client.lrange(self._keys.outcomes(worker_id), 0, -1))]
        return [(float(at), outcome) for at, _, outcome in rows]

    async def set_reputation(self, worker_id: str, reputation: Reputation) -> None:
        script = self._script("set_reputation", *LIBRARIES)
        await self._ask(script(keys=[self._keys.reputation(worker_id)], args=[worker_id, dumps(asdict(reputation))]))

    async def reputations(self, worker_ids: Sequence[str]) -> dict[str, Reputation]:
        if not worker_ids:
            return {}
        bodies = await self._ask(self._client.mget([self._keys.reputation(worker_id) for worker_id in worker_ids]))
        return {i: Reputation(**loads(body)) for i, body in zip(worker_ids, bodies, strict=True) if body is not None}
