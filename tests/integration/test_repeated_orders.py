"""Results and cancels that come twice, late, in another order, or around a restart: over every store."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.orders import Orders
from avtomatika.errors import WrongStateError
from avtomatika.jobs import Job, JobStatus, Message, Result, TaskInfo
from avtomatika.state.base import ClaimOutcome
from avtomatika.state.redis import RedisStore, connect
from tests.support.machine import Machine
from tests.support.servers import RedisServer

CLEANED: list[str] = []


def _blueprint() -> Blueprint:
    """A task, a fan-out, a child; `cancelled` leads to a clean-up."""
    blueprint = Blueprint("b")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "many", "cancelled": "tidy"})

    @blueprint.handler_for("tidy")
    async def tidy(job_id: str, actions: Any) -> None:
        CLEANED.append(job_id)
        actions.transition_to("tidied")

    @blueprint.handler_for("many")
    async def many(actions: Any) -> None:
        actions.dispatch_parallel([{"type": "work"}, {"type": "work"}], "join")

    @blueprint.aggregator_for("join")
    async def join(actions: Any, succeeded: Any, state_history: Any) -> None:
        state_history["joined"] = len(succeeded)
        actions.run_blueprint("child", {}, {"success": "end", "cancelled": "tidy"})

    for state in ("end", "tidied"):
        blueprint.handler_for(state, is_end=True)(lambda state_history: state_history)
    return blueprint


def _child() -> Blueprint:
    blueprint = Blueprint("child")
    blueprint.handler_for("start", is_start=True)(
        lambda actions: actions.dispatch_task("work", {}, {"success": "end", "cancelled": "stopped"})
    )
    blueprint.handler_for("end", is_end=True)(lambda: {"child": 1})
    blueprint.handler_for("stopped", is_end=True)(lambda: None)
    return blueprint


@pytest.fixture(params=["memory", "redis-6.2", "redis-newer"])
async def machine(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Machine]:
    blueprints, workers = (_blueprint(), _child()), {"work": lambda: {"n": 1}}
    CLEANED.clear()
    if request.param == "memory":
        yield await Machine(*blueprints, workers=workers).start()
        return
    server: RedisServer = request.getfixturevalue("redis62" if request.param == "redis-6.2" else "redis_newer")
    store = RedisStore(connect(server.url), namespace)
    yield await Machine(*blueprints, workers=workers, store=store).start()
    await store.close()


async def _running(machine: Machine) -> tuple[str, TaskInfo, Message]:
    """A job whose first task runs on the worker, and that task's message."""
    job_id = await machine.create("b")
    await machine.deliver(machine.queue.pop(0))
    info = (await machine.job(job_id)).waiting
    assert isinstance(info, TaskInfo)
    message = machine.queue.pop()
    assert await machine.claim(info.id)
    return job_id, info, message


async def _report(machine: Machine, info: TaskInfo, boot: str | None = None, status: str = Result.SUCCESS) -> bool:
    resume = machine.compiler.resume(info.job_id, info.id)
    return await machine.report(info.id, boot or machine.worker_boot, Result(status, {"n": 1}), resume)


async def _facts(machine: Machine, job: Job) -> tuple[int, int, int]:
    """What a change would change: version, history, what is in the queue."""
    return (await machine.job(job.id)).version, len(await machine.events(job.id)), len(machine.queue)


async def test_a_result_that_is_reported_and_told_twice_counts_once(machine: Machine) -> None:
    job_id, info, _ = await _running(machine)
    assert await _report(machine, info)
    assert not await _report(machine, info)
    (resume,) = machine.queue
    await machine.deliver(machine.queue.pop())
    job = await machine.job(job_id)
    before = await _facts(machine, job)

    await machine.deliver(resume)
    assert not await _report(machine, info)
    assert not await _report(machine, info, status=Result.FAILURE)

    assert await _facts(machine, job) == before
    await machine.pump()
    assert (await machine.job(job_id)).result == {"n": 1, "joined": 2, "child": 1}


async def test_an_old_attempts_result_comes_after_the_new_one_began(machine: Machine) -> None:
    job_id, first, _ = await _running(machine)
    old_boot = machine.worker_boot
    await machine.restart_worker()
    await machine.tick()  # what the old boot held is given out again
    second = (await machine.job(job_id)).waiting
    assert isinstance(second, TaskInfo)
    assert (second.attempt, second.deaths, second.id == first.id) == (2, 1, False)

    assert not await _report(machine, first, old_boot)
    machine.queue.insert(0, machine.compiler.resume_message(first, {**Result.success().to_dict(), "meta": {}}, machine.now))
    await machine.deliver(machine.queue.pop(0))
    assert (await machine.job(job_id)).waiting == second

    await machine.pump()
    assert (await machine.job(job_id)).status is JobStatus.FINISHED


async def test_a_result_that_comes_after_the_cancel_counts_as_cancelled_once(machine: Machine) -> None:
    job_id, info, _ = await _running(machine)
    orders = Orders(machine.engine)
    await orders.cancel(job_id)
    await orders.cancel(job_id)  # twice is once

    assert await _report(machine, info)
    (resume,) = machine.queue
    await machine.pump()
    job = await machine.job(job_id)
    assert (job.status, job.current_state, CLEANED) == (JobStatus.FINISHED, "tidied", [job_id])
    before = await _facts(machine, job)

    await machine.deliver(resume)
    assert not await _report(machine, info)
    await machine.tick(machine.settings.cancel_grace_seconds + 1)
    await machine.pump()

    assert await _facts(machine, job) == before
    assert len(await machine.events(job_id, "cancel_requested")) == 1
    with pytest.raises(WrongStateError):
        await orders.cancel(job_id)


