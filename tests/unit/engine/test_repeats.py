"""Messages that come twice, late or out of order change nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import FanOut, Job, JobStatus, Message, Result, TaskInfo, WorkerRecord
from tests.support.machine import Killed, Machine


def _blueprint() -> Blueprint:
    """A job with a transition, a task, a fan-out and a child."""
    blueprint = Blueprint("whole")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("one")

    @blueprint.handler_for("one")
    async def one(actions: Any) -> None:
        actions.dispatch_task("work", {"n": 1}, {"success": "many", "failure": "bad"})

    @blueprint.handler_for("many")
    async def many(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {"n": n}} for n in (2, 3)], "merge")

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any, aggregation_results: Any, state_history: dict[str, Any]) -> None:
        state_history["sum"] = sum(result["data"]["n"] for result in aggregation_results.values())
        actions.run_blueprint("leaf", {}, {"success": "end", "failure": "bad"})

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    @blueprint.handler_for("bad", is_end=True)
    async def bad() -> None: ...

    return blueprint


def _leaf() -> Blueprint:
    blueprint = Blueprint("leaf")

    @blueprint.handler_for("start", is_start=True, is_end=True)
    async def start() -> dict[str, int]:
        return {"leaf": 1}

    return blueprint


@pytest.fixture
async def machine() -> Machine:
    return await Machine(_blueprint(), _leaf(), workers={"work": lambda n: {"n": n}}).start()


RESULT = {"n": 1, "sum": 5, "leaf": 1}


async def _snapshot(machine: Machine, job_id: str) -> tuple[Job, int, dict[str, Any]]:
    return await machine.job(job_id), len(machine.store.stream), dict(machine.store._tasks)


async def test_every_message_delivered_twice_does_its_work_once(machine: Machine) -> None:
    job_id = await machine.create("whole")
    delivered = 0
    while machine.queue:
        message = machine.queue.pop(0)
        await machine.deliver(message)
        before, queued = await _snapshot(machine, job_id), list(machine.queue)
        await machine.deliver(message)
        assert await _snapshot(machine, job_id) == before
        assert machine.queue == queued
        delivered += 1

    job = await machine.job(job_id)
    assert (job.status, job.result) == (JobStatus.FINISHED, RESULT)
    assert delivered == 10  # 2 steps, 3 tasks and their resumes, an aggregate, the end of the child


async def test_messages_after_the_end_change_nothing(machine: Machine) -> None:
    job_id = await machine.create("whole")
    sent: list[Message] = []
    while machine.queue:
        sent.append(machine.queue.pop(0))
        await machine.deliver(sent[-1])
    before = await _snapshot(machine, job_id)
    assert before[0].status is JobStatus.FINISHED

    for message in reversed(sent):
        await machine.deliver(message)

    assert await _snapshot(machine, job_id) == before
    assert machine.queue == []
    assert await machine.store.ledger(machine.now) == []


async def test_a_resume_that_belongs_to_nothing_changes_nothing(machine: Machine) -> None:
    job_id = await machine.create("whole")
    await machine.deliver(machine.queue.pop())
    before = await machine.job(job_id)

    await machine.engine.resume(job_id, "some-other-attempt", {"status": "success"})
    await machine.engine.resume("nobody", "nothing", {"status": "success"})
    await machine.engine.resume(job_id, "nothing", {"status": "success"}, "no-fanout")
    await machine.engine.resume(job_id, "nothing", {"status": "failure"}, "no-fanout")
    await machine.engine.aggregate(job_id, "no-fanout")
    await machine.engine.child_ended(job_id, "no-child")
    await machine.engine.step(job_id, 0)
    await machine.engine.step(job_id, before.version + 1)

    assert await machine.job(job_id) == before
    await machine.drive()
    assert (await machine.job(job_id)).result == RESULT


async def test_the_result_of_an_older_attempt_changes_nothing(machine: Machine) -> None:
    answers = [{"status": "failure"}, {"n": 1}]
    machine.workers["work"] = lambda n: answers.pop(0) if answers else {"n": n}
    job_id = await machine.create("whole")
    await machine.deliver(machine.queue.pop())
    first = (await machine.job(job_id)).waiting
    assert isinstance(first, TaskInfo)
    await machine.pump()
    before = await machine.job(job_id)
    assert before.status is JobStatus.AWAITING_RETRY

    await machine.engine.resume(job_id, first.id, {"status": "success", "data": {"n": 99}})

    assert await machine.job(job_id) == before


async def _fanned_out(machine: Machine) -> tuple[str, FanOut]:
    job_id = await machine.create("whole")
    while True:
        await machine.deliver(machine.queue.pop(0))
        waiting = (await machine.job(job_id)).waiting
        if isinstance(waiting, FanOut):
            return job_id, waiting


async def test_an_aggregate_that_comes_too_early_changes_nothing(machine: Machine) -> None:
    job_id, fanout = await _fanned_out(machine)
    before = await machine.job(job_id)

    await machine.engine.aggregate(job_id, fanout.id)

    assert await machine.job(job_id) == before
    await machine.drive()
    assert (await machine.job(job_id)).result == RESULT


async def test_the_end_of_a_child_that_still_runs_changes_nothing(machine: Machine) -> None:
    job_id = await machine.create("whole")
    while not (await machine.job(job_id)).child_job_ids:
        await machine.deliver(machine.queue.pop(0))
    before = await machine.job(job_id)

    await machine.engine.child_ended(job_id, before.child_job_ids[0])

    assert await machine.job(job_id) == before
    await machine.drive()
    assert (await machine.job(job_id)).result == RESULT


async def test_a_second_orchestrator_leaves_a_job_in_work_alone(machine: Machine) -> None:
    job_id = await machine.create("whole")
    step = machine.queue.pop()
    await machine.store.register(WorkerRecord("other", "other"), machine.now, 60)
    await machine.store.claim_job(job_id, "other", machine.now, step.key or "")
    before = machine.store.stream[:]

    await machine.deliver(step)

    assert machine.store.stream == before
    assert await machine.store.claims("other") == ({job_id: step.key}, [])
    assert await machine.store.ledger_get(step.key or "") is not None


async def test_a_late_message_that_comes_before_the_recovery_does_not_lose_what_a_dead_process_was_in_the_middle_of() -> None:
    blueprint, dies = Blueprint("b"), [True]

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        if dies and dies.pop():
            raise Killed
        return "done"

    machine = await Machine(blueprint).start()
    job_id = await machine.create("b")
    await machine.pump()  # the process dies between two states: only its claim tells that the job goes on
    assert (await machine.job(job_id)).status is JobStatus.RUNNING
    assert machine.queue == []

    await machine.engine.resume(job_id, "an attempt that is over", {**Result.success().to_dict(), "meta": {}})

    await machine.drive()
    assert (await machine.job(job_id)).result == "done"


async def test_a_process_that_counts_as_dead_goes_on_and_dies_while_another_has_its_job() -> None:
    blueprint, gates, dies = Blueprint("b"), [asyncio.Event(), asyncio.Event()], [True]
    waits = iter(gates)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        await next(waits).wait()
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        if dies and dies.pop():
            raise Killed
        return "done"

    machine = await Machine(blueprint).start()
    job_id = await machine.create("b")
    message = machine.queue.pop()
    first = asyncio.create_task(machine.deliver(message))
    await asyncio.sleep(0)
    await machine.restart_orchestrator()
    second = asyncio.create_task(machine.deliver(message))
    await asyncio.sleep(0)
    gates[0].set()
    await first  # it goes from one state to the next, and is dead
    gates[1].set()
    await second  # comes too late with the same, and lets go of the job

    await machine.drive()
    assert (await machine.job(job_id)).result == "done"
