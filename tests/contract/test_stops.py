"""Workers are told to stop what is over; and nothing is left of what has ended."""

from __future__ import annotations

from avtomatika.jobs import Event, Limit, Result, TaskState
from avtomatika.state.base import ClaimOutcome, NewTask
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_message, a_task, a_worker, an_event, change, dispatched, fanned_out

FOR_GOOD = ("jobs", "job", "events", "idempotency", "_jobs", "_applied", "_events", "stream")
FOR_A_MINUTE = ("call",)
"""Marks of calls that must not count twice."""


async def test_the_worker_of_a_claimed_attempt_is_told_once_to_stop(kit: Kit, line: Line) -> None:
    await line.worker("w1", slots=3)
    running = [await line.pull(n) for n in range(2)]
    for info in running:
        await line.claimed(info.id)

    done = [await line.drop(info, at=5) for info in running]

    assert [result.stops for result in done] == [(("w1", info.id),) for info in running]
    assert await kit.store.take_stops("another") == []
    assert sorted(await kit.store.take_stops("boot-w1")) == sorted(info.id for info in running)
    assert await kit.store.take_stops("boot-w1") == []
    assert await kit.store.claims("boot-w1") == ({}, [])


async def test_one_commit_names_all_who_stop(kit: Kit, line: Line) -> None:
    for name in ("w1", "w2"):
        await line.worker(name)
    commit, _, infos = fanned_out(await kit.created(), 4)
    job = await kit.committed(commit)
    await line.claimed(infos[0].id, name="w1")
    await line.claimed(infos[1].id, name="w2")
    await line.claimed(infos[2].id, name="w2")
    await line.finish(infos[2].id, name="w2")
    over = change(job, {"drop_tasks": tuple(info.id for info in infos), "drop_branches": True}, waiting=None)

    done = await kit.store.commit(over)

    assert sorted(done.stops) == [("w1", infos[0].id), ("w2", infos[1].id)]
    assert await kit.store.take_stops("boot-w2") == [infos[1].id]


async def test_who_runs_nothing_of_it_is_not_told(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=5)
    done, queued, assigned, given_back, waiting = [await line.pick(n) if n == 2 else await line.pull(n) for n in range(5)]
    for info in (done, given_back):
        await line.claimed(info.id)
    await line.finish(done.id)
    await kit.store.release_task(given_back.id, "boot-w1", NOW)
    await line.assign(assigned, worker)

    for info in (done, queued, assigned, given_back, waiting):
        assert (await line.drop(info)).stops == ()

    assert await kit.store.take_stops("boot-w1") == []


async def test_a_process_that_has_ended_is_not_told(kit: Kit, line: Line) -> None:
    await line.worker(ttl=10)
    first, second = await line.pulls(2)
    for info in (first, second):
        await line.claimed(info.id)
    assert (await line.drop(first, at=9)).stops == (("w1", first.id),)
    assert (await line.drop(second, at=10)).stops == ()

    await kit.store.forget_boot("boot-w1", NOW + 10)

    assert await kit.store.take_stops("boot-w1") == []


async def test_a_replaced_branch_stops_and_so_does_one_that_is_counted_without_its_worker(kit: Kit, line: Line) -> None:
    await line.worker(slots=2)
    commit, fanout, infos = fanned_out(await kit.created(), 2)
    job = await kit.committed(commit)
    for info in infos:
        await line.claimed(info.id)

    new = NewTask(infos[0].again(now=NOW), TaskState.DELAYED)
    done = await kit.store.replace_branch_task(infos[0], new, an_event(job, 1))
    event = Event("e", job.id, "branch_failed", NOW + 5)
    await kit.store.branch_done(job.id, fanout.id, infos[1].id, Result(Result.TIMEOUT), event, [], a_message())

    assert done.stops == (("w1", infos[0].id),)
    assert sorted(await kit.store.take_stops("boot-w1")) == sorted(info.id for info in infos)


async def test_a_repeated_commit_stops_nobody_again(kit: Kit, line: Line) -> None:
    await kit.store.register(a_worker(), NOW, 60)
    job = await kit.created()
    info = a_task(job)
    job = await kit.committed(change(job, {"tasks": (dispatched(info),)}))
    await kit.store.claim_task(info.id, "w1", "boot1", NOW, 60)
    commit = change(job, {"drop_tasks": (info.id,)})
    assert (await kit.store.commit(commit)).stops == (("w1", info.id),)
    assert await kit.store.take_stops("boot1") == [info.id]

    assert (await kit.store.commit(commit)).applied

    assert await kit.store.take_stops("boot1") == []


