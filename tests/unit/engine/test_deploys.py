"""Old and new versions of a blueprint: which jobs a new one strands, moving them, and what happens where nobody looked."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.approvals import decide
from avtomatika.engine.deploys import Deploys
from avtomatika.engine.edits import Edit
from avtomatika.engine.orders import Orders
from avtomatika.errors import ConfigurationError
from avtomatika.jobs import Job, JobStatus, TaskInfo
from tests.support.machine import Machine


def _old() -> Blueprint:
    """start -> what `how` says -> check -> end."""
    blueprint = Blueprint("b")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, how: str = "task") -> None:
        match how:
            case "task":
                actions.dispatch_task("work", {}, {"success": "check", "failure": "end"})
            case "branches":
                actions.dispatch_parallel([{"type": "work"}, {"type": "work"}], "check", failure_state="end")
            case "person":
                actions.await_human_approval("log", "Well?", {"approved": "check"}, timeout_seconds=60, on_timeout="check")
            case "child":
                actions.run_blueprint("child", {}, {"success": "check"})
            case "raise":
                raise RuntimeError("not yet")
            case "check":
                actions.transition_to("check")

    @blueprint.handler_for("check")
    async def check(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.aggregator_for("check")
    async def join(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        return "old"

    return blueprint


def _new() -> Blueprint:
    """The same with `check` called `verify`."""
    blueprint = Blueprint("b")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("verify")

    @blueprint.handler_for("verify")
    async def verify(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.aggregator_for("verify")
    async def join(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        return "new"

    return blueprint


def _child() -> Blueprint:
    blueprint = Blueprint("child")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.await_human_approval("log", "Well?", {"approved": "end"})

    blueprint.handler_for("end", is_end=True)(lambda: None)
    return blueprint


async def _machine() -> Machine:
    return await Machine(_old(), _child(), workers={"work": dict}).start()


async def _waiting(machine: Machine, how: str) -> Job:
    """A job of the old version; a task's message stays in the queue."""
    job_id = await machine.create("b", how=how)
    while any(not message.queue.startswith("cpu.") for message in machine.queue):
        message = next(message for message in machine.queue if not message.queue.startswith("cpu."))
        machine.queue.remove(message)
        await machine.deliver(message)
    return await machine.job(job_id)


async def _deploy(machine: Machine, blueprint: Blueprint) -> Deploys:
    """Every orchestrator now has this version."""
    machine.registry._by_name[blueprint.name] = blueprint
    await machine.restart_orchestrator()
    return Deploys(machine.engine, Orders(machine.engine))


async def _finish(machine: Machine, job: Job) -> Job:
    """Lets what the job waits for end well."""
    await machine.drive()
    now = await machine.job(job.id)
    if now.status in (JobStatus.WAITING_FOR_HUMAN, JobStatus.WAITING_FOR_SUB_JOB):
        await decide(machine.engine, now.child_job_ids[0] if now.child_job_ids else job.id, "approved")
        await machine.drive()
    return await machine.job(job.id)


# --- Which jobs are stranded ---------------------------------------------------------------------------------------------------


def test_the_version_of_a_blueprint_is_the_same_everywhere() -> None:
    assert _old().version == _old().version
    assert (_old().version, _new().version) == ("c5d36320f338158e", "d3fbce53d680ecda")  # by any Python, in any process


@pytest.mark.parametrize(
    ("how", "roles"),
    [
        ("task", ["the state after 'success'"]),
        ("branches", ["the aggregator of"]),
        ("person", ["the state after 'approved'"]),
        ("child", ["the state after 'success'"]),
        ("raise", []),
    ],
)
async def test_jobs_that_wait_for_states_which_are_gone_are_named(how: str, roles: list[str]) -> None:
    machine = await _machine()
    job = await _waiting(machine, how)
    assert job.blueprint_version == machine.registry.get("b").version
    assert await (await _deploy(machine, _old())).stranded() == []

    found = await (await _deploy(machine, _new())).stranded()

    assert [(item.job.id, [(m.role, m.state) for m in item.missing]) for item in found] == (
        [(job.id, [(role, "check") for role in roles])] if roles else []
    )
    for item in found:
        assert job.id in item.text
        assert f"{roles[0]} 'check' does not exist here" in item.text
    assert await (await _deploy(machine, _new())).stranded(["child"]) == []


