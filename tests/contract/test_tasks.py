"""Attempts: claims, results, and those that wait for a worker."""

from __future__ import annotations

import asyncio

from avtomatika.jobs import Result, TaskInfo, TaskState, new_id
from avtomatika.state.base import ClaimOutcome, CommitResult, NewTask
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_message, a_task, change, dispatched


async def _stored(kit: Kit, state: TaskState = TaskState.DISPATCHED, **fields: object) -> TaskInfo:
    """An attempt of a job of its own."""
    job = await kit.created()
    info = a_task(job, **fields)
    await kit.committed(change(job, {"tasks": (NewTask(info, state),)}, waiting=info))
    return info


async def _claimed(kit: Kit, boot: str = "boot", **fields: object) -> TaskInfo:
    info = await _stored(kit, **fields)
    assert (await kit.store.claim_task(info.id, "w", boot, NOW, 60)).outcome is ClaimOutcome.OK
    return info


async def _timers(kit: Kit) -> list[tuple[str, str, float]]:
    return [(t.kind, t.key, t.due) for t in await kit.store.due(NOW * 2)]


# --- Claim ---------------------------------------------------------------------------------------------------------------------


async def test_a_stored_attempt_is_found(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job, params={"deep": {"er": [1, "ü"]}}, timeout_seconds=2.5)
    await kit.committed(change(job, {"tasks": (dispatched(info),)}))

    record = await kit.store.get_task(info.id)

    assert record is not None
    assert (record.info, record.state, record.worker_id) == (info, TaskState.DISPATCHED, None)
    assert await kit.store.get_task(new_id()) is None


async def test_an_attempt_is_claimed_once(kit: Kit) -> None:
    info = await _stored(kit, timeout_seconds=30, dispatch_timeout_seconds=5)

    claim = await kit.store.claim_task(info.id, "w1", "boot1", NOW + 2, 300)

    assert (claim.outcome, claim.timeout_at) == (ClaimOutcome.OK, NOW + 32)
    for boot in ("boot1", "boot2"):
        assert (await kit.store.claim_task(info.id, "w2", boot, NOW, 300)).outcome is ClaimOutcome.BUSY
    record = await kit.store.get_task(info.id)
    assert record is not None
    assert (record.state, record.worker_id, record.boot_id) == (TaskState.CLAIMED, "w1", "boot1")
    assert (record.claimed_at, record.timeout_at) == (NOW + 2, NOW + 32)
    assert await _timers(kit) == [("timeout", info.id, NOW + 32)]
    assert await kit.store.unclaimed(NOW * 2) == []
    assert await kit.store.claims("boot1") == ({}, [info.id])


async def test_a_claim_whose_answer_was_lost_is_asked_for_again(kit: Kit) -> None:
    info = await _stored(kit, timeout_seconds=30)

    claims = [await kit.store.claim_task(info.id, "w1", "boot1", NOW + at, 300, call="one") for at in range(2)]

    assert [(claim.outcome, claim.timeout_at) for claim in claims] == [(ClaimOutcome.OK, NOW + 30)] * 2
    for call in ("two", None):
        assert (await kit.store.claim_task(info.id, "w1", "boot1", NOW, 300, call=call)).outcome is ClaimOutcome.BUSY
    await kit.store.finish_task(info.id, "boot1", Result.success(), a_message(), NOW)
    assert (await kit.store.claim_task(info.id, "w1", "boot1", NOW, 300, call="one")).outcome is ClaimOutcome.STALE
    assert await kit.store.claims("boot2") == ({}, [])


async def test_without_a_timeout_of_its_own_the_default_counts(kit: Kit) -> None:
    info = await _stored(kit)

    assert (await kit.store.claim_task(info.id, "w", "b", NOW, 300)).timeout_at == NOW + 300


async def test_what_is_unknown_or_done_is_stale(kit: Kit) -> None:
    info = await _claimed(kit)
    await kit.store.finish_task(info.id, "boot", Result.success(), a_message(), NOW)

    assert (await kit.store.claim_task(new_id(), "w", "b", NOW, 60)).outcome is ClaimOutcome.STALE
    assert (await kit.store.claim_task(info.id, "w", "b", NOW, 60)).outcome is ClaimOutcome.STALE
    assert await kit.store.claims("b") == ({}, [])


async def test_of_many_claims_exactly_one_wins(kit: Kit) -> None:
    info = await _stored(kit)

    claims = await asyncio.gather(*(kit.store.claim_task(info.id, f"w{n}", f"b{n}", NOW, 60) for n in range(20)))

    assert sorted(claim.outcome for claim in claims) == [ClaimOutcome.BUSY] * 19 + [ClaimOutcome.OK]
    holders = [n for n in range(20) if (await kit.store.claims(f"b{n}"))[1]]
    assert len(holders) == 1


