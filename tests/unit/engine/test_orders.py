"""What people ask of jobs: cancel, pause, resume, retry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.approvals import decide
from avtomatika.engine.orders import Orders
from avtomatika.errors import UnknownJobError, WrongStateError
from avtomatika.jobs import JobStatus, Result, TaskInfo, TaskState
from avtomatika.state.base import ClaimOutcome
from tests.support.machine import Killed, Machine, ended


def _work(transitions: dict[str, str], name: str = "work", **options: Any) -> Blueprint:
    """start -> task -> end; `clean` dispatches the task `sweep` and goes to `swept`, an end state."""
    blueprint = Blueprint(name)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {}, transitions, **options)

    @blueprint.handler_for("clean")
    async def clean(actions: Any) -> None:
        actions.dispatch_task("sweep", {}, {"success": "swept", "cancelled": "end"})

    @blueprint.handler_for("swept", is_end=True)
    async def swept() -> str:
        return "swept"

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    return blueprint


async def _running(machine: Machine, name: str = "work") -> tuple[str, TaskInfo]:
    """A job whose task runs on the worker."""
    job_id = await machine.create(name)
    await machine.deliver(machine.queue.pop(0))
    info = (await machine.job(job_id)).waiting
    assert isinstance(info, TaskInfo)
    machine.queue.clear()
    assert await machine.claim(info.id)
    return job_id, info


async def _report(machine: Machine, info: TaskInfo, result: Result) -> bool:
    resume = machine.compiler.resume(info.job_id, info.id)
    return await machine.report(info.id, machine.worker_boot, result, resume)


async def test_a_running_task_is_told_to_stop_and_the_job_is_cancelled_when_it_has() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}).start()
    job_id, info = await _running(machine)

    job, running = await Orders(machine.engine).cancel(job_id, who="ann")

    assert running is not None
    assert running.worker_id == "worker"
    assert (job.status, job.cancel_requested) == (JobStatus.WAITING_FOR_WORKER, True)
    assert machine.stopped == [("worker", info.id)]
    assert await machine.store.take_stops(machine.worker_boot) == [info.id]
    await _report(machine, info, Result(Result.CANCELLED))
    await machine.drive()
    assert (await machine.job(job_id)).status is JobStatus.CANCELLED
    (asked,) = await machine.events(job_id, "cancel_requested")
    assert asked.details == {"by": "ann"}


@pytest.mark.parametrize(
    "result",
    [Result(Result.CANCELLED), Result.success({"n": 1}), Result.failure("", "again"), Result.failure("PERMANENT_ERROR", "no")],
)
async def test_the_cancelled_transition_runs_its_clean_up_whatever_the_task_has_reported(result: Result) -> None:
    blueprint = _work({"success": "end", "failure": "end", "cancelled": "clean"})
    machine = await Machine(blueprint, workers={"work": dict, "sweep": dict}).start()
    job_id, info = await _running(machine)
    await Orders(machine.engine).cancel(job_id)
    await _report(machine, info, result)

    while (await machine.job(job_id)).current_state != "clean":
        await machine.deliver(machine.queue.pop(0))
    job = await machine.job(job_id)
    assert (job.status.is_terminal, job.cancel_requested) == (False, True)

    await machine.drive()
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "swept", "swept")


async def test_a_task_that_has_not_started_is_removed_without_running() -> None:
    ran: list[int] = []
    machine = await Machine(_work({"success": "end"}), workers={"work": lambda: ran.append(1)}).start()
    job_id = await machine.create("work")
    await machine.deliver(machine.queue.pop(0))

    job, running = await Orders(machine.engine).cancel(job_id, who="ann")
    await machine.drive()

    assert running is None
    assert (job.status, job.error_message) == (JobStatus.CANCELLED, "cancelled by ann")
    assert ran == []
    assert machine.stopped == []


async def test_a_worker_that_does_not_stop_is_overruled_after_the_grace() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}, cancel_grace_seconds=5).start()
    job_id, info = await _running(machine)
    await Orders(machine.engine).cancel(job_id)

    await machine.tick(4)
    await machine.pump()
    assert (await machine.job(job_id)).status is JobStatus.WAITING_FOR_WORKER
    await machine.tick(2)
    await machine.pump()

    job = await machine.job(job_id)
    assert job.status is JobStatus.CANCELLED
    assert "did not stop in time" in (job.error_message or "")
    assert not await _report(machine, info, Result.success())


async def test_a_worker_that_dies_over_its_clean_up_cancels_too() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}).start()
    job_id, _ = await _running(machine)
    await Orders(machine.engine).cancel(job_id)

    await machine.restart_worker()
    await machine.tick()

    assert (await machine.job(job_id)).status is JobStatus.CANCELLED


async def test_nobody_begins_an_attempt_that_is_cancelled() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}).start()
    job_id, info = await _running(machine)
    await Orders(machine.engine).cancel(job_id)
    await machine.store.release_task(info.id, machine.worker_boot, machine.now)

    claim = await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300, "cpu")

    assert claim.outcome is ClaimOutcome.CANCELLED


async def test_a_second_order_changes_nothing_and_a_forced_one_ends_the_job_at_once() -> None:
    machine = await Machine(_work({"cancelled": "clean", "success": "end"}), workers={"work": dict, "sweep": dict}).start()
    job_id, _ = await _running(machine)
    orders = Orders(machine.engine)
    first, _ = await orders.cancel(job_id)

    second, running = await orders.cancel(job_id)
    assert second.version == first.version
    assert running is not None

    forced, _ = await orders.cancel(job_id, force=True)
    assert forced.status is JobStatus.CANCELLED
    await machine.drive()
    assert (await machine.job(job_id)).version == forced.version


async def test_a_parent_is_cancelled_once_its_child_is() -> None:
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("work", {}, {"finished": "end", "success": "end"})

    @parent.handler_for("end", is_end=True)
    async def end() -> None: ...

    child = _work({"success": "end", "cancelled": "clean"})
    machine = await Machine(parent, child, workers={"work": dict, "sweep": dict}).start()
    parent_id = await machine.create("parent")
    await machine.deliver(machine.queue.pop(0))
    (child_id,) = (await machine.job(parent_id)).child_job_ids
    await machine.deliver(machine.queue.pop(0))
    info = (await machine.job(child_id)).waiting
    assert isinstance(info, TaskInfo)
    machine.queue.clear()
    assert await machine.claim(info.id)

    await Orders(machine.engine).cancel(parent_id, who="ann")
    await machine.pump()
    assert machine.stopped == [("worker", info.id)]
    assert (await machine.job(child_id)).cancel_requested
    assert not (await machine.job(parent_id)).status.is_terminal

    await _report(machine, info, Result(Result.CANCELLED))
    await machine.drive()
    assert ended(await machine.job(child_id))[:2] == (JobStatus.FINISHED, "swept")
    assert (await machine.job(parent_id)).status is JobStatus.CANCELLED
    assert machine.store._ledger == {}


async def test_branches_are_told_to_stop_with_their_job() -> None:
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {}}] * 3, "merge")

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint, workers={"work": dict}).start()
    job_id = await machine.create("fan")
    await machine.deliver(machine.queue.pop(0))
    branches = list(await machine.store.branches(job_id))
    for task_id in branches[:2]:
        assert await machine.claim(task_id)

    await Orders(machine.engine).cancel(job_id)

    assert sorted(machine.stopped) == sorted(("worker", task_id) for task_id in branches[:2])
    await machine.drive()
    assert (await machine.job(job_id)).status is JobStatus.CANCELLED


async def test_a_question_that_nobody_has_answered_can_be_cancelled() -> None:
    blueprint = Blueprint("ask")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.await_human_approval("log", "Really?", {"approved": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint).start()
    job = await machine.run("ask")

    job, _ = await Orders(machine.engine).cancel(job.id)

    assert job.status is JobStatus.CANCELLED


async def test_what_has_ended_or_is_unknown_takes_no_order() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}).start()
    orders = Orders(machine.engine)
    job = await machine.run("work")
    for order in (orders.cancel, orders.pause, orders.resume, orders.retry):
        with pytest.raises(WrongStateError, match="finished"):
            await order(job.id)
        with pytest.raises(UnknownJobError):
            await order("nothing")


async def test_a_job_pauses_before_its_next_step_and_goes_on_where_it_was() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": lambda: {"n": 1}}).start()
    orders = Orders(machine.engine)
    job_id, info = await _running(machine)

    asked = await orders.pause(job_id, who="ann")
    assert (asked.status, asked.pause_requested) == (JobStatus.WAITING_FOR_WORKER, True)
    assert (await orders.pause(job_id)).version == asked.version
    await _report(machine, info, Result.success({"n": 1}))
    await machine.drive()
    job = await machine.job(job_id)
    assert (job.status, job.current_state, job.state_history) == (JobStatus.PAUSED, "end", {"n": 1})

    await orders.resume(job_id)
    await machine.drive()
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", {"n": 1})


async def test_a_pause_can_be_taken_back_before_it_begins() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}).start()
    orders = Orders(machine.engine)
    job_id, info = await _running(machine)
    await orders.pause(job_id)

    await orders.resume(job_id)
    await _report(machine, info, Result.success())
    await machine.drive()

    assert (await machine.job(job_id)).status is JobStatus.FINISHED


async def test_a_new_job_pauses_at_once_and_a_paused_one_can_be_cancelled() -> None:
    machine = await Machine(_work({"success": "end"}), workers={"work": dict}).start()
    orders = Orders(machine.engine)
    job_id = await machine.create("work")

    assert (await orders.pause(job_id)).status is JobStatus.PAUSED
    await machine.drive()
    assert (await machine.job(job_id)).status is JobStatus.PAUSED

    job, _ = await orders.cancel(job_id)
    assert job.status is JobStatus.CANCELLED
    with pytest.raises(WrongStateError, match="cancelled"):
        await orders.resume(job_id)


async def test_a_fan_out_pauses_before_its_aggregator() -> None:
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {}}] * 3, "merge")

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any, succeeded: Any, state_history: Any) -> None:
        state_history["count"] = len(succeeded)
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end(count: int) -> int:
        return count

    machine = await Machine(blueprint, workers={"work": dict}).start()
    orders = Orders(machine.engine)
    job_id = await machine.create("fan")
    await machine.deliver(machine.queue.pop(0))
    await orders.pause(job_id)
    await machine.drive()
    assert (await machine.job(job_id)).status is JobStatus.PAUSED

    await orders.resume(job_id)
    await machine.drive()
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", 3)


async def test_a_job_in_quarantine_is_tried_again_where_it_went_wrong() -> None:
    answers = [Result.failure("PERMANENT_ERROR", "no"), Result.success({"n": 2})]
    machine = await Machine(_work({"success": "end"}), workers={"work": lambda: answers.pop(0)}).start()
    job = await machine.run("work")
    assert job.status is JobStatus.QUARANTINED

    again = await Orders(machine.engine).retry(job.id, who="ann")
    assert (again.status, again.current_state, again.error_message) == (JobStatus.RUNNING, "start", None)
    await machine.drive()

    assert ended(await machine.job(job.id)) == (JobStatus.FINISHED, "end", {"n": 2})
    (retried,) = await machine.events(job.id, "job_retried")
    assert retried.details["was"] == "quarantined"
    assert "no" in retried.details["reason"]


async def test_a_job_that_failed_over_its_end_state_goes_back_to_what_led_there() -> None:
    answers = [Result("bad"), Result.success()]
    blueprint = Blueprint("work")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("middle")

    @blueprint.handler_for("middle")
    async def middle(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "end", "bad": "failed"})

    @blueprint.handler_for("failed", is_end=True)
    async def failed() -> None: ...

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint, workers={"work": lambda: answers.pop(0)}).start()
    job = await machine.run("work")
    assert ended(job)[:2] == (JobStatus.FAILED, "failed")

    again = await Orders(machine.engine).retry(job.id)
    assert again.current_state == "middle"
    await machine.drive()
    assert (await machine.job(job.id)).status is JobStatus.FINISHED


async def test_an_orchestrator_that_dies_over_a_cancel_of_a_child_cancels_it_later() -> None:
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("work", {}, {"success": "end"})

    @parent.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(parent, _work({"success": "end"}), workers={"work": dict}).start()
    parent_id = await machine.create("parent")
    await machine.deliver(machine.queue.pop(0))
    (child_id,) = (await machine.job(parent_id)).child_job_ids
    await Orders(machine.engine).cancel(parent_id)
    machine.queue.clear()  # lost

    await machine.repair(60)
    await machine.drive()

    assert (await machine.job(child_id)).status is JobStatus.CANCELLED
    assert (await machine.job(parent_id)).status is JobStatus.CANCELLED


async def test_killed_in_a_clean_up_the_job_still_ends() -> None:
    deaths = [Killed(), None]

    def sweep() -> None:
        death = deaths.pop(0)
        if death is not None:
            raise death

    machine = await Machine(_work({"success": "end", "cancelled": "clean"}), workers={"work": dict, "sweep": sweep}).start()
    job_id, info = await _running(machine)
    await Orders(machine.engine).cancel(job_id)
    await _report(machine, info, Result(Result.CANCELLED))
    await machine.drive()

    job = await machine.job(job_id)
    assert ended(job)[:2] == (JobStatus.FINISHED, "swept")
    record = await machine.store.get_task(info.id)
    assert record is None or record.state is TaskState.DONE


async def test_an_aggregator_between_two_tries_can_be_paused() -> None:
    tries: list[int] = []
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {}}], "merge")

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not yet")
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint, workers={"work": dict}).start()
    orders = Orders(machine.engine)
    job_id = await machine.create("fan")
    await machine.pump()
    job = await machine.job(job_id)
    assert job.status is JobStatus.AWAITING_RETRY
    assert "'merge'" in (job.error_message or "")

    assert (await orders.pause(job_id)).status is JobStatus.PAUSED
    await machine.tick(100)
    await machine.drive()
    assert len(tries) == 1
    await orders.resume(job_id)
    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.error_message) == (JobStatus.FINISHED, None)


async def test_an_order_that_comes_between_a_timers_look_and_its_commit_loses_no_attempt() -> None:
    answers = [Result.failure("", "again"), Result.success()]
    machine = await Machine(_work({"success": "end"}), workers={"work": lambda: answers.pop(0)}).start()
    orders = Orders(machine.engine)
    job_id = await machine.create("work")
    await machine.pump()
    commit, done = machine.store.commit, []

    async def with_an_order(change: Any) -> Any:
        if change.job.status is JobStatus.WAITING_FOR_WORKER and not done:
            done.append(1)
            await orders.pause(job_id)
            await orders.resume(job_id)
        return await commit(change)

    machine.store.commit = with_an_order  # type: ignore[method-assign]
    await machine.drive()

    assert done
    job = await machine.job(job_id)
    assert (job.status, job.error_message) == (JobStatus.FINISHED, None)


async def test_a_child_whose_parent_has_gone_on_is_not_tried_again_alone() -> None:
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("work", {}, {"success": "end", "failure": "end"})

    @parent.handler_for("end", is_end=True)
    async def end() -> None: ...

    failing = {"work": lambda: Result.failure("PERMANENT_ERROR", "no")}
    machine = await Machine(parent, _work({"success": "end"}), workers=failing).start()
    job = await machine.run("parent")

    with pytest.raises(WrongStateError, match=job.id):
        await Orders(machine.engine).retry(job.child_job_ids[0])


async def test_a_decision_and_another_order_at_the_same_time_both_count() -> None:
    blueprint = Blueprint("ask")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.await_human_approval("log", "Really?", {"approved": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint).start()
    job = await machine.run("ask")
    commit, done = machine.store.commit, []

    async def with_an_order(change: Any) -> Any:
        if not done:
            done.append(1)
            await Orders(machine.engine).pause(job.id)
        return await commit(change)

    machine.store.commit = with_an_order  # type: ignore[method-assign]
    await decide(machine.engine, job.id, "approved")

    assert (await machine.job(job.id)).status is JobStatus.PAUSED
    await Orders(machine.engine).resume(job.id)
    await machine.drive()
    assert (await machine.job(job.id)).status is JobStatus.FINISHED


async def test_a_handler_that_lets_a_cancellation_out_has_failed() -> None:
    blueprint = Blueprint("strange")

    async def slow() -> None:
        await asyncio.sleep(100)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        other = asyncio.ensure_future(slow())
        other.cancel()
        await other

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint).start()
    job = await machine.run("strange")

    assert job.status is JobStatus.QUARANTINED
    assert "CancelledError" in (job.error_message or "")