# --- What is left --------------------------------------------------------------------------------------------------------------


async def _busy_day(kit: Kit, line: Line, name: str) -> None:
    """Tasks of every kind wait, run and end; `name` is part of every key."""
    worker = await line.worker("w1", slots=3)
    await kit.store.heartbeat("w1", "boot-w1", NOW, 1e6, worker)
    limits = (Limit(f"limit-{name}", 1),)
    infos = []
    for n in range(8):
        infos.append(await line.pull(n, fairness_key=f"{name}-{n % 2}", type=f"type-{name}", timeout_seconds=9))
        infos.append(await line.pull(n, fairness_key=f"{name}-{n % 2}", limits=limits, dispatch_timeout_seconds=99))
        infos.append(await line.pull(n, queue="fleet", limits=limits, timeout_seconds=9, type=f"plain-{name}"))
        infos.append(await line.pick(n, signature=name, limits=limits, fairness_key=f"{name}-{n % 3}"))
        infos.append(await line.task(n, state=TaskState.UNROUTED, type=f"rare-{name}"))
    for n in range(60):
        for head in await kit.store.heads("work"):
            await line.assign(head.info, worker, at=100 + n)
        for record in await kit.store.unclaimed(NOW * 2):
            if (await line.claim(record.info.id, at=100 + n)).outcome == "ok" and n % 3:
                await line.finish(record.info.id, at=100 + n)
            await line.drop(record.info, at=100 + n)
    for info in infos:
        if await kit.store.get_task(info.id) is not None:
            await line.drop(info, at=200)
    await kit.store.take_stops("boot-w1")


async def _left(kit: Kit) -> dict[str, object]:
    """All but what is kept for good, jobs and their history, and what goes by itself."""
    out = {}
    for key, value in (await kit.everything()).items():
        parts = key.removeprefix(f"{kit.namespace}:").split(":") if kit.redis is not None else [key]
        if parts[0] not in FOR_GOOD + FOR_A_MINUTE and parts[0] != f"{kit.namespace}-queue" and value:
            out[key] = value
    return out


async def test_nothing_is_left_of_tasks_that_are_over(kit: Kit, line: Line) -> None:
    names = []
    for n in range(2):
        await _busy_day(kit, line, f"day{n}")
        assert await kit.store.unrouted_types() == []
        left = await _left(kit)
        assert [key for key, value in left.items() if f"day{n}" in f"{key} {value}"] == []
        names.append(sorted(left))

    assert names[0] == names[1]
    assert await kit.store.due(NOW * 2) == []
    assert await kit.store.picking() == []


async def test_a_branch_that_ends_without_its_worker_stops_it(kit: Kit) -> None:
    commit, fanout, infos = fanned_out(await kit.created(), 2)
    job = await kit.committed(commit)
    await kit.store.register(a_worker(), NOW, 60)
    assert (await kit.store.claim_task(infos[0].id, "w1", "boot1", NOW, 60)).outcome == "ok"

    timed_out = Result(Result.TIMEOUT)
    _, done = await kit.store.branch_done(job.id, fanout.id, infos[0].id, timed_out, an_event(job, 1), [], a_message())

    assert done.stops == (("w1", infos[0].id),)


async def test_an_attempt_is_asked_to_stop_and_goes_on_until_its_worker_reports(kit: Kit, line: Line) -> None:
    await line.worker("w1", slots=2)
    running, queued = [await line.pull(n) for n in range(2)]
    await line.claimed(running.id)

    results = {}
    for info in (running, queued):
        job = await kit.store.load(info.job_id)
        assert job is not None
        results[info.id] = await kit.store.commit(change(job, {"cancel_tasks": (info.id,)}, cancel_requested=True))

    assert results[running.id].stops == (("w1", running.id),)
    assert results[queued.id].stops == ()
    assert await kit.store.take_stops("boot-w1") == [running.id]
    record = await kit.store.get_task(running.id)
    assert record is not None
    assert (record.state, record.cancel_requested) == (TaskState.CLAIMED, True)
    claim = await kit.store.claim_task(queued.id, "w1", "boot-w1", NOW, 300, "cpu")
    assert claim.outcome is ClaimOutcome.CANCELLED
    finished = await kit.store.finish_task(running.id, "boot-w1", Result(Result.CANCELLED), a_message(), NOW)
    assert finished.applied
