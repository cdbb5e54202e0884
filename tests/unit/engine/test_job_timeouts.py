"""The time of a whole job: what it counts, what it stops, what it survives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.orders import Orders
from avtomatika.errors import BlueprintError
from avtomatika.jobs import JobStatus, TaskInfo
from tests.support.machine import Machine
from tests.support.records import NOW

LIMIT = 60.0


def _blueprint(name: str = "b", seconds: float | None = LIMIT) -> Blueprint:
    """`how` says what the job waits for."""
    blueprint = Blueprint(name, job_timeout_seconds=seconds)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, how: str = "task") -> None:
        if how == "task":
            actions.dispatch_task("work", {"n": 1}, {"success": "end", "timeout": "end"}, timeout_seconds=1000)
        elif how == "branches":
            actions.dispatch_parallel([{"type": "work", "params": {"n": n}, "timeout_seconds": 1000} for n in range(3)], "join")
        elif how == "child":
            actions.run_blueprint("slow", {}, {"success": "end", "timeout": "end"})
        elif how == "person":
            actions.await_human_approval("log", "Well?", {"approved": "end"})
        else:
            raise RuntimeError("not yet")

    @blueprint.aggregator_for("join")
    async def join(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    return blueprint


async def _machine(**settings: Any) -> Machine:
    blueprints = (_blueprint(), _blueprint("slow", None))
    return await Machine(*blueprints, workers={"work": lambda n: {}}, **settings).start()


async def _begun(machine: Machine, how: str, blueprint: str = "b") -> str:
    """A job whose tasks, if it has some, run on the worker."""
    job_id = await machine.create(blueprint, how=how)
    while machine.queue:
        message = machine.queue.pop(0)
        if message.queue.startswith("cpu."):
            assert await machine.claim(message.headers["id"])
        else:
            await machine.deliver(message)
    return job_id


@pytest.mark.parametrize("how", ["task", "branches", "person", "child"])
async def test_a_job_that_is_out_of_time_fails_and_what_runs_for_it_is_stopped(how: str) -> None:
    machine = await _machine()
    job_id = await _begun(machine, how)
    waited = await machine.job(job_id)

    await machine.tick(LIMIT - 1)
    assert (await machine.job(job_id)).status is waited.status
    await machine.tick(1)
    await machine.pump()
    await machine.tick(machine.settings.cancel_grace_seconds)  # the child's worker does not answer
    await machine.pump()

    job = await machine.job(job_id)
    assert (job.status, job.current_state) == (JobStatus.FAILED, "start")
    assert job.error_message == f"Job timed out in state 'start' ({waited.status})"
    assert job.failure is not None
    assert job.failure.code == "JOB_TIMEOUT"
    assert len(set(machine.stopped)) == {"task": 1, "branches": 3, "person": 0, "child": 1}[how]
    if how == "task":
        assert isinstance(waited.waiting, TaskInfo)
        assert job.failure.task is not None
        assert (job.failure.task["task_id"], job.failure.task["params"]) == (waited.waiting.id, {"n": 1})
    for child in job.child_job_ids:
        assert (await machine.job(child)).status is JobStatus.CANCELLED
    assert machine.timers() == []
    assert machine.store._tasks == {}


async def test_it_survives_an_orchestrator_and_counts_the_time_in_between() -> None:
    machine = await _machine()
    job_id = await _begun(machine, "task")
    machine.now += 10 * LIMIT
    await machine.restart_orchestrator()

    await machine.tick()

    assert (await machine.job(job_id)).status is JobStatus.FAILED


async def test_a_job_that_ends_in_time_leaves_no_timer() -> None:
    machine = await _machine()

    job = await machine.run("b", how="task")

    assert (job.status, job.deadline_at) == (JobStatus.FINISHED, NOW + LIMIT)
    assert machine.timers() == []


async def test_the_setting_is_the_default_and_the_blueprint_comes_first() -> None:
    machine = await _machine(job_timeout_seconds=5)

    assert (await machine.job(await _begun(machine, "person", "slow"))).deadline_at == NOW + 5
    assert (await machine.job(await _begun(machine, "person"))).deadline_at == NOW + LIMIT


async def test_a_paused_job_has_as_much_time_left_as_it_had() -> None:
    machine = await _machine()
    orders = Orders(machine.engine)
    job_id = await machine.create("b", how="task")
    await machine.tick(LIMIT - 10)
    await orders.pause(job_id)

    await machine.tick(100 * LIMIT)
    job = await machine.job(job_id)
    assert (job.status, job.deadline_at, job.time_left) == (JobStatus.PAUSED, None, 10)
    await orders.resume(job_id)
    job = await machine.job(job_id)
    assert (job.deadline_at, job.time_left) == (machine.now + 10, None)
    machine.queue.clear()
    await machine.tick(10)

    assert (await machine.job(job_id)).status is JobStatus.FAILED


async def test_a_paused_job_that_is_cancelled_has_no_clock_any_more() -> None:
    machine = await _machine()
    job_id = await machine.create("b", how="task")
    await Orders(machine.engine).pause(job_id)

    await Orders(machine.engine).cancel(job_id)
    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.deadline_at, job.time_left) == (JobStatus.CANCELLED, None, None)
    assert machine.timers() == []


async def test_an_explicit_retry_has_the_whole_time_again() -> None:
    machine = await _machine()
    job_id = await _begun(machine, "task")
    await machine.tick(LIMIT + 5)

    await Orders(machine.engine).retry(job_id)

    job = await machine.job(job_id)
    assert (job.deadline_at, job.failure) == (machine.now + LIMIT, None)
    await machine.drive()
    assert (await machine.job(job_id)).status is JobStatus.FINISHED
    assert machine.timers() == []


async def test_retries_of_a_handler_do_not_outlive_it() -> None:
    machine = await _machine(job_max_retries=100)
    job_id = await machine.create("b", how="nothing")

    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.error_message) == (JobStatus.FAILED, "Job timed out in state 'start' (awaiting_retry)")
    assert job.updated_at == NOW + LIMIT


async def test_a_parent_may_go_on_with_a_child_that_was_out_of_time() -> None:
    machine = await Machine(_blueprint("b", None), _blueprint("slow"), workers={"work": lambda n: {}}).start()
    job_id = await _begun(machine, "child")
    await machine.tick(LIMIT)
    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.current_state) == (JobStatus.FINISHED, "end")
    assert (await machine.job(job.child_job_ids[0])).status is JobStatus.FAILED


async def test_what_was_being_cancelled_is_cancelled() -> None:
    machine = await _machine(cancel_grace_seconds=1000)
    job_id = await _begun(machine, "task")
    await Orders(machine.engine).cancel(job_id)

    await machine.tick(LIMIT)

    assert (await machine.job(job_id)).status is JobStatus.CANCELLED


async def test_a_handler_that_runs_when_the_time_is_over_decides_in_vain() -> None:
    blueprint, go = Blueprint("b", job_timeout_seconds=LIMIT), asyncio.Event()

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        await go.wait()
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint).start()
    job_id = await machine.create("b")
    running = asyncio.create_task(machine.deliver(machine.queue.pop()))
    await asyncio.sleep(0)
    await machine.tick(LIMIT)
    go.set()
    await running
    await machine.drive()

    assert (await machine.job(job_id)).status is JobStatus.FAILED
    assert await machine.store.claims(machine.engine.boot_id) == ({}, [])


@pytest.mark.parametrize("bad", [0, -1, "60", float("inf"), True])
def test_nonsense_refuses_the_blueprint(bad: Any) -> None:
    with pytest.raises(BlueprintError, match="job_timeout_seconds must be a positive number of seconds"):
        Blueprint("b", job_timeout_seconds=bad)
