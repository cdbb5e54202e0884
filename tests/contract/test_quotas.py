"""How often and how much clients ask."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.conftest import Kit
from tests.support.records import NOW


async def _take(kit: Kit, key: str, rate: float, burst: int, now: float) -> float:
    """How long one request has to wait."""
    go, wait = await kit.store.take_requests(key, rate, burst, now)
    assert go == (wait == 0)
    return wait


async def test_as_many_go_together_as_there_is_room_for(kit: Kit) -> None:
    assert await kit.store.take_requests("a", 10, 20, NOW, 15) == (15, 0)
    assert await kit.store.take_requests("a", 10, 20, NOW, 15) == (5, 0)
    assert await kit.store.take_requests("a", 10, 20, NOW, 15) == (0, pytest.approx(0.1))
    assert await kit.store.take_requests("a", 10, 20, NOW + 0.25, 15) == (2, 0)


async def test_a_burst_goes_and_then_one_at_a_time(kit: Kit) -> None:
    waits = [await _take(kit, "a", 10, 20, NOW) for _ in range(22)]
    assert waits[:20] == [0] * 20
    assert waits[20:] == pytest.approx([0.1, 0.1])

    assert await _take(kit, "a", 10, 20, NOW + 0.05) == pytest.approx(0.05)
    assert await _take(kit, "a", 10, 20, NOW + 0.1) == 0
    assert await _take(kit, "a", 10, 20, NOW + 0.1) == pytest.approx(0.1)


async def test_a_pause_brings_back_a_burst_and_no_more(kit: Kit) -> None:
    for _ in range(4):
        await _take(kit, "a", 2, 4, NOW)
    waits = [await _take(kit, "a", 2, 4, NOW + 1000) for _ in range(5)]
    assert waits == pytest.approx([0, 0, 0, 0, 0.5])


async def test_each_token_has_its_own_count(kit: Kit) -> None:
    assert await _take(kit, "a", 1, 1, NOW) == 0
    assert await _take(kit, "b", 1, 1, NOW) == 0
    assert await _take(kit, "a", 1, 1, NOW) == pytest.approx(1)


@pytest.mark.parametrize("rate", [0.01, 3, 7, 1000, 1_000_000])
async def test_any_rate_counts_a_burst_exactly(kit: Kit, rate: float) -> None:
    waits = await asyncio.gather(*(_take(kit, "a", rate, 5, NOW + 0.123456789) for _ in range(12)))
    assert sum(wait == 0 for wait in waits) == 5
    assert all(wait >= 0 for wait in waits)


async def test_a_clock_that_goes_back_lets_no_more_through(kit: Kit) -> None:
    assert await _take(kit, "a", 1, 1, NOW) == 0
    assert await _take(kit, "a", 1, 1, NOW - 5) == pytest.approx(6)


async def test_attempts_are_counted_exactly(kit: Kit) -> None:
    taken = await asyncio.gather(*(kit.store.take_attempt("acme", "2026-01", 7, 3600) for _ in range(20)))
    assert sum(taken) == 7
    assert not await kit.store.take_attempt("acme", "2026-01", 7, 3600)
    assert await kit.store.take_attempt("acme", "2026-02", 7, 3600)
    assert await kit.store.take_attempt("other", "2026-01", 7, 3600)
    assert not await kit.store.take_attempt("nothing", "2026-01", 0, 3600)


async def test_an_attempt_can_be_returned(kit: Kit) -> None:
    assert await kit.store.take_attempt("acme", "2026-01", 1, 3600)
    await kit.store.return_attempt("acme", "2026-01")
    assert await kit.store.take_attempt("acme", "2026-01", 1, 3600)
    for _ in range(3):
        await kit.store.return_attempt("acme", "2026-01")
    assert [await kit.store.take_attempt("acme", "2026-01", 1, 3600) for _ in range(2)] == [True, False]


async def test_nothing_is_kept_for_ever(kit: Kit) -> None:
    if kit.redis is None:
        pytest.skip("the store in memory ends with its process")
    await _take(kit, "a", 1, 1, NOW)
    await kit.store.take_attempt("acme", "2026-01", 1, 3600)
    await kit.store.return_attempt("acme", "2026-01")
    keys = [key async for key in kit.redis.scan_iter()]
    assert len(keys) == 4
    assert all([0 < await kit.redis.ttl(key) <= 3600 for key in keys])
