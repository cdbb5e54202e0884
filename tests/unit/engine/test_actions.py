"""The five actions, from the handler to the end of the job."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.approvals import decide
from avtomatika.errors import UnknownJobError, WrongStateError
from avtomatika.jobs import Approval, FanOut, JobStatus, SubJob, TaskInfo
from tests.support.machine import Machine, ended


def _task(**options: Any) -> Blueprint:
    """start -> task `work` -> done | bad | late."""
    blueprint = Blueprint("task")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, initial_data: Any) -> None:
        transitions = {"success": "done", "failure": "bad", "timeout": "late"}
        actions.dispatch_task("work", initial_data, transitions, **options)

    @blueprint.handler_for("done", is_end=True)
    async def done(state_history: Any) -> Any:
        return {"history": state_history}

    @blueprint.handler_for("bad", is_end=True)
    async def bad(state_history: Any) -> str:
        return "bad"

    @blueprint.handler_for("late", is_end=True)
    def late() -> str:
        return "late"

    return blueprint


# --- transition_to -------------------------------------------------------------------------------------------------------------


def _counting(length: int) -> Blueprint:
    """Goes around `length` times before it ends."""
    blueprint = Blueprint("counting")

    @blueprint.handler_for("count", is_start=True)
    async def count(actions: Any, state_history: dict[str, Any]) -> None:
        state_history["n"] = state_history.get("n", 0) + 1
        actions.transition_to("count" if state_history["n"] < length else "end")

    @blueprint.handler_for("end", is_end=True)
    async def end(n: int) -> int:
        return n

    return blueprint


async def test_a_transition_makes_no_trip_over_the_broker() -> None:
    machine = await Machine(_counting(9)).start()
    job_id = await machine.create("counting")

    await machine.deliver(machine.queue.pop())

    assert machine.queue == []
    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "end", 9)
    assert job.version == 10
    assert len(await machine.events(job_id, "transition")) == 9


async def test_after_so_many_transitions_the_job_goes_back_to_the_queue() -> None:
    machine = await Machine(_counting(9), max_transitions_per_step=4).start()
    job_id = await machine.create("counting")
    seen = []

    while machine.queue:
        await machine.deliver(machine.queue.pop())
        seen.append((await machine.job(job_id)).version)

    assert seen == [4, 8, 10]
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", 9)


# --- dispatch_task -------------------------------------------------------------------------------------------------------------


async def test_a_task_is_given_to_a_worker_and_its_data_is_merged() -> None:
    machine = await Machine(_task(priority=7.4, timeout_seconds=9), workers={"work": lambda x: {"sum": x + 1}}).start()
    job_id = await machine.create("task", x=41)
    await machine.deliver(machine.queue.pop())

    waiting = await machine.job(job_id)
    assert waiting.status is JobStatus.WAITING_FOR_WORKER
    assert isinstance(waiting.waiting, TaskInfo)
    (message,) = machine.queue
    assert (message.queue, message.priority, message.headers["id"]) == ("cpu.work", 7, waiting.waiting.id)

    await machine.pump()

    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "done", {"history": {"sum": 42}})
    assert (job.waiting, job.error_message, job.retry_count) == (None, None, 0)
    assert await machine.store.get_task(waiting.waiting.id) is None
    assert [e.event_type for e in await machine.events(job_id)] == [
        "job_created",
        "task_dispatched",
        "task_finished",
        "job_finished",
    ]
    assert machine.timers() == []
    assert await machine.store.ledger(machine.now) == []


@pytest.mark.parametrize(
    ("value", "history"),
    [
        (None, {}),
        ({"a": 1}, {"a": 1}),
        (7, {"result": 7}),
        ({"status": "success", "data": {"b": 2}}, {"b": 2}),
        ({"status": "shiny", "colour": "red"}, {"status": "shiny", "colour": "red"}),
    ],
)
async def test_what_a_worker_returns_becomes_data(value: Any, history: dict[str, Any]) -> None:
    machine = await Machine(_task(), workers={"work": lambda: value}).start()

    assert (await machine.run("task")).result == {"history": history}


async def test_the_history_grows_with_handlers_and_results() -> None:
    blueprint = Blueprint("growing")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, state_history: dict[str, Any], context: Any) -> None:
        state_history["mine"] = {"deep": [1]}
        context.initial_data["only"] = "here"
        actions.dispatch_task("work", {}, {"success": "next"})

    @blueprint.handler_for("next")
    async def following(actions: Any, state_history: dict[str, Any], mine: Any, theirs: int) -> None:
        mine["deep"].append(theirs)
        state_history["mine"]["deep"].append(3)
        actions.dispatch_task("work", {}, {"success": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: dict[str, Any], initial_data: Any) -> Any:
        return [state_history, initial_data]

    machine = await Machine(blueprint, workers={"work": lambda: {"theirs": 2, "last": True}}).start()

    job = await machine.run("growing", given=1)

    assert job.state_history["theirs"] == 2
    assert job.state_history["last"] is True
    assert job.state_history["mine"]["deep"][0] == 1
    assert 3 in job.state_history["mine"]["deep"]
    assert job.initial_data == {"given": 1}


async def test_a_task_that_nobody_has_named_waits_in_the_store() -> None:
    machine = await Machine(_task()).start()
    job = await machine.run("task", x=1)
    assert job.status is JobStatus.WAITING_FOR_WORKER
    assert machine.queue == []
    await machine.repair(3600)
    assert machine.queue == []

    machine.workers["work"] = lambda x: {"x": x}
    await machine.store.pin_tasks({"work": "gpu"})
    await machine.tick()
    assert [message.queue for message in machine.queue] == ["gpu.work"]
    await machine.drive()

    assert (await machine.job(job.id)).result == {"history": {"x": 1}}
    assert await machine.store.unrouted_types() == []


async def test_a_task_that_no_worker_takes_in_time_takes_the_timeout_transition() -> None:
    machine = await Machine(_task(dispatch_timeout_seconds=30)).start()

    job = await machine.run("task")

    assert (job.current_state, job.result, job.error_message) == ("late", "late", "No worker took the task in time")
    await machine.store.pin_tasks({"work": "cpu"})
    await machine.tick()
    assert machine.queue == []


async def test_a_plain_task_returns_data_whatever_it_looks_like() -> None:
    blueprint = Blueprint("plain")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("fleet.report", {"x": 1}, {"success": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    machine = await Machine(blueprint).start()
    job_id = await machine.create("plain")
    await machine.deliver(machine.queue.pop())
    (message,) = machine.queue
    waiting = (await machine.job(job_id)).waiting
    assert isinstance(waiting, TaskInfo)
    assert (message.queue, message.declare, waiting.is_plain) == ("fleet", "nothing", True)

    machine.queue.clear()
    await machine.engine.resume(job_id, waiting.id, {"status": "sent", "data": "by post"})
    await machine.pump()

    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", {"status": "sent", "data": "by post"})


# --- dispatch_parallel ---------------------------------------------------------------------------------------------------------


def _parallel(count: int) -> Blueprint:
    blueprint = Blueprint("parallel")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {"n": n}} for n in range(count)], "merge")

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any, aggregation_results: dict[str, Any], state_history: dict[str, Any]) -> None:
        state_history["statuses"] = [result["status"] for result in aggregation_results.values()]
        state_history["ns"] = [result["data"].get("n") for result in aggregation_results.values()]
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end(ns: list[int]) -> list[int]:
        return ns

    return blueprint


async def test_branches_join_in_the_order_of_their_dispatch() -> None:
    machine = await Machine(_parallel(4), workers={"work": lambda n: {"n": n}}).start()
    job_id = await machine.create("parallel")
    await machine.deliver(machine.queue.pop())
    assert isinstance((await machine.job(job_id)).waiting, FanOut)
    machine.queue.reverse()

    await machine.drive()

    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "end", [0, 1, 2, 3])
    assert await machine.store.branches(job_id) == {}
    assert [e.event_type for e in await machine.events(job_id)] == [
        "job_created",
        "tasks_dispatched",
        *["branch_finished"] * 4,
        "aggregated",
        "transition",
        "job_finished",
    ]
    assert await machine.store.ledger(machine.now) == []


async def test_a_fan_out_over_nothing_joins_at_once() -> None:
    machine = await Machine(_parallel(0)).start()

    assert ended(await machine.run("parallel")) == (JobStatus.FINISHED, "end", [])


async def test_a_branch_is_retried_and_an_exhausted_one_counts_as_failed() -> None:
    calls: list[int] = []

    def work(n: int) -> Any:
        calls.append(n)
        if n == 1 or (n == 2 and calls.count(2) < 3):
            return {"status": "failure", "error": {"code": "TRANSIENT_ERROR", "message": "again"}}
        return {"n": n}

    machine = await Machine(_parallel(3), workers={"work": work}).start()

    job = await machine.run("parallel")

    assert ended(job) == (JobStatus.FINISHED, "end", [0, None, 2])
    assert job.state_history["statuses"] == ["success", "failure", "success"]
    assert [calls.count(n) for n in range(3)] == [1, 4, 3]
    assert len(await machine.events(job.id, "branch_retry")) == 5


async def test_an_aggregator_may_fan_out_again() -> None:
    blueprint = Blueprint("twice")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {"n": n}} for n in range(2)], "again")

    @blueprint.aggregator_for("again")
    async def again(actions: Any, aggregation_results: dict[str, Any]) -> None:
        params = [{"n": r["data"]["n"] + 10} for r in aggregation_results.values()]
        actions.dispatch_parallel([{"task_type": "work", "params": p} for p in params], "end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    @blueprint.aggregator_for("end")
    async def merge(aggregation_results: dict[str, Any]) -> list[int]:
        return [result["data"]["n"] for result in aggregation_results.values()]

    machine = await Machine(blueprint, workers={"work": lambda n: {"n": n}}).start()

    assert ended(await machine.run("twice")) == (JobStatus.FINISHED, "end", [10, 11])


# --- run_blueprint -------------------------------------------------------------------------------------------------------------


def _family(child_handler: Any, transitions: dict[str, str]) -> list[Blueprint]:
    parent, child = Blueprint("parent"), Blueprint("child")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("child", {"x": 20}, transitions)

    for state in ("good", "bad", "dropped", "stuck"):

        @parent.handler_for(state, is_end=True)
        async def end(state_history: Any) -> Any:
            return state_history

    child.handler_for("start", is_start=True)(child_handler)
    for state in ("end", "failed", "cancelled"):

        @child.handler_for(state, is_end=True)
        async def over(x: int) -> Any:
            return {"status": "done", "y": 2 * x}

    return [parent, child]


def _goes_to(state: str) -> Any:
    async def handler(actions: Any) -> None:
        actions.transition_to(state)

    return handler


async def _breaks(actions: Any) -> None:
    raise RuntimeError("broken")


FAMILY = {"success": "good", "failure": "bad", "cancelled": "dropped"}


@pytest.mark.parametrize(
    ("handler", "transitions", "status", "state"),
    [
        (_goes_to("end"), FAMILY, JobStatus.FINISHED, "good"),
        (_goes_to("failed"), FAMILY, JobStatus.FINISHED, "bad"),
        (_goes_to("cancelled"), FAMILY, JobStatus.FINISHED, "dropped"),
        (_breaks, FAMILY, JobStatus.FINISHED, "bad"),
        (_breaks, {**FAMILY, "quarantined": "stuck"}, JobStatus.FINISHED, "stuck"),
        (_goes_to("failed"), {"success": "good"}, JobStatus.FAILED, "start"),
        (_goes_to("cancelled"), {"success": "good"}, JobStatus.CANCELLED, "start"),
        (_goes_to("end"), {"failure": "bad"}, JobStatus.FAILED, "start"),
    ],
)
async def test_each_ending_of_a_child_resumes_its_parent_once(
    handler: Any, transitions: dict[str, str], status: JobStatus, state: str
) -> None:
    machine = await Machine(*_family(handler, transitions)).start()

    job = await machine.run("parent")

    assert (job.status, job.current_state) == (status, state)
    child = await machine.job(job.child_job_ids[0])
    assert child.status.is_terminal
    assert (child.parent_job_id, child.initial_data) == (job.id, {"x": 20})
    assert len(await machine.events(job.id, "sub_job_finished")) == 1
    if state == "good":
        assert job.result == {"status": "done", "y": 40}
    assert await machine.store.ledger(machine.now) == []


async def test_a_parent_waits_for_its_child() -> None:
    machine = await Machine(*_family(_goes_to("end"), FAMILY)).start()
    job_id = await machine.create("parent")
    await machine.deliver(machine.queue.pop())

    job = await machine.job(job_id)

    assert job.status is JobStatus.WAITING_FOR_SUB_JOB
    assert job.waiting == SubJob(job.child_job_ids[0], "child", FAMILY)


async def test_an_unknown_child_is_an_error_that_names_those_there_are() -> None:
    parent, _ = _family(_goes_to("end"), FAMILY)
    machine = await Machine(parent).start()

    job = await machine.run("parent")

    assert job.status is JobStatus.QUARANTINED
    assert "'child'" in (job.error_message or "")
    assert job.child_job_ids == ()


# --- await_human_approval ------------------------------------------------------------------------------------------------------


def _approval() -> Blueprint:
    blueprint = Blueprint("approval")

    @blueprint.handler_for("ask", is_start=True)
    async def ask(actions: Any) -> None:
        actions.await_human_approval("log", "Shall we?", {"approved": "yes", "rejected": "no"})

    for state in ("yes", "no"):

        @blueprint.handler_for(state, is_end=True)
        async def end(approval: Any) -> Any:
            return approval

    return blueprint


async def test_a_person_decides() -> None:
    machine = await Machine(_approval()).start()
    job = await machine.run("approval")
    assert job.status is JobStatus.WAITING_FOR_HUMAN
    assert isinstance(job.waiting, Approval)
    assert machine.queue == []

    await decide(machine.engine, job.id, "rejected", comment="too dear", who="ann")
    await machine.drive()

    said = {"decision": "rejected", "comment": "too dear", "by": "ann"}
    assert ended(await machine.job(job.id)) == (JobStatus.FINISHED, "no", said)


async def test_a_decision_counts_once_and_only_where_one_is_asked_for() -> None:
    machine = await Machine(_approval()).start()
    job = await machine.run("approval")

    with pytest.raises(UnknownJobError):
        await decide(machine.engine, "nobody", "approved")
    with pytest.raises(WrongStateError, match="approved, rejected"):
        await decide(machine.engine, job.id, "perhaps")
    with pytest.raises(WrongStateError, match="another question"):
        await decide(machine.engine, job.id, "approved", approval_id="an older one")
    await decide(machine.engine, job.id, "approved")
    with pytest.raises(WrongStateError, match="waits for no decision"):
        await decide(machine.engine, job.id, "rejected")
    await machine.drive()

    assert (await machine.job(job.id)).current_state == "yes"
