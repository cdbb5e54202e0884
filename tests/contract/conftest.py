"""Every store there is, behind one fixture: the tests beside hold each of them to the same promises."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import redis.asyncio as aioredis

from avtomatika.jobs import Job, Message
from avtomatika.state.base import Commit, Store
from avtomatika.state.memory import MemoryStore
from avtomatika.state.redis import RedisStore, connect
from tests.contract.line import Line
from tests.support.records import a_job, creation
from tests.support.servers import RedisServer


@dataclass
class Kit:
    """A store whose commits push their messages (`store`), and one on the same kind of state that has an outbox (`apart`).

    `redis` is None for the store in memory.
    """

    store: Store
    apart: Store
    pushed_now: Callable[[], list[Message]]
    redis: aioredis.Redis | None = None
    namespace: str = ""

    async def pushed(self) -> list[Message]:
        """What was pushed so far, oldest first."""
        if self.redis is None:
            return self.pushed_now()
        rows = await self.redis.lrange(f"{self.namespace}-queue", 0, -1)
        return [Message.from_dict(json.loads(row)) for row in reversed(rows)]

    async def bodies(self) -> list[str]:
        return [message.body for message in await self.pushed()]

    async def created(self, **fields: object) -> Job:
        """A stored job."""
        job = a_job(**fields)
        assert (await self.store.commit(creation(job))).applied
        return job

    async def committed(self, commit: Commit) -> Job:
        assert (await self.store.commit(commit)).applied
        return commit.job

    async def everything(self) -> dict[str, object]:
        """All that Redis holds; for the store in memory, all that it has in its dictionaries."""
        if self.redis is None:
            return {name: repr(value) for name, value in vars(self.store).items() if not callable(value)}
        return {key: await _value(self.redis, key) async for key in self.redis.scan_iter()}


async def _value(redis: aioredis.Redis, key: str) -> object:
    match await redis.type(key):
        case "hash":
            return await redis.hgetall(key)
        case "set":
            return sorted(await redis.smembers(key))
        case "zset":
            return await redis.zrange(key, 0, -1, withscores=True)
        case "list":
            return await redis.lrange(key, 0, -1)
        case "stream":
            return await redis.xrange(key)
        case _:
            return await redis.get(key)


@pytest.fixture(params=["memory", "redis-6.2", "redis-newer"])
async def kit(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Kit]:
    if request.param == "memory":
        pushed: list[Message] = []
        yield Kit(MemoryStore(pushed.append, retention=3600), MemoryStore(), lambda: list(pushed))
        return
    server: RedisServer = request.getfixturevalue("redis62" if request.param == "redis-6.2" else "redis_newer")
    client = connect(server.url)
    dumps = aioredis.Redis.from_url(server.url, decode_responses=True, encoding_errors="replace")
    push = lambda m: (f"{namespace}-queue", json.dumps(m.to_dict()))  # noqa: E731
    store = RedisStore(client, namespace, push=push, retention=3600, snapshots=True)
    apart = RedisStore(connect(server.url), f"{namespace}-apart")
    yield Kit(store, apart, list, dumps, namespace)
    for closing in (store, apart):
        await closing.close()
    await dumps.aclose()


@pytest.fixture
def line(kit: Kit) -> Line:
    """Tasks and workers of the store that pushes."""
    return Line(kit.store)
