"""The state store on Redis (6.2 or later): everything that belongs to one change happens in one script call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avtomatika.jobs import Message, Timer
from avtomatika.state.base import CommitResult
from avtomatika.state.redis_base import connect, loads, text
from avtomatika.state.redis_joblogs import RedisJobLogs
from avtomatika.state.redis_listed import RedisListed
from avtomatika.state.redis_pull import RedisPull
from avtomatika.state.redis_quotas import RedisQuotas
from avtomatika.state.redis_schedules import RedisSchedules

__all__ = ["RedisStore", "connect"]


class RedisStore(RedisPull, RedisListed, RedisSchedules, RedisQuotas, RedisJobLogs):
    """Timers, messages on their way and locks; jobs, tasks, workers, schedules, quotas and logs are in the modules beside."""

    async def due(self, now: float, limit: int = 1000) -> Sequence[Timer]:
        rows: Any = await self._ask(
            self._client.zrange(self._keys.timers, "-inf", now, byscore=True, offset=0, num=limit, withscores=True)
        )
        return [Timer.from_member(text(member), float(score)) for member, score in rows]

    async def set_timer(self, timer: Timer) -> None:
        await self._ask(self._client.zadd(self._keys.timers, {timer.member: timer.due}))

    async def drop_timer(self, timer: Timer) -> None:
        await self._ask(self._script("drop_timer")(keys=[self._keys.timers], args=[timer.member, timer.due]))

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
        reply = await self._ask(self._script("lock")(keys=[self._keys.lock(name)], args=[holder, "renew", int(ttl * 1000)]))
        return int(reply) == 1

    async def release(self, name: str, holder: str) -> bool:
        return int(await self._ask(self._script("lock")(keys=[self._keys.lock(name)], args=[holder, "release", 0]))) == 1

    async def ping(self) -> None:
        await self._ask(self._client.ping())

    async def flush(self) -> None:
        async def delete() -> None:
            keys: list[Any] = []
            async for key in self._client.scan_iter(match=f"{self._keys.namespace}:*", count=1000):
                keys.append(key)
                if len(keys) == 1000:
                    await self._client.unlink(*keys)
                    keys.clear()
            if keys:
                await self._client.unlink(*keys)

        await self._ask(delete())

    async def close(self) -> None:
        await self._client.aclose()
