"""Attempts and fan-outs."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from avtomatika.jobs import Event, FanOut, Job, Message, Result, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import BranchOutcome, ClaimOutcome, CommitResult, NewTask
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, a_message, a_task, an_event, change, creation, dispatched, fanned_out


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


# --- Fan-outs ------------------------------------------------------------------------------------------------------------------


async def _fan(kit: Kit, count: int = 3) -> tuple[Job, FanOut, list[TaskInfo]]:
    commit, fanout, infos = fanned_out(await kit.created(), count)
    return await kit.committed(commit), fanout, infos


async def _end(kit: Kit, info: TaskInfo, aggregate: Message, **other: str) -> BranchOutcome:
    result = Result.success({"branch": info.branch})
    event = Event(f"{info.job_id}:{info.id}", info.job_id, "branch_finished", NOW, task_id=info.id)
    fanout_id = other.get("fanout_id") or info.fanout_id
    assert fanout_id is not None
    settles = [f"resume:{info.id}"]
    outcome, outbox = await kit.store.branch_done(info.job_id, fanout_id, info.id, result, event, settles, aggregate)
    assert outbox == ()
    return outcome


async def test_the_last_branch_alone_publishes_the_aggregate(kit: Kit) -> None:
    job, _, infos = await _fan(kit)
    await kit.store.publish(a_message(f"resume:{infos[1].id}"), NOW)
    aggregate = a_message("aggregate:f")

    assert await _end(kit, infos[1], aggregate) is BranchOutcome.DONE
    assert await kit.store.ledger_get(f"resume:{infos[1].id}") is None
    assert await kit.store.get_task(infos[1].id) is None
    assert await _end(kit, infos[0], aggregate) is BranchOutcome.DONE
    assert aggregate not in await kit.pushed()
    assert await _end(kit, infos[2], aggregate) is BranchOutcome.LAST

    assert (await kit.pushed()).count(aggregate) == 1
    assert await kit.store.ledger_get("aggregate:f") == aggregate
    expected = {info.id: Result.success({"branch": n}) for n, info in enumerate(infos)}
    branches = await kit.store.branches(job.id)
    assert (branches, list(branches)) == (expected, list(expected))
    assert [event.task_id for event in await kit.store.events(job.id)] == [infos[n].id for n in (1, 0, 2)]
    assert await kit.store.load(job.id) == job


async def test_a_branch_counts_once_and_only_in_its_fan_out(kit: Kit) -> None:
    _, _, infos = await _fan(kit, 2)
    aggregate = a_message()
    await _end(kit, infos[0], aggregate)
    stranger = a_task(await kit.created(), branch=1, fanout_id=infos[1].fanout_id)
    before = await kit.everything()

    assert await _end(kit, infos[0], aggregate) is BranchOutcome.STALE
    assert await _end(kit, infos[1], aggregate, fanout_id=new_id()) is BranchOutcome.STALE
    assert await _end(kit, stranger, aggregate) is BranchOutcome.STALE

    assert await kit.everything() == before


async def test_of_many_racing_branches_exactly_one_is_the_last(kit: Kit) -> None:
    _, _, infos = await _fan(kit, 12)
    aggregate = a_message()

    outcomes = await asyncio.gather(*(_end(kit, info, aggregate) for info in infos for _ in range(3)))

    assert outcomes.count(BranchOutcome.LAST) == 1
    assert outcomes.count(BranchOutcome.DONE) == 11
    assert (await kit.pushed()).count(aggregate) == 1


async def test_another_attempt_takes_the_place_of_a_branch(kit: Kit) -> None:
    job, _, infos = await _fan(kit, 2)
    await kit.store.publish(a_message(f"resume:{infos[0].id}"), NOW)
    again = infos[0].again(now=NOW)
    message, timer = a_message(), Timer("branch", again.id, NOW + 7)

    done = await kit.store.replace_branch_task(
        infos[0],
        NewTask(again, TaskState.DISPATCHED),
        an_event(job, 9),
        message=message,
        timers=[timer],
        settles=[f"resume:{infos[0].id}"],
    )

    assert done == CommitResult(True)
    assert list(await kit.store.branches(job.id)) == [again.id, infos[1].id]
    assert await kit.store.get_task(infos[0].id) is None
    assert await kit.store.due(NOW * 2) == [timer]
    assert message in await kit.pushed()
    assert await kit.store.ledger_get(f"resume:{infos[0].id}") is None
    assert await kit.store.events(job.id) == [an_event(job, 9)]

    assert await _end(kit, infos[0], a_message()) is BranchOutcome.STALE
    assert await _end(kit, infos[1], a_message()) is BranchOutcome.DONE
    assert await _end(kit, again, a_message()) is BranchOutcome.LAST
    assert list(await kit.store.branches(job.id)) == [again.id, infos[1].id]


async def test_a_branch_that_is_done_or_replaced_is_not_replaced(kit: Kit) -> None:
    job, _, infos = await _fan(kit, 2)
    await _end(kit, infos[0], a_message())
    again = infos[1].again(now=NOW)
    await kit.store.replace_branch_task(infos[1], NewTask(again, TaskState.DELAYED), an_event(job, 1))
    events = await kit.store.events(job.id)

    for old in infos:
        new = NewTask(old.again(now=NOW), TaskState.DISPATCHED)
        done = await kit.store.replace_branch_task(old, new, an_event(job, 2), message=a_message(body="no"))
        assert not done.applied
        assert await kit.store.get_task(new.info.id) is None

    assert "no" not in await kit.bodies()
    assert await kit.store.events(job.id) == events


async def test_a_delayed_branch_is_dispatched_when_its_time_has_come(kit: Kit) -> None:
    job, _, infos = await _fan(kit, 1)
    again = infos[0].again(now=NOW)
    await kit.store.replace_branch_task(infos[0], NewTask(again, TaskState.DELAYED), an_event(job, 1))
    assert await kit.store.unclaimed(NOW * 2) == []

    assert (await kit.store.redispatch(again.id, a_message(), NOW + 9)).applied

    assert [r.info.id for r in await kit.store.unclaimed(NOW * 2)] == [again.id]


async def test_of_many_racing_replacements_exactly_one_wins(kit: Kit) -> None:
    job, _, infos = await _fan(kit, 1)
    news = [NewTask(infos[0].again(now=NOW), TaskState.DISPATCHED) for _ in range(10)]

    done = await asyncio.gather(*(kit.store.replace_branch_task(infos[0], new, an_event(job, n)) for n, new in enumerate(news)))

    assert sum(result.applied for result in done) == 1
    assert len(await kit.store.branches(job.id)) == 1
    assert len(await kit.store.events(job.id)) == 1


async def test_a_wide_fan_out_fits(kit: Kit) -> None:
    job, _, infos = await _fan(kit, 3000)

    assert list(await kit.store.branches(job.id)) == [info.id for info in infos]


async def test_a_second_fan_out_begins_anew(kit: Kit) -> None:
    job, _, infos = await _fan(kit, 2)
    for info in infos:
        await _end(kit, info, a_message())
    commit, second, again = fanned_out(job, 2)
    await kit.committed(replace(commit, drop_branches=True))

    assert list((await kit.store.branches(job.id)).values()) == [None, None]
    assert await _end(kit, again[0], a_message()) is BranchOutcome.DONE
    assert await _end(kit, again[1], a_message(), fanout_id=second.id) is BranchOutcome.LAST


@pytest.mark.parametrize("kind", ["finish", "branch", "replace", "redispatch"])
async def test_without_push_the_message_waits_in_the_outbox(kit: Kit, kind: str) -> None:
    store = kit.apart
    created = a_job()
    await store.commit(creation(created))
    commit, fanout, infos = fanned_out(created, 1)
    job, info = commit.job, infos[0]
    first = await store.commit(commit)
    await store.clear_outbox(first.outbox)
    message = a_message("key")
    match kind:
        case "finish":
            await store.claim_task(info.id, "w", "boot", NOW, 60)
            outbox = (await store.finish_task(info.id, "boot", Result.success(), message, NOW)).outbox
        case "branch":
            _, outbox = await store.branch_done(job.id, fanout.id, info.id, Result.success(), an_event(job), [], message)
        case "replace":
            new = NewTask(info.again(now=NOW), TaskState.DISPATCHED)
            outbox = (await store.replace_branch_task(info, new, an_event(job), message=message)).outbox
        case _:
            outbox = (await store.redispatch(info.id, message, NOW)).outbox

    assert len(outbox) == 1
    assert await store.outbox_messages(outbox) == [(outbox[0], message)]
    assert re.fullmatch(r"[0-9a-f-]{36}", outbox[0])
