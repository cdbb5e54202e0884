"""A call to the store that is cancelled while its answer comes; Redis alone, since the one in memory awaits nothing."""

from __future__ import annotations

import asyncio

import pytest

from avtomatika.state.redis import RedisStore, connect
from tests.support.servers import RedisServer


async def test_a_cancel_that_the_client_swallows_is_a_cancel(redis_server: RedisServer, namespace: str) -> None:
    """As the `wait_for` of Python 3.11 does, where the answer is there when it is cancelled."""
    store = RedisStore(connect(redis_server.url), namespace, patience=30)
    went_on = False

    async def swallows() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "the answer"
        return "too late"

    async def calls() -> None:
        nonlocal went_on
        await store._ask(swallows())
        went_on = True

    task = asyncio.create_task(calls())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on
    await store.close()


async def test_calls_of_a_task_that_cleans_up_after_its_cancel_go_through(redis_server: RedisServer, namespace: str) -> None:
    store = RedisStore(connect(redis_server.url), namespace, patience=30)
    cleaned = False

    async def works() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            await store.ping()
            cleaned = True

    task = asyncio.create_task(works())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned
    await store.close()
