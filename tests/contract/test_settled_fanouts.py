"""A fan-out whose verdict is found while branches are still out: those are dropped, and the results stay for the aggregator."""

from __future__ import annotations

from dataclasses import replace

from avtomatika.jobs import Result, TaskState
from avtomatika.state.base import BranchOutcome, CommitResult, NewTask
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_message, a_worker, an_event, change, fanned_out


async def test_branches_that_were_dropped_neither_count_nor_come_back(kit: Kit) -> None:
    commit, fanout, infos = fanned_out(await kit.created(), 3)
    job = await kit.committed(commit)
    await kit.store.register(a_worker(), NOW, 60)
    assert (await kit.store.claim_task(infos[2].id, "w1", "boot1", NOW, 60)).outcome == "ok"
    good, aggregate = Result.success({"n": 1}), a_message()
    await kit.store.branch_done(job.id, fanout.id, infos[0].id, good, an_event(job, 1), [], aggregate)

    done = await kit.store.commit(change(job, {"settle_branches": True}, waiting=replace(fanout, settled=True)))

    assert (done.applied, done.stops) == (True, (("w1", infos[2].id),))
    before = await kit.everything()
    for info in infos:
        outcome = await kit.store.branch_done(job.id, fanout.id, info.id, good, an_event(job, 2), [], aggregate)
        assert outcome == (BranchOutcome.STALE, CommitResult(False))
        again = NewTask(info.again(now=NOW), TaskState.DELAYED)
        assert not (await kit.store.replace_branch_task(info, again, an_event(job, 3))).applied
    assert await kit.everything() == before
    assert await kit.store.branches(job.id) == {infos[0].id: good, infos[1].id: None, infos[2].id: None}
    assert await kit.store.take_stops("boot1") == [infos[2].id]
    settled = await kit.store.load(job.id)
    assert settled is not None
    assert settled.waiting == replace(fanout, settled=True)


async def test_the_end_of_a_fan_out_takes_along_what_is_still_out(kit: Kit) -> None:
    commit, fanout, infos = fanned_out(await kit.created(), 3)
    job = await kit.committed(commit)
    await kit.store.branch_done(job.id, fanout.id, infos[0].id, Result.success(), an_event(job, 1), [], a_message())
    again = infos[1].again(now=NOW)
    assert (await kit.store.replace_branch_task(infos[1], NewTask(again, TaskState.DELAYED), an_event(job, 2))).applied

    await kit.committed(change(job, {"drop_branches": True}, waiting=None))

    assert await kit.store.branches(job.id) == {}
    assert [await kit.store.get_task(task_id) for task_id in (infos[1].id, again.id, infos[2].id)] == [None] * 3
    assert await kit.store.unclaimed(NOW + 100) == []