async def test_a_job_whose_blueprint_is_gone_is_stranded_and_one_that_has_ended_is_not() -> None:
    machine = await _machine()
    ended = await machine.run("b", how="check")
    job = await _waiting(machine, "person")
    del machine.registry._by_name["b"]

    (found,) = await Deploys(machine.engine, Orders(machine.engine)).stranded()

    assert ended.status is JobStatus.FINISHED
    assert (found.job.id, found.missing) == (job.id, ())
    assert "its blueprint is not here" in found.text


async def test_many_jobs_are_looked_at_page_by_page() -> None:
    machine = await _machine()
    jobs = {(await _waiting(machine, "person")).id for _ in range(250)}

    found = await (await _deploy(machine, _new())).stranded()

    assert {item.job.id for item in found} == jobs


# --- Moving them ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["task", "branches", "person", "child"])
async def test_a_moved_job_goes_on_with_the_new_code(how: str) -> None:
    machine = await _machine()
    job = await _waiting(machine, how)
    deploys = await _deploy(machine, _new())

    moved = await deploys.migrate(job.id, {"check": "verify"}, "ann")

    assert moved is not None
    assert moved.blueprint_version == machine.registry.get("b").version
    assert await deploys.stranded() == []
    (event,) = await machine.events(job.id, "job_migrated")
    assert event.details == {
        "by": "ann", "states": {"check": "verify"}, "from": job.blueprint_version, "to": moved.blueprint_version,
    }  # fmt: skip
    assert (await _finish(machine, job)).result == "new"


@pytest.mark.parametrize("moment", ["pending", "awaiting_retry", "paused"])
async def test_a_job_that_is_about_to_run_goes_on_from_its_new_state(moment: str) -> None:
    machine = await _machine()
    machine.registry._by_name["b"] = old = _old()
    job_id = await machine.create("b", how="raise" if moment == "awaiting_retry" else "check")
    if moment == "awaiting_retry":
        await machine.pump()
    elif moment == "paused":
        await Orders(machine.engine).pause(job_id)
    assert (await machine.job(job_id)).status.value == moment
    new = Blueprint("b")
    new.handler_for("begin", is_start=True)(lambda actions: actions.transition_to("end"))
    new.handler_for("end", is_end=True)(lambda: "moved")
    deploys = await _deploy(machine, new)
    (stranded,) = await deploys.stranded()
    assert [(m.role, m.state) for m in stranded.missing] == [("its state", "start")]

    assert await deploys.migrate(job_id, {"start": "nowhere"}) is None
    assert (await machine.job(job_id)).blueprint_version == old.version
    assert await deploys.migrate(job_id, {"start": "begin"}) is not None
    if moment == "paused":
        assert (await machine.job(job_id)).status is JobStatus.PAUSED
        await Orders(machine.engine).resume(job_id)
    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.result) == (JobStatus.FINISHED, "moved")
    assert machine.timers() == []
    assert await machine.store.ledger(machine.now + 1) == []


async def test_a_moved_attempt_that_loses_its_worker_keeps_its_new_states() -> None:
    machine = await _machine()
    job = await _waiting(machine, "task")
    assert isinstance(job.waiting, TaskInfo)
    machine.queue.clear()
    assert await machine.claim(job.waiting.id)
    deploys = await _deploy(machine, _new())
    await deploys.migrate(job.id, {"check": "verify"})

    await machine.restart_worker()
    await machine.drive()

    assert (await machine.job(job.id)).result == "new"


def test_a_move_to_a_state_that_does_not_exist_is_refused() -> None:
    machine = Machine(_new())
    machine._orchestrate()
    deploys = Deploys(machine.engine, Orders(machine.engine))

    deploys.check_moves({"check": "verify"}, ["b", "unknown"])
    with pytest.raises(ConfigurationError, match="state 'verifi'"):
        deploys.check_moves({"check": "verifi"}, ["b"])