async def test_a_result_that_was_on_its_way_when_the_cancel_came(machine: Machine) -> None:
    job_id, info, _ = await _running(machine)
    assert await _report(machine, info)

    await Orders(machine.engine).cancel(job_id)
    await machine.pump()
    await machine.tick(machine.settings.cancel_grace_seconds + 1)
    await machine.pump()

    assert [job_id] == CLEANED
    assert (await machine.job(job_id)).current_state == "tidied"


@pytest.mark.parametrize("first", ["cancel", "restart"])
async def test_a_cancel_around_a_workers_restart_runs_nothing_again(machine: Machine, first: str) -> None:
    job_id, info, message = await _running(machine)
    old_boot = machine.worker_boot
    if first == "cancel":
        await Orders(machine.engine).cancel(job_id)
        await machine.restart_worker()
    else:
        await machine.restart_worker()
        await Orders(machine.engine).cancel(job_id)  # the old boot's claim is not given out again yet

    await machine.deliver(message)  # the broker gives the unacknowledged message to the new start
    await machine.tick()
    await machine.pump()
    await machine.tick(machine.settings.cancel_grace_seconds + 1)
    await machine.pump()

    job = await machine.job(job_id)
    assert (job.status, job.current_state, CLEANED) == (JobStatus.FINISHED, "tidied", [job_id])
    assert await machine.events(job_id, "task_retry") == []
    assert not await _report(machine, info, old_boot)
    assert await machine.store.claims(machine.worker_boot) == ({}, [])
    assert await machine.store.get_task(info.id) is None


async def test_a_forced_cancel_ends_the_attempt_for_good(machine: Machine) -> None:
    job_id, info, message = await _running(machine)
    await Orders(machine.engine).cancel(job_id, force=True)

    assert not await _report(machine, info)
    claim = await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 60, "cpu")
    assert claim.outcome is ClaimOutcome.STALE
    await machine.deliver(message)
    await machine.pump()

    job = await machine.job(job_id)
    assert (job.status, job.current_state, CLEANED) == (JobStatus.CANCELLED, "start", [])


async def test_an_attempt_that_waits_is_cancelled_without_running_whenever_its_message_comes(machine: Machine) -> None:
    job_id = await machine.create("b")
    await machine.deliver(machine.queue.pop(0))
    message = machine.queue.pop()

    await Orders(machine.engine).cancel(job_id)
    await machine.deliver(message)
    await machine.pump()

    assert (await machine.job(job_id)).current_state == "tidied"
    assert await machine.events(job_id, "task_finished") == []


async def test_the_order_to_cancel_a_child_comes_twice_and_late(machine: Machine) -> None:
    job_id = await machine.create("b")
    while not (await machine.job(job_id)).child_job_ids:
        await machine.deliver(machine.queue.pop(0))
    await Orders(machine.engine).cancel(job_id)
    order = next(message for message in machine.queue if (message.key or "").startswith("cancel"))
    await machine.deliver(order)
    await machine.pump()
    job = await machine.job(job_id)
    child = await machine.job(job.child_job_ids[0])
    assert (job.current_state, CLEANED) == ("tidied", [job_id])
    before = (await _facts(machine, job), await _facts(machine, child))

    await machine.deliver(order)

    assert (await _facts(machine, job), await _facts(machine, child)) == before
    assert await machine.store.ledger(machine.now + 1) == []


async def test_a_whole_job_is_out_of_time_once_and_a_paused_one_is_not(machine: Machine) -> None:
    machine.registry.get("b").job_timeout_seconds = 30
    orders = Orders(machine.engine)
    late, info, _ = await _running(machine)
    waits = await machine.create("b")
    machine.queue.clear()
    await machine.tick(20)
    await orders.pause(waits)

    await machine.tick(10)
    await machine.tick()

    job = await machine.job(late)
    assert (job.status, job.error_message) == (JobStatus.FAILED, "Job timed out in state 'start' (waiting_for_worker)")
    assert machine.stopped == [("worker", info.id)]
    assert not await _report(machine, info)
    assert len(await machine.events(late, "job_failed")) == 1
    paused = await machine.job(waits)
    assert (paused.status, paused.time_left, paused.deadline_at) == (JobStatus.PAUSED, 10, None)
    await orders.resume(waits)
    await machine.tick(9)
    assert (await machine.job(waits)).status is JobStatus.RUNNING
    await machine.tick(1)
    assert (await machine.job(waits)).status is JobStatus.FAILED
    await orders.retry(late)
    assert (await machine.job(late)).deadline_at == machine.now + 30
    await machine.pump()
    assert (await machine.job(late)).status is JobStatus.FINISHED
    assert await machine.store.due(machine.now + 1000) == []


@pytest.mark.parametrize("seed", range(3))
async def test_all_messages_twice_and_in_any_order(machine: Machine, seed: int) -> None:
    order, seen = random.Random(seed), list[Message]()
    jobs = [await machine.create("b") for _ in range(2)]
    while machine.queue:
        message = machine.queue.pop(order.randrange(len(machine.queue)))
        await machine.deliver(message)
        seen.append(message)
        await machine.deliver(order.choice(seen))  # an old one again

    for job_id in jobs:
        job = await machine.job(job_id)
        assert (job.status, job.result) == (JobStatus.FINISHED, {"n": 1, "joined": 2, "child": 1})
        assert len(await machine.events(job_id, "task_finished")) == 1
        assert len(await machine.events(job_id, "branch_finished")) == 2
        assert len(await machine.events(job_id, "sub_job_finished")) == 1
    assert await machine.store.ledger(machine.now + 1) == []
