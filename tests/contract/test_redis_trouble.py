"""What Redis itself can run into: it is full, it forgets its scripts, it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JobStatus
from avtomatika.state.redis import RedisStore, connect
from tests.support.records import NOW, a_job, a_message, a_worker, an_event, change, creation
from tests.support.servers import RedisServer


@pytest.fixture
async def store(each_redis: RedisServer, namespace: str) -> AsyncIterator[RedisStore]:
    opened = RedisStore(connect(each_redis.url), namespace)
    yield opened
    await opened.close()
    with each_redis.client() as client:
        client.config_set("maxmemory", "0")


async def test_a_full_store_counts_as_away_and_nothing_is_changed_by_half(store: RedisStore, each_redis: RedisServer) -> None:
    job = a_job()
    await store.commit(creation(job))
    await store.register(a_worker(), NOW, 60)
    after = change(job, {"events": (an_event(job),), "messages": (a_message("k"),)}, status=JobStatus.RUNNING)
    with each_redis.client() as client:
        client.config_set("maxmemory", "1")

        for call in (
            store.commit(after),
            store.register(a_worker("w2"), NOW, 60),
            store.publish(a_message("other"), NOW),
            store.claim_job(job.id, "boot1", NOW, "k"),
        ):
            with pytest.raises(StoreUnavailableError, match="no more data"):
                await call
        assert await store.load(job.id) == job
        client.config_set("maxmemory", "0")

    assert await store.events(job.id) == []
    assert await store.outbox(NOW * 2) == []
    assert (await store.commit(after)).applied


async def test_scripts_that_redis_has_forgotten_are_sent_again(store: RedisStore, each_redis: RedisServer) -> None:
    job = a_job()
    await store.commit(creation(job))
    with each_redis.client() as client:
        client.script_flush()

    assert (await store.commit(change(job))).applied


async def test_a_store_that_is_away_says_so_and_works_again_once_it_is_back(own_redis: RedisServer, namespace: str) -> None:
    opened = RedisStore(connect(own_redis.url), namespace)
    job = a_job()
    await opened.commit(creation(job))
    own_redis.stop()

    with pytest.raises(StoreUnavailableError):
        await opened.load(job.id)
    own_redis.start()

    assert await opened.load(job.id) == job
    assert (await opened.commit(change(job))).applied
    await opened.close()


def test_a_socket_that_was_closed_meanwhile_is_made_anew(each_redis: RedisServer, namespace: str) -> None:
    """The processes run on uvloop, which speaks of a closed handle by a RuntimeError, where asyncio says ConnectionError."""

    async def main() -> None:
        client = connect(each_redis.url)
        store = RedisStore(client, namespace)
        await store.ping()
        for connection in client.connection_pool._available_connections:
            connection._writer.transport.abort()
            await asyncio.sleep(0)
        try:
            await store.ping()
        finally:
            await store.close()

    uvloop.run(main())
