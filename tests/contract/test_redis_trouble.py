"""What Redis itself can run into: it is full, it forgets its scripts, it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing

import pytest
import uvloop

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JobStatus
from avtomatika.state.base import News, NewsKind
from avtomatika.state.redis import RedisStore, connect
from tests.contract.line import Line
from tests.support.polling import eventually_async
from tests.support.proxy import Proxy
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


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


async def _lost_while_it_connects_anew(proxy: Proxy) -> None:
    """A follower's connection breaks, and what it says on its next one gets no answer, for good."""
    proxy.freeze()
    proxy.cut()
    await _come(lambda: proxy.connections == 1)
    proxy.swallow()
    proxy.thaw()


async def _come(reached: Callable[[], bool]) -> None:
    async def look() -> bool:
        return reached()

    await eventually_async(look)


@pytest.mark.parametrize("patience", [None, 30.0])
async def test_news_come_again_after_a_reconnection_without_an_answer(
    proxy: Proxy, namespace: str, patience: float | None
) -> None:
    store = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}/0"), namespace, patience=patience)
    heard: list[News] = []
    listening = asyncio.create_task(_listen(store.news(), heard))
    await _come(lambda: len(heard) == 1)

    await _lost_while_it_connects_anew(proxy)
    await _come(lambda: len(heard) == 2)
    await Line(store).pull()
    await _come(lambda: len(heard) == 3)

    assert heard == [News(NewsKind.RESUMED), News(NewsKind.RESUMED), News(NewsKind.TASK, "work")]
    listening.cancel()
    await store.close()


async def _listen(news: AsyncIterator[News], heard: list[News]) -> None:
    async for item in news:
        heard.append(item)  # noqa: PERF401  an endless iterator


async def test_who_follows_changes_gets_on_after_a_reconnection_without_an_answer(proxy: Proxy, namespace: str) -> None:
    store = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}/0"), namespace)
    job = a_job()
    async with aclosing(store.changes()) as changes:
        await anext(changes)
        following = asyncio.create_task(_until_named(changes, job.id))
        await _lost_while_it_connects_anew(proxy)
        await store.commit(creation(job))
        await store.commit(change(job, {"events": (an_event(job),)}))

        await following
    await store.close()


async def _until_named(changes: AsyncGenerator[Collection[str]], job_id: str) -> None:
    async with asyncio.timeout(60):
        while job_id not in await anext(changes):
            pass