# --- End -----------------------------------------------------------------------------------------------------------------------


async def test_a_result_is_taken_once_and_published_with_the_change(kit: Kit) -> None:
    info = await _claimed(kit)
    message = a_message(f"resume:{info.id}", headers={"of": "result"})

    first = await kit.store.finish_task(info.id, "boot", Result.failure("C", "m", {"x": 1}), message, NOW + 5)
    second = await kit.store.finish_task(info.id, "boot", Result.success(), a_message("other"), NOW + 6)

    assert (first, second) == (CommitResult(True), CommitResult(False))
    record = await kit.store.get_task(info.id)
    assert record is not None
    assert (record.state, record.reported) == (TaskState.DONE, Result.failure("C", "m", {"x": 1}))
    assert [m for m in await kit.pushed() if m.headers.get("of") == "result"] == [message]
    assert await kit.store.ledger_get(f"resume:{info.id}") == message
    assert await kit.store.ledger_get("other") is None
    assert await _timers(kit) == []
    assert await kit.store.claims("boot") == ({}, [])


async def test_only_the_claiming_boot_may_finish_release_or_report_progress(kit: Kit) -> None:
    info = await _claimed(kit)
    before = await kit.everything()

    assert not (await kit.store.finish_task(info.id, "other", Result.success(), a_message("k"), NOW)).applied
    assert not await kit.store.release_task(info.id, "other", NOW)
    assert not await kit.store.task_progress(info.id, "other", 0.5, "half")

    after = await kit.everything()
    assert _without_claims(after) == _without_claims(before)


def _without_claims(state: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in state.items() if "claims" not in name}


async def test_nothing_comes_of_an_attempt_that_was_dropped(kit: Kit) -> None:
    info = await _claimed(kit)
    job = await kit.store.load(info.job_id)
    assert job is not None
    await kit.committed(change(job, {"drop_tasks": (info.id,)}, waiting=None))

    assert not (await kit.store.finish_task(info.id, "boot", Result.success(), a_message("k"), NOW)).applied
    assert not await kit.store.task_progress(info.id, "boot", 0.5, "half")
    assert not await kit.store.release_task(info.id, "boot", NOW)
    assert await kit.store.get_task(info.id) is None
    assert await kit.store.claims("boot") == ({}, [])
    assert await _timers(kit) == []


async def test_of_many_results_exactly_one_is_taken(kit: Kit) -> None:
    info = await _claimed(kit)

    async def finish(n: int) -> CommitResult:
        message = a_message(f"resume:{info.id}", headers={"of": "result"}, body=str(n))
        return await kit.store.finish_task(info.id, "boot", Result.success({"n": n}), message, NOW)

    done = await asyncio.gather(*(finish(n) for n in range(10)))

    winners = [n for n, result in enumerate(done) if result.applied]
    assert len(winners) == 1
    assert [m.body for m in await kit.pushed() if m.headers.get("of") == "result"] == [str(winners[0])]
    record = await kit.store.get_task(info.id)
    assert record is not None
    assert record.reported == Result.success({"n": winners[0]})


async def test_progress_is_shown(kit: Kit) -> None:
    info = await _claimed(kit)

    assert await kit.store.task_progress(info.id, "boot", 0.25, "a quarter")

    record = await kit.store.get_task(info.id)
    assert record is not None
    assert (record.progress, record.progress_message) == (0.25, "a quarter")


async def test_an_attempt_given_back_can_be_claimed_again(kit: Kit) -> None:
    info = await _claimed(kit)
    await kit.store.task_progress(info.id, "boot", 0.5, "half")

    assert await kit.store.release_task(info.id, "boot", NOW + 3)

    record = await kit.store.get_task(info.id)
    assert record is not None
    assert (record.state, record.worker_id, record.boot_id, record.timeout_at) == (TaskState.DISPATCHED, None, None, None)
    assert (record.claimed_at, record.progress, record.dispatched_at) == (None, None, NOW + 3)
    assert await _timers(kit) == []
    assert [r.info.id for r in await kit.store.unclaimed(NOW + 4)] == [info.id]
    assert await kit.store.claims("boot") == ({}, [])
    assert not (await kit.store.finish_task(info.id, "boot", Result.success(), a_message(), NOW)).applied
    assert (await kit.store.claim_task(info.id, "w", "new", NOW, 60)).outcome is ClaimOutcome.OK


