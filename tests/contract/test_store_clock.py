"""How the Redis store keeps a process at its time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avtomatika.errors import StoreUnavailableError
from avtomatika.state.clock import StoreClock
from avtomatika.state.redis import RedisStore, connect
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer


class Odd:
    """A machine whose wall clock is wrong, and whose steady one a test may let run ahead."""

    def __init__(self) -> None:
        self.late = 0.0
        self.clock = StoreClock(lambda: asyncio.get_running_loop().time() + self.late, lambda: 0.0)


def _store(url: str, clock: StoreClock) -> RedisStore:
    return RedisStore(connect(url), "clock", clock=clock, patience=5)


async def _theirs(server: RedisServer) -> float:
    with server.client() as client:
        seconds, microseconds = client.time()  # type: ignore[misc]
    return float(seconds) + float(microseconds) / 1e6


async def test_a_store_keeps_the_clock_by_the_calls_that_are_made(redis_server: RedisServer) -> None:
    odd = Odd()
    store = _store(redis_server.url, odd.clock)

    await store.ping()

    assert odd.clock.is_measured
    assert odd.clock() == pytest.approx(await _theirs(redis_server), abs=2)
    odd.late = 3600  # as if the local clock had run wild
    await store.ping()
    assert odd.clock() == pytest.approx(await _theirs(redis_server), abs=2)
    await store.close()


async def test_while_the_store_is_away_the_clock_goes_on(redis_server: RedisServer) -> None:
    proxy, odd = Proxy(redis_server.port), Odd()
    store = _store(f"redis://127.0.0.1:{proxy.port}/0", odd.clock)
    await store.synchronise()
    proxy.close()

    odd.late = 60
    with pytest.raises(StoreUnavailableError):
        await store.ping()

    assert odd.clock() == pytest.approx(await _theirs(redis_server) + 60, abs=5)
    await store.close()


async def test_an_answer_is_given_though_the_look_at_the_clock_fails(redis_server: RedisServer) -> None:
    odd = Odd()
    store = _store(redis_server.url, odd.clock)
    looks: list[int] = []

    async def no_time() -> Any:
        looks.append(1)
        raise ConnectionResetError

    store._client.time = no_time  # type: ignore[method-assign]

    await store.ping()
    assert looks == [1]
    await store.ping()
    assert looks == [1]  # not again before the interval is over
    await store.close()
