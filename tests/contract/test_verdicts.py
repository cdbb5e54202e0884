"""When the verdict on a fan-out is clear: the aggregate message goes once, at that moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from avtomatika.jobs import Event, FanOut, Job, Result, TaskInfo
from avtomatika.state.base import BranchOutcome
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_message, fanned_out

DONE, LAST, STALE = BranchOutcome.DONE, BranchOutcome.LAST, BranchOutcome.STALE
RESULTS = {
    "+": Result.success(),
    "o": Result("needs_review"),
    "-": Result.failure("PERMANENT_ERROR", "no"),
    "t": Result(Result.TIMEOUT),
    "c": Result(Result.CANCELLED),
}


async def _fan(kit: Kit, count: int, **fields: int) -> tuple[Job, FanOut, list[TaskInfo]]:
    commit, fanout, infos = fanned_out(await kit.created(), count)
    fanout = replace(fanout, **fields)
    return await kit.committed(replace(commit, job=replace(commit.job, waiting=fanout))), fanout, infos


async def _end(kit: Kit, info: TaskInfo, how: str) -> BranchOutcome:
    event = Event(f"{info.id}:done", info.job_id, "branch_finished", NOW, task_id=info.id)
    assert info.fanout_id is not None
    aggregate = a_message(f"aggregate:{info.fanout_id}", body="aggregate")
    outcome, done = await kit.store.branch_done(info.job_id, info.fanout_id, info.id, RESULTS[how], event, [], aggregate)
    assert done.outbox == ()
    return outcome


@pytest.mark.parametrize(
    ("fields", "results", "last"),
    [
        ({}, "-+-+", 3),
        ({"need": 1}, "--+-", 2),
        ({"need": 2}, "+-o+", 2),
        ({"need": 3}, "-tc-", 3),
        ({"may_fail": 0}, "++-+", 2),
        ({"may_fail": 1}, "-+t+", 2),
        ({"may_fail": 2}, "-c+t", 3),
        ({"may_fail": 3}, "+o-+", 3),
        ({"need": 2, "may_fail": 1}, "-+c+", 2),
        ({"need": 2, "may_fail": 1}, "++--", 1),
    ],
)
async def test_the_branch_that_makes_it_clear_is_the_last(kit: Kit, fields: dict[str, int], results: str, last: int) -> None:
    job, _, infos = await _fan(kit, len(results), **fields)

    outcomes = []
    for n, (info, how) in enumerate(zip(infos, results, strict=True)):
        outcomes.append(await _end(kit, info, how))
        assert (await kit.bodies()).count("aggregate") == (1 if n >= last else 0)

    assert outcomes == [LAST if n == last else DONE for n in range(len(results))]
    assert list((await kit.store.branches(job.id)).values()) == [RESULTS[how] for how in results]


async def test_a_branch_counts_once_whatever_it_comes_to(kit: Kit) -> None:
    _, _, infos = await _fan(kit, 3, need=2)

    assert await _end(kit, infos[0], "+") is DONE
    assert await _end(kit, infos[0], "+") is STALE
    assert "aggregate" not in await kit.bodies()
    assert await _end(kit, infos[1], "o") is LAST
    assert await _end(kit, infos[1], "o") is STALE

    assert (await kit.bodies()).count("aggregate") == 1


async def test_of_racing_branches_one_makes_it_clear(kit: Kit) -> None:
    _, _, infos = await _fan(kit, 12, need=5)

    outcomes = await asyncio.gather(*(_end(kit, info, "+") for info in infos for _ in range(2)))

    assert (outcomes.count(LAST), outcomes.count(DONE), outcomes.count(STALE)) == (1, 11, 12)
    assert (await kit.bodies()).count("aggregate") == 1