# --- Waiting for a worker ------------------------------------------------------------------------------------------------------


async def test_unrouted_attempts_wait_by_their_task(kit: Kit) -> None:
    first = await _stored(kit, TaskState.UNROUTED, type="rare")
    second = await _stored(kit, TaskState.UNROUTED, type="rare")
    await _stored(kit, type="rare")

    assert await kit.store.unrouted("rare") == sorted([first.id, second.id])
    assert await kit.store.unrouted("other") == []
    assert await kit.store.unrouted_types() == ["rare"]

    message = a_message()
    assert (await kit.store.redispatch(first.id, message, NOW + 1)).applied
    record = await kit.store.get_task(first.id)
    assert record is not None
    assert (record.state, record.dispatched_at) == (TaskState.DISPATCHED, NOW + 1)
    assert message in await kit.pushed()
    assert await kit.store.unrouted("rare") == [second.id]
    await kit.store.redispatch(second.id, a_message(), NOW)
    assert await kit.store.unrouted_types() == []


async def test_an_unrouted_attempt_that_was_dropped_waits_no_longer(kit: Kit) -> None:
    info = await _stored(kit, TaskState.UNROUTED, type="rare")
    job = await kit.store.load(info.job_id)
    assert job is not None
    await kit.committed(change(job, {"drop_tasks": (info.id,)}))

    assert await kit.store.unrouted("rare") == []
    assert await kit.store.unrouted_types() == []


async def test_only_what_nobody_has_claimed_is_dispatched_again(kit: Kit) -> None:
    waiting = await _stored(kit)
    claimed = await _claimed(kit)
    done = await _claimed(kit)
    await kit.store.finish_task(done.id, "boot", Result.success(), a_message(), NOW)
    again = a_message()

    assert (await kit.store.redispatch(waiting.id, again, NOW)).applied
    assert not (await kit.store.redispatch(claimed.id, a_message(body="no"), NOW)).applied
    assert not (await kit.store.redispatch(done.id, a_message(body="no"), NOW)).applied
    assert not (await kit.store.redispatch(new_id(), a_message(body="no"), NOW)).applied
    assert "no" not in await kit.bodies()
    assert again in await kit.pushed()


async def test_unclaimed_attempts_are_listed_oldest_first(kit: Kit) -> None:
    infos = [await _stored(kit) for _ in range(3)]
    for n in (2, 0, 1):
        await kit.store.redispatch(infos[n].id, a_message(), NOW + 10 + n)
    plain = await _stored(kit, queue="fleet")
    await kit.store.redispatch(plain.id, a_message(), NOW)

    listed = [record.info.id for record in await kit.store.unclaimed(NOW + 12)]

    assert listed == [infos[0].id, infos[1].id]
    assert [r.info.id for r in await kit.store.unclaimed(NOW * 2, limit=1)] == [infos[0].id]


async def test_a_plain_task_has_no_dispatch_timeout(kit: Kit) -> None:
    await _stored(kit, queue="fleet", dispatch_timeout_seconds=5)

    assert await _timers(kit) == []


async def test_progress_with_a_file_name_that_is_no_utf8(kit: Kit) -> None:
    info = await _stored(kit)
    await kit.store.claim_task(info.id, "w1", "boot1", NOW, 60)

    assert await kit.store.task_progress(info.id, "boot1", 0.5, "reading caf\udce9.txt")

    record = await kit.store.get_task(info.id)
    assert record is not None
    assert (record.progress_message or "").startswith("reading caf")


async def test_a_report_whose_answer_was_lost_is_repeated_even_when_the_attempt_is_gone_by_then(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job)
    job = await kit.committed(change(job, {"tasks": (NewTask(info, TaskState.DISPATCHED),)}, waiting=info))
    await kit.store.claim_task(info.id, "w", "boot", NOW, 60)
    report = (info.id, "boot", Result.success({"n": 1}), a_message("resume"), NOW, "success")
    assert (await kit.store.finish_task(*report, call="c1")).applied
    pushed = await kit.bodies()

    assert (await kit.store.finish_task(*report, call="c1")).applied
    await kit.committed(change(job, {"drop_tasks": (info.id,)}, waiting=None))
    assert (await kit.store.finish_task(*report, call="c1")).applied

    assert await kit.store.get_task(info.id) is None
    assert await kit.bodies() == pushed
    assert [outcome for _, outcome in await kit.store.outcomes("w")] == ["success"]
    assert not (await kit.store.finish_task(*report, call="c2")).applied
