"""Fan-outs: branches are counted once, replaced, and the last one publishes the aggregate message."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from avtomatika.jobs import Event, FanOut, Job, Message, Result, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import BranchOutcome, CommitResult, NewTask
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, a_message, a_task, an_event, creation, fanned_out


async def _timers(kit: Kit) -> list[tuple[str, str, float]]:
    return [(t.kind, t.key, t.due) for t in await kit.store.due(NOW * 2)]


async def _fan(kit: Kit, count: int = 3) -> tuple[Job, FanOut, list[TaskInfo]]:
    commit, fanout, infos = fanned_out(await kit.created(), count)
    return await kit.committed(commit), fanout, infos


async def _end(kit: Kit, info: TaskInfo, aggregate: Message, **other: str) -> BranchOutcome:
    result = Result.success({"branch": info.branch})
    event = Event(f"{info.job_id}:{info.id}", info.job_id, "branch_finished", NOW, task_id=info.id)
    fanout_id = other.get("fanout_id") or info.fanout_id
    assert fanout_id is not None
    settles = [f"resume:{info.id}"]
    outcome, done = await kit.store.branch_done(info.job_id, fanout_id, info.id, result, event, settles, aggregate)
    assert done.outbox == ()
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
            _, done = await store.branch_done(job.id, fanout.id, info.id, Result.success(), an_event(job), [], message)
            outbox = done.outbox
        case "replace":
            new = NewTask(info.again(now=NOW), TaskState.DISPATCHED)
            outbox = (await store.replace_branch_task(info, new, an_event(job), message=message)).outbox
        case _:
            outbox = (await store.redispatch(info.id, message, NOW)).outbox

    assert len(outbox) == 1
    assert await store.outbox_messages(outbox) == [(outbox[0], message)]
    assert re.fullmatch(r"[0-9a-f-]{36}", outbox[0])
