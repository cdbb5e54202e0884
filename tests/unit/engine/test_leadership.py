"""One leader at a time, and none whose work goes on after it has lost the lock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avtomatika.engine.leadership import Leadership
from avtomatika.errors import StoreUnavailableError
from avtomatika.state.base import Store
from avtomatika.state.memory import MemoryStore
from tests.support.records import NOW, a_worker

SHORT = 0.15  # of a lock's TTL: it is renewed three times as often


def _leader(store: Store, holder: str, ttl: float = 60.0) -> Leadership:
    return Leadership(store, "work", holder, ttl, lambda: NOW)


async def _works(began: asyncio.Event, ended: list[str]) -> None:
    began.set()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        ended.append("stopped")
        raise


async def test_one_of_two_leads_until_it_leaves() -> None:
    store = MemoryStore()
    first, second = _leader(store, "boot-1"), _leader(store, "boot-2")

    assert [await first.take(), await second.take(), await first.take(), await second.take()] == [True, False, True, False]
    await second.leave()  # what it does not hold, it cannot give back
    assert not await second.take()
    await first.leave()

    assert (await second.take(), await first.take(), first.held) == (True, False, False)


async def test_a_leader_that_was_killed_and_has_another_boot_is_not_waited_for() -> None:
    store = MemoryStore()
    await store.register(a_worker("o1", "killed"), NOW, 60)
    assert await _leader(store, "killed").take()
    second = _leader(store, "boot-2")
    assert not await second.take()

    await store.register(a_worker("o1", "again"), NOW, 60)

    assert await second.take()
    assert not await _leader(store, "again").take()


async def test_a_leader_that_fell_silent_is_not_waited_for() -> None:
    store = MemoryStore()
    await store.register(a_worker("o1", "silent"), NOW - 61, 60)
    assert await _leader(store, "silent").take()

    assert await _leader(store, "boot-2").take()


async def test_work_is_done_while_the_lock_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    store, renewed = MemoryStore(), asyncio.Event()
    leader = _leader(store, "boot-1", SHORT)
    renew = store.renew

    async def seen(*args: Any) -> bool:
        renewed.set()
        return await renew(*args)

    monkeypatch.setattr(store, "renew", seen)
    assert await leader.take()

    async def work() -> None:
        await renewed.wait()

    assert await leader.during(work())
    assert leader.held


async def test_whoever_loses_the_lock_stops_its_work() -> None:
    store = MemoryStore()
    leader, began, ended = _leader(store, "boot-1", SHORT), asyncio.Event(), []  # type: ignore[var-annotated]
    assert await leader.take()
    doing = asyncio.ensure_future(leader.during(_works(began, ended)))
    await began.wait()

    await store.release("work", "boot-1")
    await store.acquire("work", "boot-2", 60)

    assert (await doing, ended, leader.held) == (False, ["stopped"], False)


async def test_work_stops_when_nobody_can_tell_who_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    leader, began, ended = _leader(store, "boot-1", SHORT), asyncio.Event(), []  # type: ignore[var-annotated]
    assert await leader.take()

    async def away(*_: Any) -> bool:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(store, "renew", away)

    assert (await leader.during(_works(began, ended)), ended, leader.held) == (False, ["stopped"], False)


async def test_what_the_work_raises_passes_through() -> None:
    leader = _leader(MemoryStore(), "boot-1")
    assert await leader.take()

    async def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await leader.during(fails())


async def test_a_process_that_ends_takes_its_work_with_it() -> None:
    leader, began, ended = _leader(MemoryStore(), "boot-1"), asyncio.Event(), []  # type: ignore[var-annotated]
    assert await leader.take()
    doing = asyncio.ensure_future(leader.during(_works(began, ended)))
    await began.wait()

    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing

    assert ended == ["stopped"]
