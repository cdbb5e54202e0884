"""A change that takes attempts back applies only while no worker has begun one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from avtomatika.jobs import Event, Job, JobStatus, Result, TaskInfo
from avtomatika.state.base import BranchOutcome, Commit
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_message, change, fanned_out


async def _taking_back(kit: Kit, info: TaskInfo) -> Commit:
    job = await kit.store.load(info.job_id)
    assert job is not None
    return change(job, {"drop_tasks": (info.id,), "unbegun": (info.id,)}, status=JobStatus.PAUSED, waiting=None)


async def test_an_attempt_that_waits_or_is_on_its_way_is_taken_back(kit: Kit, line: Line) -> None:
    waiting, picked = await line.pick(), await line.pull()
    for info in (waiting, picked):
        commit = await _taking_back(kit, info)
        assert (await kit.store.commit(commit)).applied
        assert (await kit.store.commit(commit)).applied  # once more, since its answer was lost
        assert await kit.store.get_task(info.id) is None


@pytest.mark.parametrize("ends", [False, True])
async def test_one_that_a_worker_has_begun_is_not(kit: Kit, line: Line, ends: bool) -> None:
    await line.worker()
    info = await line.pull()
    commit = await _taking_back(kit, info)
    await line.claimed(info.id)
    if ends:
        await line.finish(info.id)
    before = await kit.everything()

    assert not (await kit.store.commit(commit)).applied
    assert await kit.everything() == before


async def _fan(kit: Kit) -> tuple[Job, list[TaskInfo], Commit]:
    """A job with its branches, and what takes all of them back."""
    commit, _, infos = fanned_out(await kit.created(), 3)
    job = await kit.committed(commit)
    ids = tuple(info.id for info in infos)
    back = change(job, {"drop_branches": True, "unbegun": ids}, status=JobStatus.PAUSED, waiting=None)
    return job, infos, back


async def test_branches_are_taken_back_together(kit: Kit) -> None:
    job, infos, back = await _fan(kit)

    assert (await kit.store.commit(back)).applied

    assert await kit.store.branches(job.id) == {}
    assert [await kit.store.get_task(info.id) for info in infos] == [None] * 3


@pytest.mark.parametrize("ends", [False, True])
async def test_branches_of_which_one_has_begun_are_not(kit: Kit, line: Line, ends: bool) -> None:
    await line.worker()
    job, infos, back = await _fan(kit)
    await line.claimed(infos[1].id)
    if ends:  # its attempt is forgotten then
        event = Event(f"{job.id}:{infos[1].id}", job.id, "branch_finished", NOW, task_id=infos[1].id)
        fanout_id = infos[1].fanout_id
        assert fanout_id is not None
        outcome, _ = await kit.store.branch_done(
            job.id, fanout_id, infos[1].id, Result.success(), event, [], a_message("aggregate:f")
        )
        assert outcome is BranchOutcome.DONE

    assert not (await kit.store.commit(back)).applied
    assert len(await kit.store.branches(job.id)) == 3
    assert (await kit.store.commit(replace(back, unbegun=()))).applied