async def test_a_stranded_job_is_ended() -> None:
    machine = await _machine()
    job = await _waiting(machine, "child")
    deploys = await _deploy(machine, _new())

    assert await deploys.fail(job.id, "stranded", "ann") is not None
    await machine.drive()

    job = await machine.job(job.id)
    assert (job.status, job.error_message) == (JobStatus.FAILED, "stranded")
    assert job.failure is not None
    assert job.failure.code == "STRANDED"
    assert (await machine.job(job.child_job_ids[0])).status is JobStatus.CANCELLED
    assert await deploys.fail(job.id, "again") is None
    assert await deploys.pin(job.id) is None
    assert await deploys.migrate(job.id, {"check": "verify"}) is None


# --- At run time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["task", "branches"])
async def test_a_pinned_job_pauses_in_code_without_its_state_and_goes_on_in_its_own(how: str) -> None:
    machine = await _machine()
    job = await _waiting(machine, how)
    deploys = await _deploy(machine, _new())
    await deploys.pin(job.id, "ann")
    await machine.drive()

    paused = await machine.job(job.id)
    assert paused.status is JobStatus.PAUSED
    assert f"pinned to version {job.blueprint_version}" in (paused.error_message or "")
    assert f"avtomatika job resume {job.id}" in (paused.error_message or "")

    await _deploy(machine, _old())
    await Orders(machine.engine).resume(job.id)
    await machine.drive()
    job = await machine.job(job.id)
    assert (job.status, job.result, job.error_message) == (JobStatus.FINISHED, "old", None)


@pytest.mark.parametrize("moment", ["pending", "awaiting_retry"])
async def test_a_pinned_job_that_is_about_to_run_runs(moment: str) -> None:
    machine = await _machine()
    job_id = await machine.create("b", how="raise" if moment == "awaiting_retry" else "check")
    if moment == "awaiting_retry":
        await machine.pump()
        machine.store._jobs[job_id].initial_data["how"] = "check"

    await Deploys(machine.engine, Orders(machine.engine)).pin(job_id)
    await machine.drive()

    assert (await machine.job(job_id)).status is JobStatus.FINISHED


@pytest.mark.parametrize("how", ["task", "branches"])
async def test_a_job_whose_state_is_gone_is_tried_a_few_times_and_then_waits_in_quarantine(how: str) -> None:
    machine = await _machine()
    job = await _waiting(machine, how)
    old = job.blueprint_version
    await _deploy(machine, _new())
    await machine.drive()

    job = await machine.job(job.id)
    assert (job.status, job.current_state) == (JobStatus.QUARANTINED, "check" if how == "task" else "start")
    assert job.failure is not None
    assert (job.failure.code, job.failure.attempts) == ("UNKNOWN_STATE", 4)
    said = job.error_message or ""
    new = machine.registry.get("b").version
    for part in ("'check'", f"began with version {old}, loaded here is {new}", f"quarantine retry {job.id} --state STATE"):
        assert part in said
    retries = await machine.events(job.id, "handler_retry")
    assert len(retries) == 3  # and no more: nothing spins

    await Orders(machine.engine).retry(job.id, edit=Edit(state="verify"))
    await machine.drive()
    job = await machine.job(job.id)
    assert (job.result, job.blueprint_version) == ("new", new)


async def test_an_orchestrator_with_the_right_code_takes_over_during_an_upgrade() -> None:
    machine = await _machine()
    job = await _waiting(machine, "task")
    await _deploy(machine, _new())
    await machine.pump()
    assert (await machine.job(job.id)).status is JobStatus.AWAITING_RETRY

    await _deploy(machine, _old())
    await machine.drive()

    job = await machine.job(job.id)
    assert (job.status, job.result, job.error_message) == (JobStatus.FINISHED, "old", None)


async def test_a_state_that_its_own_version_does_not_have_is_quarantined_at_once() -> None:
    blueprint, target = Blueprint("b"), "nowhere"

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to(target)

    machine = await Machine(blueprint).start()

    job = await machine.run("b")

    assert (job.status, job.retry_count) == (JobStatus.QUARANTINED, 0)
    assert "has no handler for state 'nowhere'" in (job.error_message or "")
