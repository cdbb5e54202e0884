"""The state store on Redis (6.2 or later): everything that belongs to one change happens in one script call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from avtomatika.errors import RegistrationError
from avtomatika.jobs import Message, Timer, WorkerRecord
from avtomatika.state.base import CommitResult
from avtomatika.state.redis_base import connect, dumps, loads, text
from avtomatika.state.redis_tasks import RedisTasks

__all__ = ["RedisStore", "connect"]


class RedisStore(RedisTasks):
    """Workers, timers, messages on their way and locks; jobs and tasks are in the modules beside."""

    async def register(self, record: WorkerRecord, now: float, ttl: float) -> None:
        keys = self._keys
        await self._ask(
            self._scripts("register")(
                keys=[keys.worker(record.id), keys.workers, keys.boots],
                args=[record.id, record.boot_id, dumps(record.to_dict()), now + ttl, record.seen_at or record.registered_at],
            )
        )

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        keys = self._keys
        body = dumps(record.to_dict()) if record is not None else ""
        reply = await self._ask(
            self._scripts("heartbeat")(keys=[keys.worker(worker_id), keys.boots], args=[boot_id, now + ttl, body, now])
        )
        return int(reply) == 1

    async def unregister(self, worker_id: str, boot_id: str) -> None:
        keys = self._keys
        await self._ask(
            self._scripts("unregister")(keys=[keys.worker(worker_id), keys.workers, keys.boots], args=[worker_id, boot_id])
        )

    async def workers(self, now: float) -> Sequence[WorkerRecord]:
        ids = sorted(text(i) for i in await self._ask(self._client.smembers(self._keys.workers)))
        async with self._client.pipeline(transaction=False) as pipe:
            for worker_id in ids:
                pipe.hmget(self._keys.worker(worker_id), ["d", "e", "at"])
            rows = await self._ask(pipe.execute()) if ids else []
        found = []
        for worker_id, (body, expires, seen) in zip(ids, rows, strict=True):
            if body is None or float(expires) <= now:
                await self._forget_worker(worker_id, now)
                continue
            fields = loads(body)
            fields["seen_at"] = float(seen or fields["registered_at"])
            found.append(WorkerRecord.from_dict(fields))
        return found

    async def _forget_worker(self, worker_id: str, now: float) -> None:
        expires = await self._ask(self._client.hget(self._keys.worker(worker_id), "e"))
        if expires is None or float(expires) <= now:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.delete(self._keys.worker(worker_id))
                pipe.srem(self._keys.workers, worker_id)
                await self._ask(pipe.execute())

    async def pin_tasks(self, tasks: dict[str, str | None]) -> dict[str, str]:
        if not tasks:
            return {}
        words = [word for task, capability in tasks.items() for word in (task, capability or "")]
        reply = [text(part) for part in await self._ask(self._scripts("pin")(keys=[self._keys.pins], args=words))]
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

    async def drop_claim(self, boot_id: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        field = f"j:{job_id}" if job_id is not None else f"t:{task_id}"
        await self._ask(self._client.hdel(self._keys.claims(boot_id), field))

    async def forget_boot(self, boot_id: str, now: float) -> None:
        keys = self._keys
        await self._ask(self._scripts("forget_boot")(keys=[keys.claims(boot_id), keys.boots], args=[boot_id, now]))

    async def due(self, now: float, limit: int = 1000) -> Sequence[Timer]:
        rows: Any = await self._ask(
            self._client.zrange(self._keys.timers, "-inf", now, byscore=True, offset=0, num=limit, withscores=True)
        )
        return [Timer.from_member(text(member), float(score)) for member, score in rows]

    async def set_timer(self, timer: Timer) -> None:
        await self._ask(self._client.zadd(self._keys.timers, {timer.member: timer.due}))

    async def drop_timer(self, timer: Timer) -> None:
        await self._ask(self._scripts("drop_timer")(keys=[self._keys.timers], args=[timer.member, timer.due]))

    async def publish(self, message: Message, now: float) -> CommitResult:
        commands, outbox_id = self._publish(message, now)
        async with self._client.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            await self._ask(pipe.execute())
        return CommitResult(True, (outbox_id,) if outbox_id else ())

    async def outbox(self, older_than: float, limit: int = 1000) -> Sequence[tuple[str, Message]]:
        ids = await self._ask(self._client.zrange(self._keys.outbox_at, "-inf", older_than, byscore=True, offset=0, num=limit))
        return await self.outbox_messages([text(i) for i in ids])

    async def outbox_messages(self, ids: Sequence[str]) -> Sequence[tuple[str, Message]]:
        if not ids:
            return []
        bodies = await self._ask(self._client.hmget(self._keys.outbox, list(ids)))
        return [(i, Message.from_dict(loads(body))) for i, body in zip(ids, bodies, strict=True) if body is not None]

    async def clear_outbox(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._keys.outbox, *ids)
            pipe.zrem(self._keys.outbox_at, *ids)
            await self._ask(pipe.execute())

    async def ledger(self, published_before: float, limit: int = 1000) -> Sequence[tuple[Message, float]]:
        rows: Any = await self._ask(
            self._client.zrange(
                self._keys.ledger_at, "-inf", published_before, byscore=True, offset=0, num=limit, withscores=True
            )
        )
        if not rows:
            return []
        bodies = await self._ask(self._client.hmget(self._keys.ledger, [key for key, _ in rows]))
        return [
            (Message.from_dict(loads(body)), float(at)) for (_, at), body in zip(rows, bodies, strict=True) if body is not None
        ]

    async def ledger_get(self, key: str) -> Message | None:
        body = await self._ask(self._client.hget(self._keys.ledger, key))
        return Message.from_dict(loads(body)) if body is not None else None

    async def settle(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            for command in self._settle(keys):
                pipe.execute_command(*command)
            await self._ask(pipe.execute())

    async def acquire(self, name: str, holder: str, ttl: float) -> bool:
        if await self._ask(self._client.set(self._keys.lock(name), holder, nx=True, px=int(ttl * 1000))):
            return True
        return await self.renew(name, holder, ttl)  # perhaps it is ours: the answer to a first call was lost

    async def renew(self, name: str, holder: str, ttl: float) -> bool:
        reply = await self._ask(self._scripts("lock")(keys=[self._keys.lock(name)], args=[holder, "renew", int(ttl * 1000)]))
        return int(reply) == 1

    async def release(self, name: str, holder: str) -> bool:
        return int(await self._ask(self._scripts("lock")(keys=[self._keys.lock(name)], args=[holder, "release", 0]))) == 1

    async def ping(self) -> None:
        await self._ask(self._client.ping())

    async def close(self) -> None:
        await self._client.aclose()

    @cached_property
    def _loaded(self) -> dict[str, Any]:
        return {}

    def _scripts(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._script(name)
        return self._loaded[name]
