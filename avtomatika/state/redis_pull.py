"""HTTP workers in Redis: what they hold, what they are to stop, and the channel on which facades hear of both at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from redis.exceptions import RedisError

from avtomatika.jobs import WorkerRecord
from avtomatika.state.base import News, NewsKind, PullView
from avtomatika.state.redis_base import LIBRARIES, loads, text
from avtomatika.state.redis_fleet import RedisFleet

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.5
SILENCE_SECONDS = 10.0


def _news(body: str) -> News | None:
    """None for what another version says."""
    try:
        kind, *rest = loads(body)
        return News(NewsKind(kind), *rest)
    except (ValueError, TypeError):
        return None


class RedisPull(RedisFleet):
    async def worker(self, worker_id: str, now: float) -> WorkerRecord | None:
        body, expires, seen = await self._ask(self._client.hmget(self._keys.worker(worker_id), ["d", "e", "at"]))
        if body is None or float(expires) <= now:
            return None
        record = WorkerRecord.from_dict(loads(body))
        return replace(record, seen_at=float(seen or record.registered_at))

    async def pull_view(self, worker_id: str, now: float) -> PullView | None:
        script = self._script("pull_view", *LIBRARIES)
        reply = await self._ask(script(keys=[self._keys.worker(worker_id)], args=[now]))
        if not reply:
            return None
        body, claims, handing = reply
        rows = [(text(name), text(value)) for name, value in zip(claims[::2], claims[1::2], strict=True)]
        return PullView(
            WorkerRecord.from_dict(loads(body)),
            leases={name[2:]: capability for name, capability in rows if name.startswith("t:")},
            assigned={name[2:]: capability for name, capability in rows if name.startswith("d:")},
            handing={text(task): float(at) for task, at in zip(handing[::2], handing[1::2], strict=True)},
        )

    async def delivered(self, boot_id: str, task_id: str) -> None:
        await self._ask(self._client.zrem(self._keys.handing(boot_id), task_id))

    async def take_left_behind(self, boot_id: str, before: float, now: float) -> str | None:
        script = self._script("take_left_behind")
        found = await self._ask(script(keys=[self._keys.handing(boot_id), self._keys.claims(boot_id)], args=[before, now]))
        return text(found) if found else None

    async def take_stops(self, boot_id: str) -> Sequence[str]:
        key = self._keys.stops(boot_id)
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hkeys(key)
            pipe.delete(key)
            members, _ = await self._ask(pipe.execute())
        return sorted(text(task_id) for task_id in members)

    async def pending_stops(self, boot_id: str) -> dict[str, str]:
        rows = await self._ask(self._client.hgetall(self._keys.stops(boot_id)))
        return {text(task): text(job) for task, job in rows.items()}

    async def settle_stop(self, boot_id: str, task_id: str) -> None:
        await self._ask(self._client.hdel(self._keys.stops(boot_id), task_id))

    async def news(self) -> AsyncIterator[News]:
        while True:
            try:
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(self._keys.news)
                    asked = False
                    while True:
                        message = await subscription.get_message(timeout=SILENCE_SECONDS)
                        if message is None and asked:
                            raise ConnectionError("the subscription does not answer")
                        asked = message is None
                        if message is None:  # is the connection alive?
                            await subscription.ping()
                        elif message["type"] == "subscribe":  # also when the client has connected anew by itself
                            yield News(NewsKind.RESUMED)
                        elif message["type"] == "message" and (news := _news(message["data"])) is not None:
                            yield news
            except (RedisError, OSError) as exc:
                logger.warning("news from the store are interrupted: %s", exc, extra={"action": "news"})
                await asyncio.sleep(RECONNECT_SECONDS)

    async def note_socket(self, name: str, until: float, now: float) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(self._keys.sockets, {name: until})
            pipe.zremrangebyscore(self._keys.sockets, "-inf", now)
            await self._ask(pipe.execute())

    async def forget_socket(self, name: str, until: float) -> None:
        await self._ask(self._script("drop_timer")(keys=[self._keys.sockets], args=[name, until]))

    async def has_socket(self, worker_id: str, now: float, *, shared: bool) -> bool:
        is_http = await self._ask(self._client.hget(self._keys.worker(worker_id), "h"))
        names = [worker_id, *(["*"] if shared else [])]
        found = await self._ask(self._client.zmscore(self._keys.sockets, names)) if is_http else ()
        return any(until is not None and float(until) > now for until in found)
