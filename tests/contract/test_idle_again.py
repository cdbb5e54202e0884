"""A worker that was taken out of the index of idle ones comes back, also where it has nothing new to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from avtomatika.state.base import Order, Reputation
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW


async def _idle(kit: Kit, at: float = 0.0) -> list[str]:
    return [candidate.worker.id for candidate in (await kit.store.candidates("work", Order.COST, NOW + at)).found]


@pytest.mark.parametrize("direct", [True, False])
async def test_one_that_said_that_it_is_busy_while_it_was_full(kit: Kit, line: Line, direct: bool) -> None:
    record = await line.worker()
    info = await line.pick() if direct else await line.pull()
    if direct:
        await line.assign(info, record)
    await line.claimed(info.id)
    busy = replace(record, status="busy", supported_tasks=(), load={"cpu": 1})
    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 1, 1e6, busy)
    assert await _idle(kit) == []

    await line.finish(info.id, at=2)

    assert await _idle(kit) == ["w1"]


async def test_not_one_that_said_so_although_it_had_a_slot(kit: Kit, line: Line) -> None:
    record = await line.worker(slots=2)
    info = await line.pick()
    await line.assign(info, record)
    await line.claimed(info.id)
    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 1, 1e6, replace(record, status="busy"))

    await line.finish(info.id, at=2)
    await kit.store.set_reputation("w1", Reputation(0.5))
    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 3, 1e6)
    assert await _idle(kit) == []

    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 4, 1e6, record)
    assert await _idle(kit) == ["w1"]


@pytest.mark.parametrize("claimed", [False, True])
async def test_one_whose_only_attempt_was_dropped(kit: Kit, line: Line, claimed: bool) -> None:
    record = await line.worker()
    info = await line.pick()
    await line.assign(info, record)
    if claimed:
        await line.claimed(info.id)
    assert await _idle(kit) == []

    await line.drop(info)
    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 1, 1e6)

    assert await _idle(kit) == ["w1"]


async def test_one_that_was_silent_and_is_heard_of_again(kit: Kit, line: Line) -> None:
    await line.worker(ttl=10)
    await line.worker("w2")
    assert await _idle(kit, at=11) == ["w2"]
    assert [c.worker.id for c in await kit.store.knowing("work", NOW + 11)] == ["w2"]

    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 12, 10)

    assert await _idle(kit, at=13) == ["w1", "w2"]
    page = await kit.store.candidates("work", Order.LOAD, NOW + 13)
    assert (page.known, page.idle) == (2, 2)


async def test_one_that_did_not_take_its_task_and_is_heard_of_again(kit: Kit, line: Line) -> None:
    record = await line.worker(slots=3)
    info = await line.pick()
    await line.assign(info, record)

    await kit.store.unassign(info.id, NOW + 1, avoid=True)
    await kit.store.set_reputation("w1", Reputation(0.5))
    assert await _idle(kit) == []

    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 2, 1e6)
    assert await _idle(kit) == ["w1"]


async def test_one_whose_slot_hangs_is_not_offered_until_it_says_something_new(kit: Kit, line: Line) -> None:
    """Its attempt is over, and it has not ended it: a plain function past its time limit, say."""
    record = await line.worker()
    info = await line.pull()
    await line.claimed(info.id)
    busy = replace(record, status="busy", supported_tasks=())
    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 1, 1e6, busy)
    await line.drop(info, at=2)
    assert await _idle(kit, at=3) == []

    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 4, 1e6)  # nothing new
    assert await _idle(kit, at=5) == []
    assert [c.idle for c in await kit.store.knowing("work", NOW + 5)] == [False]

    assert await kit.store.heartbeat("w1", "boot-w1", NOW + 6, 1e6, record)
    assert await _idle(kit, at=7) == ["w1"]
    assert [c.idle for c in await kit.store.knowing("work", NOW + 7)] == [True]


async def test_an_assignment_ahead_makes_nobody_idle(kit: Kit, line: Line) -> None:
    record = await line.worker(slots=5, status="busy")
    info = await line.pick()

    assert (await line.assign(info, record, ahead=1)).outcome == "ok"

    assert (await kit.store.candidates("work", Order.LOAD, NOW + 1)).found == ()
