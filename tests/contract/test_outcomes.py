"""How attempts went on each worker, and the reputation that is made of it."""

from __future__ import annotations

from avtomatika.jobs import Result
from avtomatika.state.base import Reputation
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_message

WEEK = 7 * 24 * 3600


async def test_outcomes_are_kept_in_their_order_by_worker(kit: Kit) -> None:
    for n, outcome in enumerate(("success", "transient", "late")):
        await kit.store.note_outcome("w1", outcome, NOW + n + 0.25)
    await kit.store.note_outcome("w2", "lost", NOW)

    assert await kit.store.outcomes("w1") == [(NOW + 0.25, "success"), (NOW + 1.25, "transient"), (NOW + 2.25, "late")]
    assert await kit.store.outcomes("w2") == [(NOW, "lost")]
    assert await kit.store.outcomes("w3") == []


async def test_the_latest_two_hundred_are_kept(kit: Kit) -> None:
    for n in range(205):
        await kit.store.note_outcome("w1", "success" if n % 2 else "timeout", NOW + n)

    kept = await kit.store.outcomes("w1")

    assert len(kept) == 200
    assert (kept[0], kept[-1]) == ((NOW + 5, "success"), (NOW + 204, "timeout"))


async def test_a_result_that_is_taken_notes_its_outcome_once(kit: Kit, line: Line) -> None:
    await line.worker(slots=3)
    infos = await line.pulls(3)
    for info in infos:
        await line.claimed(info.id, at=1)
    await line.finish(infos[0].id, at=5, outcome="permanent")
    await line.finish(infos[1].id, at=6)

    for info, boot in ((infos[0], "boot-w1"), (infos[2], "boot-other")):
        refused = await kit.store.finish_task(info.id, boot, Result.success(), a_message(), NOW + 7, "success")
        assert not refused.applied

    assert await kit.store.outcomes("w1") == [(NOW + 5, "permanent")]


async def test_a_reputation_is_kept_by_worker(kit: Kit) -> None:
    first = Reputation(0.75, 8, {"success": 6, "lost": 2}, NOW + 0.5)
    await kit.store.set_reputation("w1", Reputation(0.1, 1))
    await kit.store.set_reputation("w1", first)
    await kit.store.set_reputation("w2", Reputation())

    assert await kit.store.reputations(["w1", "unknown", "w2"]) == {"w1": first, "w2": Reputation()}
    assert await kit.store.reputations([]) == {}


async def test_they_outlive_the_worker_and_end_after_a_week(kit: Kit, line: Line) -> None:
    worker = await line.worker()
    await kit.store.note_outcome("w1", "success", NOW)
    await kit.store.set_reputation("w1", Reputation(0.5, 1))
    await kit.store.unregister(worker.id, worker.boot_id, NOW)
    await kit.store.forget_boot(worker.boot_id, NOW)

    await line.worker()

    assert await kit.store.outcomes("w1") == [(NOW, "success")]
    (known,) = await kit.store.knowing("work", NOW)
    assert known.reputation == 0.5
    if kit.redis is None:
        return  # nothing expires there
    expiring = {key: await kit.redis.ttl(key) async for key in kit.redis.scan_iter() if "outcomes" in key or "reputation" in key}
    assert len(expiring) == 2
    assert all(WEEK - 60 < ttl <= WEEK for ttl in expiring.values())
