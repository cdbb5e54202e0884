"""Housekeeping: processes that die, messages that are lost, timers that are due."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import FanOut, Job, JobStatus, Limit, Message, Result, TaskInfo, TaskState, Timer
from avtomatika.state.base import ClaimOutcome, Commit, TaskRecord
from avtomatika.worker.pool import Requeue
from tests.support.machine import Killed, Machine, ended
from tests.support.records import NOW, change

GRACE = 11.0  # just over CLAIM_GRACE_SECONDS


def _steps(handler: Any = None, **options: Any) -> Blueprint:
    """start -> second -> task -> end."""
    blueprint = Blueprint("steps")

    async def second(actions: Any) -> None:
        actions.transition_to("third")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("second")

    blueprint.handler_for("second")(handler or second)

    @blueprint.handler_for("third")
    async def third(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "end", "timeout": "late"}, **options)

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        return "ended"

    @blueprint.handler_for("late", is_end=True)
    async def late() -> str:
        return "late"

    return blueprint


def _parallel(**options: Any) -> Blueprint:
    blueprint = Blueprint("parallel")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        tasks = [{"task_type": "work", "params": {"n": n}, **options} for n in range(2)]
        actions.dispatch_parallel(tasks, "merge")

    @blueprint.handler_for("merge", is_end=True)
    async def merge() -> None: ...

    @blueprint.aggregator_for("merge")
    async def join(aggregation_results: dict[str, Any]) -> Any:
        return [(result["status"], result["data"].get("n")) for result in aggregation_results.values()]

    return blueprint


async def _machine(*blueprints: Blueprint, **options: Any) -> Machine:
    options.setdefault("workers", {"work": lambda **params: params})
    return await Machine(*(blueprints or (_steps(), _parallel())), **options).start()


async def _deliver_until(machine: Machine, job_id: str, kind: type[Any]) -> Any:
    """Delivers until the job waits for something of a kind."""
    while not isinstance(waiting := (await machine.job(job_id)).waiting, kind):
        await machine.deliver(machine.queue.pop(0))
    return waiting


# --- Processes that die --------------------------------------------------------------------------------------------------------


def _dies(times: int) -> Any:
    """A handler under which its process dies so often."""
    left = [times]

    async def handler(actions: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise Killed
        actions.transition_to("third")

    return handler


@pytest.mark.parametrize("times", [1, 3])
async def test_a_job_goes_on_when_its_orchestrator_dies_in_the_middle(times: int) -> None:
    machine = await _machine(_steps(_dies(times)))

    job = await machine.run("steps")

    assert ended(job) == (JobStatus.FINISHED, "end", "ended")
    assert [e.next_state for e in await machine.events(job.id, "transition")] == ["second", "third"]
    assert await machine.store.ended_boots(machine.now) == []


async def test_a_job_goes_on_when_its_orchestrator_dies_in_an_aggregator() -> None:
    blueprint = _parallel()
    calls: list[int] = []

    async def join(aggregation_results: dict[str, Any]) -> int:
        calls.append(len(aggregation_results))
        if len(calls) == 1:
            raise Killed
        return len(aggregation_results)

    blueprint._states["merge"].aggregator = None
    blueprint.aggregator_for("merge")(join)
    machine = await _machine(blueprint)

    job = await machine.run("parallel")

    assert (job.status, job.result, calls) == (JobStatus.FINISHED, 2, [2, 2])


def _kills(times: int) -> Any:
    left = [times]

    def work(**params: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise Killed
        return params

    return work


async def test_a_task_of_a_dead_worker_is_given_out_again_at_once_as_a_new_attempt() -> None:
    machine = await _machine(workers={"work": _kills(3)})

    job = await machine.run("steps")

    assert ended(job) == (JobStatus.FINISHED, "end", "ended")
    lost = await machine.events(job.id, "task_lost")
    (finished,) = await machine.events(job.id, "task_finished")
    assert [event.attempt for event in lost] == [1, 2, 3]
    assert finished.attempt == 4
    assert len({event.task_id for event in [*lost, finished]}) == 4
    assert (job.retry_count, machine.now) == (0, NOW)


async def test_a_task_that_kills_its_workers_is_stopped() -> None:
    machine = await _machine(workers={"work": _kills(1000)})

    job = await machine.run("steps")

    assert job.status is JobStatus.QUARANTINED
    assert "4 times" in (job.error_message or "")
    assert len(await machine.events(job.id, "task_lost")) == 4
    assert (machine.queue, machine.timers()) == ([], [])


async def test_branches_of_a_dead_worker_are_given_out_again_and_stopped() -> None:
    calls: list[int] = []

    def work(n: int) -> Any:
        calls.append(n)
        if n == 1 or calls.count(0) < 2:
            raise Killed
        return {"n": n}

    machine = await _machine(workers={"work": work})

    job = await machine.run("parallel")

    assert (job.status, job.result) == (JobStatus.FINISHED, [("success", 0), ("failure", None)])
    assert (calls.count(0), calls.count(1)) == (2, 4)
    assert len(await machine.events(job.id, "branch_lost")) == 4


async def test_the_late_result_of_a_worker_that_counted_as_dead_is_refused() -> None:
    machine = await _machine()
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    old = machine.worker_boot
    await machine.store.claim_task(info.id, "worker", old, machine.now, 60)
    await machine.restart_worker()
    await machine.tick()
    again = (await machine.job(job_id)).waiting
    assert isinstance(again, TaskInfo)
    assert (again.id != info.id, again.deaths, again.attempt) == (True, 1, 2)

    assert not await machine.report(info.id, old, Result.success(), machine.compiler.resume(job_id, info.id))

    await machine.drive()
    assert (await machine.job(job_id)).result == "ended"
    assert len(await machine.events(job_id, "task_finished")) == 1


async def test_a_result_that_was_reported_before_its_worker_died_counts() -> None:
    machine = await _machine()
    job_id = await machine.create("steps")
    await _deliver_until(machine, job_id, TaskInfo)
    await machine.deliver(machine.queue.pop(0))
    await machine.restart_worker()

    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"
    assert await machine.events(job_id, "task_lost") == []


# --- Processes that stop in an orderly way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mishap", ["stop", "store away"])
async def test_a_job_goes_on_when_a_run_is_interrupted_after_a_transition(mishap: str) -> None:
    calls: list[str] = []

    async def second(actions: Any) -> None:
        calls.append("second")
        if len(calls) == 1 and mishap == "stop":
            this = asyncio.current_task()
            assert this is not None
            this.cancel()
            await asyncio.sleep(0)
        actions.transition_to("third")

    machine = await _machine(_steps(second))
    if mishap == "store away":
        look_up, asked = machine.store.capability_of, []

        async def capability_of(task_type: str) -> str | None:
            asked.append(task_type)
            if len(asked) == 1:
                raise StoreUnavailableError("away")
            return await look_up(task_type)

        machine.store.capability_of = capability_of  # type: ignore[method-assign]
    job_id = await machine.create("steps")
    step = machine.queue.pop()

    if mishap == "stop":
        with pytest.raises(Requeue):
            await machine.deliver(step)
        machine.queue.append(step)
    else:
        await machine.deliver(step)
    assert await machine.store.claims(machine.runtime.boot_id) == ({}, [])
    await machine.drive()

    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", "ended")


async def test_a_run_that_breaks_between_two_commits_is_taken_up_again() -> None:
    machine = await _machine()
    task_message, calls = machine.compiler.task_message, []

    def broken(*args: Any) -> Message:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("a bug of the engine")
        return task_message(*args)

    machine.compiler.task_message = broken  # type: ignore[method-assign]
    job_id = await machine.create("steps")
    with pytest.raises(RuntimeError):
        await machine.deliver(machine.queue.pop())
    assert len(machine.queue) == 1
    with pytest.raises(RuntimeError):
        await machine.deliver(machine.queue.pop())
    assert machine.queue == []  # not at once again: the ledger has it
    await machine.repair(GRACE)
    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"


# --- Messages that are lost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blueprint", ["steps", "parallel"])
@pytest.mark.parametrize("lost", range(7))
async def test_a_lost_message_of_any_kind_is_published_again(blueprint: str, lost: int) -> None:
    machine = await _machine()
    job_id = await machine.create(blueprint)
    delivered = 0
    for _ in range(40):
        await machine.tick()
        while machine.queue:
            message = machine.queue.pop(0)
            if delivered != lost:
                await machine.deliver(message)
            delivered += 1
        await machine.repair(GRACE)

    job = await machine.job(job_id)
    assert job.status is JobStatus.FINISHED
    assert len(await machine.events(job_id, "task_finished", "branch_finished")) == (1 if blueprint == "steps" else 2)
    assert await machine.store.ledger(machine.now) == []
    assert await machine.store.unclaimed(machine.now) == []


async def test_a_lost_end_of_a_child_is_published_again() -> None:
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("steps", {}, {"success": "end"})

    @parent.handler_for("end", is_end=True)
    async def end(result: str) -> str:
        return result

    machine = await _machine(parent, _steps())
    job_id = await machine.create("parent")
    while True:
        if machine.queue[0].headers["task"].endswith("child_ended"):
            break
        await machine.deliver(machine.queue.pop(0))
    machine.queue.clear()

    await machine.repair(GRACE)
    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"


async def test_what_still_waits_in_its_queue_is_not_published_again() -> None:
    machine = await _machine()
    await machine.create("steps")
    second = await machine.create("steps")
    await _deliver_until(machine, second, TaskInfo)
    waiting = list(machine.queue)

    await machine.repair(3600)

    assert machine.queue == waiting


async def test_nothing_is_published_again_before_its_grace_has_passed() -> None:
    machine = await _machine()
    await machine.create("steps")
    machine.queue.clear()

    await machine.repair(9)
    assert machine.queue == []
    await machine.repair(2)
    assert len(machine.queue) == 1


async def test_a_message_published_again_carries_its_new_time() -> None:
    machine = await _machine()
    await machine.create("steps")
    (step,) = machine.queue
    machine.queue.clear()

    await machine.repair(GRACE)

    (again,) = machine.queue
    assert (again.body, again.key, again.headers["id"]) == (step.body, step.key, step.headers["id"])
    assert (step.headers["avtomatika_at"], again.headers["avtomatika_at"]) == (NOW, NOW + GRACE)


# --- The outbox ----------------------------------------------------------------------------------------------------------------


async def test_without_push_every_message_goes_over_the_outbox() -> None:
    machine = await _machine(push=False)

    assert ended(await machine.run("steps")) == (JobStatus.FINISHED, "end", "ended")
    assert (await machine.run("parallel")).status is JobStatus.FINISHED
    assert await machine.store.outbox(machine.now) == []


async def test_what_the_broker_did_not_take_is_published_once_it_is_back() -> None:
    machine = await _machine(push=False)
    machine.publisher.away = True
    job_id = await machine.create("steps")
    assert machine.queue == []
    await machine.repair(GRACE)
    assert len(await machine.store.outbox(machine.now)) >= 1

    machine.publisher.away = False
    await machine.repair(GRACE)
    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"
    assert await machine.store.outbox(machine.now) == []


# --- Timers --------------------------------------------------------------------------------------------------------------------


async def test_a_task_that_runs_too_long_takes_the_timeout_transition() -> None:
    machine = await _machine(_steps(timeout_seconds=30))
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    claim = await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300)
    assert claim.timeout_at == NOW + 30

    await machine.tick(29)
    await machine.pump()
    assert (await machine.job(job_id)).status is JobStatus.WAITING_FOR_WORKER
    await machine.tick(1)
    await machine.pump()

    job = await machine.job(job_id)
    assert (job.status, job.result, job.error_message) == (JobStatus.FINISHED, "late", "Worker task timed out")
    assert not await machine.report(info.id, machine.worker_boot, Result.success(), machine.compiler.resume(job_id, info.id))


async def test_a_timeout_without_a_transition_fails_the_job() -> None:
    blueprint = Blueprint("short")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await _machine(blueprint, worker_timeout_seconds=5)
    job_id = await machine.create("short")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 5)

    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.error_message, machine.now) == (JobStatus.FAILED, "Worker task timed out", NOW + 5)


async def test_a_branch_that_runs_too_long_counts_as_timed_out() -> None:
    machine = await _machine(_parallel(timeout_seconds=30))
    job_id = await machine.create("parallel")
    await _deliver_until(machine, job_id, FanOut)
    stuck = machine.queue.pop(0)
    await machine.store.claim_task(stuck.headers["id"], "worker", machine.worker_boot, machine.now, 300)

    await machine.drive()

    assert (await machine.job(job_id)).result == [("timeout", None), ("success", 1)]


async def test_the_timeout_of_a_task_does_nothing_while_another_process_has_the_job() -> None:
    machine = await _machine(_steps(timeout_seconds=30))
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300)
    held = await machine.store.claim_job(job_id, machine.runtime.boot_id, machine.now, "some-message")
    assert held.outcome is ClaimOutcome.OK
    await machine.tick(31)
    await machine.pump()
    assert (await machine.job(job_id)).status is JobStatus.WAITING_FOR_WORKER

    await machine.store.release_job(job_id, machine.runtime.boot_id)
    await machine.repair(GRACE)
    await machine.drive()

    assert (await machine.job(job_id)).result == "late"


async def test_a_claimed_attempt_is_not_stopped_by_an_old_timer() -> None:
    machine = await _machine(_steps(timeout_seconds=30, dispatch_timeout_seconds=5))
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300)
    for kind in ("dispatch", "timeout"):
        await machine.watcher._fire(Timer(kind, info.id, NOW))

    assert machine.queue == []
    assert [(t.kind, t.due) for t in machine.timers()] == [("timeout", NOW + 30)]
    record = await machine.store.get_task(info.id)
    assert record is not None
    assert record.state is TaskState.CLAIMED


async def test_a_plain_task_that_answers_nothing_times_out_again_and_again() -> None:
    blueprint = Blueprint("fleet")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "fleet.add", "timeout_seconds": 20}], "merge")

    @blueprint.handler_for("merge", is_end=True)
    async def merge() -> None: ...

    @blueprint.aggregator_for("merge")
    async def join(aggregation_results: dict[str, Any]) -> Any:
        return [result["status"] for result in aggregation_results.values()]

    machine = await _machine(blueprint)
    job_id = await machine.create("fleet")
    fanout = await _deliver_until(machine, job_id, FanOut)
    task_id = machine.queue.pop().headers["id"]
    await machine.engine.resume(job_id, task_id, {"status": "failure", "data": {}, "meta": {}}, fanout.id)
    await machine.tick(2)
    (again,) = machine.queue
    assert again.queue == "fleet"
    machine.queue.clear()

    await machine.tick(19)
    assert machine.queue == []
    await machine.drive()

    assert (await machine.job(job_id)).result == ["timeout"]


async def test_a_timer_that_fails_keeps_no_other_waiting() -> None:
    machine = await _machine(_steps(timeout_seconds=30))
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300)
    await machine.store.set_timer(Timer("step", "no version in this one", NOW + 1))
    await machine.store.set_timer(Timer("of no kind", "x", NOW + 1))

    await machine.tick(30)
    await machine.pump()

    assert (await machine.job(job_id)).result == "late"


# --- One at a time -------------------------------------------------------------------------------------------------------------


async def test_only_the_leader_does_the_housekeeping() -> None:
    machine = await _machine()
    await machine.create("steps")
    machine.queue.clear()
    machine.now += GRACE
    await machine.store.acquire("housekeeping", "somebody else", 10)

    await machine.watcher.round()
    assert machine.queue == []
    await machine.store.release("housekeeping", "somebody else")
    await machine.watcher.round()

    assert len(machine.queue) == 1
    assert not await machine.store.acquire("housekeeping", "somebody else", 10)


async def test_a_leader_that_was_killed_and_started_again_leads_at_once() -> None:
    machine = await _machine()
    await machine.watcher.round()
    await machine.create("steps")
    machine.queue.clear()
    machine.now += GRACE
    await machine.restart_orchestrator()

    await machine.watcher.round()

    assert len(machine.queue) == 1


async def test_a_leader_that_lost_the_lock_does_nothing_more() -> None:
    machine = await _machine()
    await machine.watcher.round()
    await machine.create("steps")
    machine.queue.clear()
    machine.now += 3600
    await machine.store.release("housekeeping", machine.runtime.boot_id)
    await machine.store.acquire("housekeeping", "somebody else", 10)

    await machine.watcher.round()

    assert machine.queue == []


async def test_a_lost_attempt_is_given_out_again_although_its_job_changes_at_that_moment() -> None:
    machine = await _machine()
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300)
    await machine.restart_worker()
    commit, calls = machine.store.commit, []

    async def racing(wanted: Any) -> Any:
        calls.append(wanted)
        if len(calls) == 1:
            job = await machine.job(job_id)
            await commit(change(job, cancel_requested=True))
        return await commit(wanted)

    machine.store.commit = racing  # type: ignore[method-assign]
    await machine.tick()

    job = await machine.job(job_id)
    assert isinstance(job.waiting, TaskInfo)
    assert (job.waiting.attempt, job.cancel_requested, len(calls)) == (2, True, 2)
    assert [message.headers["id"] for message in machine.queue] == [job.waiting.id]


# --- Picks ---------------------------------------------------------------------------------------------------------------------


def _picked(**options: Any) -> Blueprint:
    """start: one task that needs a pick -> end."""
    blueprint = Blueprint("picked")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "end"}, dispatch_strategy="cheapest", **options)

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        return "ended"

    return blueprint


async def _assigned(machine: Machine, name: str = "picked") -> tuple[str, TaskRecord]:
    """A new job whose task was given to a worker, if there is one; its message is the last in the queue."""
    before = list(machine.queue)
    machine.queue.clear()
    job_id = await machine.create(name)
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue[:0] = before
    return job_id, await _task(machine, info.id)


async def _task(machine: Machine, task_id: str) -> TaskRecord:
    record = await machine.store.get_task(task_id)
    assert record is not None
    return record


async def test_a_pick_is_placed_and_the_job_goes_on() -> None:
    machine = await _machine(_picked())

    job = await machine.run("picked")

    assert (job.status, job.result) == (JobStatus.FINISHED, "ended")
    (assigned,) = await machine.events(job.id, "task_assigned")
    assert assigned.worker_id == "worker"


async def test_a_job_starts_once_a_worker_that_suits_registers() -> None:
    machine = await _machine(_picked(resource_requirements={"cpu_cores": 8}))
    job_id, record = await _assigned(machine)
    assert (record.state, machine.queue) == (TaskState.WAITING, [])

    await machine.add_worker("big", resources={"cpu_cores": 16})
    await machine.watcher.round()
    await machine.settled()

    assert (await _task(machine, record.info.id)).assigned_to == "big"
    await machine.drive()
    assert (await machine.job(job_id)).result == "ended"


async def test_any_orchestrator_places_what_waits_whoever_leads() -> None:
    machine = await _machine(_picked(resource_requirements={"cpu_cores": 8}))
    _, record = await _assigned(machine)
    await machine.store.acquire("housekeeping", "somebody else", 10)

    await machine.add_worker("big", resources={"cpu_cores": 16})
    await machine.watcher.round()
    await machine.settled()

    assert (await _task(machine, record.info.id)).assigned_to == "big"


async def test_what_lies_in_the_direct_queue_of_a_dead_worker_is_given_to_others() -> None:
    machine = await _machine(_picked(), slots=3)
    await machine.add_worker("dear", cost_per_second=1.0)
    jobs = [(await _assigned(machine))[0] for _ in range(3)]
    assert {message.queue for message in machine.queue} == {"worker.worker.cpu"}
    claimed = machine.queue[0].headers["id"]
    assert await machine.claim(claimed)
    boot = machine.worker_boot
    assert len(await machine.store.assigned(boot)) == 2

    await machine.end_worker("worker")
    await machine.tick()

    assert {message.queue for message in machine.queue} == {"worker.dear.cpu"}
    assert len(machine.queue) == 3
    assert await machine.store.ended_boots(machine.now) == []
    await machine.drive()
    assert [(await machine.job(job_id)).result for job_id in jobs] == ["ended"] * 3
    assert sum([len(await machine.events(job_id, "task_lost")) for job_id in jobs]) == 1


async def test_a_worker_that_is_back_at_once_gets_its_tasks_once() -> None:
    machine = await _machine(_picked())
    job_id, record = await _assigned(machine)

    await machine.restart_worker()
    await machine.tick()

    assert [message.queue for message in machine.queue] == ["worker.worker.cpu"] * 2  # one of them does nothing any more
    assert (await _task(machine, record.info.id)).assigned_to == "worker"
    await machine.drive()
    assert (await machine.job(job_id)).result == "ended"
    assert len(await machine.events(job_id, "task_finished")) == 1


async def test_a_worker_that_takes_nothing_loses_its_tasks_to_another() -> None:
    machine = await _machine(_picked())
    job_id, record = await _assigned(machine)
    await machine.add_worker("dear", cost_per_second=1.0)
    lost = machine.queue.pop()

    await machine.repair(9)
    assert (await _task(machine, record.info.id)).assigned_to == "worker"
    await machine.repair(2)

    after = await _task(machine, record.info.id)
    assert (after.assigned_to, after.info.avoid) == ("dear", ("worker",))
    await machine.deliver(lost)  # too late: it is no longer its own
    assert (await _task(machine, record.info.id)).state is TaskState.DISPATCHED
    await machine.drive()
    assert (await machine.job(job_id)).result == "ended"


async def test_the_only_worker_gets_its_task_again_once_it_has_spoken() -> None:
    machine = await _machine(_picked())
    job_id, record = await _assigned(machine)
    machine.queue.clear()
    await machine.repair(GRACE)
    assert (await _task(machine, record.info.id)).state is TaskState.WAITING

    await machine.store.heartbeat("worker", machine.worker_boot, machine.now, 1e9, machine.records["worker"])
    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"


async def put_ahead() -> tuple[Machine, TaskRecord]:
    """A busy worker of one slot, and a pick that is the next in its direct queue."""
    machine = await _machine(_picked(), slots=1)
    _, running = await _assigned(machine)
    assert await machine.claim(running.info.id)
    machine.queue.clear()
    _, record = await _assigned(machine)
    await machine.tick(1)
    return machine, record


async def test_what_was_put_ahead_stays_while_its_worker_works_and_moves_to_a_free_one() -> None:
    machine, record = await put_ahead()
    ahead = await _task(machine, record.info.id)
    assert (ahead.assigned_to, (ahead.decision or {}).get("ahead")) == ("worker", True)

    await machine.repair(GRACE)
    assert (await _task(machine, record.info.id)).assigned_to == "worker"
    await machine.add_worker("dear", cost_per_second=1.0)
    await machine.repair(GRACE)

    after = await _task(machine, record.info.id)
    assert (after.assigned_to, after.info.avoid) == ("dear", ())


async def test_what_was_put_ahead_is_given_again_where_its_message_is_lost() -> None:
    machine, record = await put_ahead()
    assert [message.headers["id"] for message in machine.queue] == [record.info.id]
    machine.queue.clear()

    await machine.repair(GRACE)

    assert [message.headers["id"] for message in machine.queue] == [record.info.id]
    assert (await _task(machine, record.info.id)).info.avoid == ()


async def test_a_task_waits_in_the_store_until_a_worker_names_it_and_then_for_its_pick() -> None:
    machine = Machine(_picked(resource_requirements={"cpu_cores": 8}), workers={"work": lambda **params: params})
    await machine.restart_orchestrator()
    job_id, record = await _assigned(machine)
    assert record.state is TaskState.UNROUTED

    await machine.add_worker("small")
    await machine.tick()
    assert (await _task(machine, record.info.id)).state is TaskState.WAITING
    await machine.add_worker("big", resources={"cpu_cores": 16})
    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"


# --- Limits, deadlines, reputations --------------------------------------------------------------------------------------------


async def _limited(machine: Machine, limit: Limit) -> list[Job]:
    """Three jobs whose tasks share a limit."""
    task_info = machine.engine._task_info

    def limited(*args: Any, **options: Any) -> TaskInfo:
        return replace(task_info(*args, **options), limits=(limit,))

    machine.engine._task_info = limited  # type: ignore[method-assign]
    return [await machine.job(await machine.create("steps")) for _ in range(3)]


async def test_a_rate_lets_the_next_ones_go_when_its_time_comes() -> None:
    machine = await _machine()
    jobs = await _limited(machine, Limit("api", 1, 60))
    await machine.pump()

    async def ended_jobs() -> int:
        return sum([(await machine.job(job.id)).status is JobStatus.FINISHED for job in jobs])

    assert [await ended_jobs(), [timer.member for timer in machine.timers()]] == [1, ["limit|api"]]
    await machine.tick(59)
    await machine.pump()
    assert await ended_jobs() == 1
    for number in (2, 3):
        await machine.tick(1 if number == 2 else 60)
        await machine.pump()
        assert await ended_jobs() == number
    assert await machine.store.due(machine.now + 1e6) == []


async def test_the_deadline_of_a_fan_out_has_its_aggregator_called() -> None:
    machine = await _machine()
    job_id = await machine.create("parallel")
    fanout = await _deliver_until(machine, job_id, FanOut)
    machine.queue.clear()
    await machine.store.set_timer(Timer("deadline", f"{job_id}|{fanout.id}", machine.now + 5))
    await machine.store.set_timer(Timer("deadline", f"{job_id}|another", machine.now + 1))
    await machine.store.set_timer(Timer("deadline", "nobody|another", machine.now + 1))

    await machine.tick(4)
    assert machine.queue == []
    await machine.tick(1)

    assert [message.key for message in machine.queue] == [f"aggregate:{fanout.id}"]
    assert machine.timers() == []


async def test_timeouts_and_deaths_count_against_a_worker_and_only_the_leader_computes_it() -> None:
    machine = await _machine(_steps(timeout_seconds=30))
    job_id = await machine.create("steps")
    info = await _deliver_until(machine, job_id, TaskInfo)
    machine.queue.clear()
    assert await machine.claim(info.id)
    await machine.tick(30)
    await machine.create("steps")
    await machine.pump()
    assert [outcome for _, outcome in await machine.store.outcomes("worker")] == ["timeout", "success"]

    await machine.store.acquire("housekeeping", "somebody else", 10)
    await machine.watcher.leadership.leave()
    await machine.store.acquire("housekeeping", "somebody else", 10)
    await machine.watcher.round()
    assert await machine.store.reputations(["worker"]) == {}
    await machine.store.release("housekeeping", "somebody else")
    await machine.watcher.round()

    found = (await machine.store.reputations(["worker"]))["worker"]
    assert (found.value, found.made_of) == (round(11 / 12, 4), {"success": 1, "timeout": 1})
    await machine.store.note_outcome("worker", "lost", machine.now)
    await machine.watcher.round()
    assert (await machine.store.reputations(["worker"]))["worker"] == found  # not before its interval has passed
    machine.now += 60
    await machine.watcher.round()
    assert (await machine.store.reputations(["worker"]))["worker"].made_of["lost"] == 1


async def test_ended_jobs_are_forgotten_as_fast_as_they_end() -> None:
    machine = await _machine(_steps(), history_database_uri=None)
    alive = await machine.create("steps")
    for number in range(1500):
        await machine.store.commit(Commit(Job(f"job-{number}", "steps", "end", JobStatus.FINISHED, updated_at=machine.now), None))
    seconds = machine.settings.job_retention_seconds

    await machine.tick(seconds - 1)
    assert await machine.store.load("job-0") is not None
    await machine.tick(2)

    assert [job.id for job in await machine.store.list_jobs(limit=2000)] == [alive]
    await machine.watcher.repair()
    assert await machine.store.feed_length() == 0  # without a history its events go, too
