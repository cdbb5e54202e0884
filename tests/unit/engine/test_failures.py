"""What goes wrong in handlers and in tasks."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import JobStatus, RetryPolicy
from tests.support.machine import Machine, ended
from tests.support.records import NOW


def _one(handler: Any, name: str = "one") -> Blueprint:
    """A blueprint of one handler, and an end."""
    blueprint = Blueprint(name)
    blueprint.handler_for("start", is_start=True)(handler)

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    @blueprint.handler_for("bad", is_end=True)
    async def bad() -> str:
        return "bad"

    @blueprint.handler_for("late", is_end=True)
    async def late() -> str:
        return "late"

    return blueprint


# --- Handlers ------------------------------------------------------------------------------------------------------------------


async def test_a_handler_that_raises_is_tried_again_with_growing_pauses() -> None:
    times: list[float] = []

    async def handler(actions: Any, state_history: dict[str, Any]) -> None:
        state_history["left"] = "behind"
        times.append(machine.now)
        if len(times) < 4:
            raise RuntimeError("not yet")
        actions.transition_to("end")

    machine = await Machine(_one(handler)).start()

    job = await machine.run("one")

    assert ended(job) == (JobStatus.FINISHED, "end", {"left": "behind"})
    assert (job.retry_count, job.step_failures) == (3, 0)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [0.75 * 2**n <= pause <= 1.25 * 2**n for n, pause in enumerate(pauses)] == [True] * 3
    assert len(await machine.events(job.id, "handler_retry")) == 3


async def test_a_handler_that_keeps_raising_ends_in_quarantine() -> None:
    calls: list[int] = []

    async def handler(actions: Any) -> None:
        calls.append(1)
        raise RuntimeError("never")

    machine = await Machine(_one(handler), job_max_retries=2).start()

    job = await machine.run("one")

    assert (job.status, len(calls)) == (JobStatus.QUARANTINED, 3)
    for part in ("'start'", "RuntimeError", "never", "3 times"):
        assert part in (job.error_message or "")


async def test_while_a_handler_waits_for_its_retry_the_job_says_so() -> None:
    async def handler(actions: Any) -> None:
        raise RuntimeError("never")

    machine = await Machine(_one(handler)).start()
    job_id = await machine.create("one")
    await machine.pump()

    job = await machine.job(job_id)

    assert job.status is JobStatus.AWAITING_RETRY
    assert "RuntimeError: never" in (job.error_message or "")


async def test_failures_in_a_row_are_those_of_one_state() -> None:
    blueprint = Blueprint("two")
    calls: dict[str, int] = {}

    def flaky(state: str) -> None:
        calls[state] = calls.get(state, 0) + 1
        if calls[state] < 3:
            raise RuntimeError("not yet")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        flaky("start")
        actions.transition_to("next")

    @blueprint.handler_for("next")
    async def following(actions: Any) -> None:
        flaky("next")
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await Machine(blueprint, job_max_retries=2).start()

    job = await machine.run("two")

    assert (job.status, job.retry_count) == (JobStatus.FINISHED, 4)


async def test_an_aggregator_that_raises_is_tried_again() -> None:
    blueprint = Blueprint("parallel")
    calls: list[int] = []

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"task_type": "work"} for _ in range(2)], "merge")

    @blueprint.handler_for("merge", is_end=True)
    async def unused() -> None: ...

    @blueprint.aggregator_for("merge")
    async def merge(aggregation_results: dict[str, Any]) -> int:
        calls.append(len(aggregation_results))
        if len(calls) < 3:
            raise RuntimeError("not yet")
        return len(aggregation_results)

    machine = await Machine(blueprint, workers={"work": dict}).start()

    job = await machine.run("parallel")

    assert ended(job) == (JobStatus.FINISHED, "merge", 2)
    assert calls == [2, 2, 2]
    assert await machine.store.branches(job.id) == {}


async def _decides_nothing(actions: Any) -> None: ...


async def _decides_twice(actions: Any) -> None:
    actions.transition_to("end")
    actions.transition_to("end")


async def _asks_for_a_stranger(actions: Any, stranger: Any) -> None:
    actions.transition_to("end")


async def _leaves_a_date(actions: Any, state_history: dict[str, Any]) -> None:
    state_history["when"] = datetime(2030, 1, 1)
    actions.transition_to("end")


async def _leaves_a_nan(actions: Any, state_history: dict[str, Any]) -> None:
    state_history["x"] = float("nan")
    actions.transition_to("end")


async def _sends_a_set(actions: Any) -> None:
    actions.dispatch_task("work", {"x": {1, 2}}, {"success": "end"})


async def _needs_a_set(actions: Any) -> None:
    actions.dispatch_task("work", {}, {"success": "end"}, resource_requirements={"gpus": {1}})


async def _fans_out_a_date(actions: Any) -> None:
    actions.dispatch_parallel([{"task_type": "work", "params": {"x": datetime(2030, 1, 1)}}], "end")


async def _starts_a_child_with_a_date(actions: Any) -> None:
    actions.run_blueprint("one", {"when": datetime(2030, 1, 1)}, {"success": "end"})


def _named(name: str) -> Any:
    async def handler(actions: Any) -> None:
        actions.transition_to(name)

    return handler


@pytest.mark.parametrize(
    ("handler", "parts"),
    [
        (_decides_nothing, ("_decides_nothing", "'start'", "no action")),
        (_decides_twice, ("one action", "transition_to('end')")),
        (_asks_for_a_stranger, ("stranger",)),
        (_leaves_a_date, ("'start'", "state_history", "not JSON")),
        (_leaves_a_nan, ("not JSON",)),
        (_sends_a_set, ("'work'", "not JSON")),
        (_needs_a_set, ("'work'", "gpus is {1}")),
        (_fans_out_a_date, ("'work'", "not JSON")),
        (_starts_a_child_with_a_date, ("'one'", "not JSON")),
        (_named("nowhere"), ("'nowhere'", "no handler")),
    ],
)
async def test_a_handler_that_breaks_a_rule_is_quarantined_at_once(handler: Any, parts: tuple[str, ...]) -> None:
    machine = await Machine(_one(handler), workers={"work": lambda **_: {}}).start()

    job = await machine.run("one")

    assert (job.status, job.retry_count) == (JobStatus.QUARANTINED, 0)
    assert [part for part in parts if part not in (job.error_message or "")] == []
    assert machine.timers() == []
    assert await machine.store.ledger(machine.now) == []


async def test_a_result_that_is_not_json_is_a_clear_error() -> None:
    blueprint = Blueprint("ending")

    @blueprint.handler_for("start", is_start=True, is_end=True)
    async def start() -> Any:
        return object()

    machine = await Machine(blueprint).start()

    job = await machine.run("ending")

    assert job.status is JobStatus.QUARANTINED
    assert "not JSON" in (job.error_message or "")
    assert job.result is None


async def test_a_blueprint_that_nobody_here_knows_is_quarantined() -> None:
    machine = await Machine(_one(_named("end"))).start()
    job_id = await machine.create("one")
    machine.registry._by_name.clear()

    await machine.drive()  # other orchestrators may know it: it is tried a few times

    job = await machine.job(job_id)
    assert job.status is JobStatus.QUARANTINED
    assert "'one'" in (job.error_message or "")


# --- Tasks ---------------------------------------------------------------------------------------------------------------------


def _dispatching(transitions: dict[str, str] | None = None, **options: Any) -> Blueprint:
    given = {"success": "end", "failure": "bad"} if transitions is None else transitions

    async def handler(actions: Any, initial_data: Any) -> None:
        actions.dispatch_task("work", initial_data, given, **options)

    return _one(handler)


def _fails(code: str, times: int = 1000) -> Any:
    calls: list[float] = []

    def work() -> Any:
        calls.append(1)
        if len(calls) <= times:
            return {"status": "failure", "error": {"code": code, "message": "a reason"}}
        return {"calls": len(calls)}

    return work


async def test_a_transient_failure_is_tried_again_as_a_new_attempt() -> None:
    machine = await Machine(_dispatching(), workers={"work": _fails("TRANSIENT_ERROR", 2)}).start()

    job = await machine.run("one")

    assert ended(job) == (JobStatus.FINISHED, "end", {"calls": 3})
    assert job.retry_count == 2
    finished = await machine.events(job.id, "task_finished")
    assert [event.attempt for event in finished] == [1, 2, 3]
    assert len({event.task_id for event in finished}) == 3
    assert 0.75 * 3 <= machine.now - NOW <= 1.25 * 3


async def test_between_two_attempts_the_job_awaits_its_retry() -> None:
    machine = await Machine(_dispatching(), workers={"work": _fails("", 1)}).start()
    job_id = await machine.create("one")
    await machine.pump()

    job = await machine.job(job_id)
    assert (job.status, job.error_message) == (JobStatus.AWAITING_RETRY, "a reason")
    await machine.tick(0.7)
    assert machine.queue == []
    await machine.tick(0.6)
    assert (await machine.job(job_id)).status is JobStatus.WAITING_FOR_WORKER
    assert [message.queue for message in machine.queue] == ["cpu.work"]


@pytest.mark.parametrize(
    ("code", "options", "status", "state", "calls"),
    [
        ("TRANSIENT_ERROR", {}, JobStatus.QUARANTINED, "start", 4),
        ("", {}, JobStatus.QUARANTINED, "start", 4),
        ("TRANSIENT_ERROR", {"retries": RetryPolicy(2)}, JobStatus.QUARANTINED, "start", 2),
        ("TRANSIENT_ERROR", {"retries": RetryPolicy(2, then="failure")}, JobStatus.FINISHED, "bad", 2),
        ("PERMANENT_ERROR", {}, JobStatus.QUARANTINED, "start", 1),
        ("PERMANENT_ERROR", {"retries": RetryPolicy(then="failure")}, JobStatus.FINISHED, "bad", 1),
        ("INVALID_INPUT_ERROR", {}, JobStatus.FAILED, "start", 1),
        ("NO_PAPER", {}, JobStatus.FINISHED, "bad", 1),
    ],
)
async def test_the_error_class_decides(code: str, options: Any, status: JobStatus, state: str, calls: int) -> None:
    machine = await Machine(_dispatching(**options), workers={"work": _fails(code)}).start()

    job = await machine.run("one")

    assert (job.status, job.current_state) == (status, state)
    assert len(await machine.events(job.id, "task_finished")) == calls
    assert "a reason" in (job.error_message or "")
    assert machine.timers() == []


async def test_an_unlisted_status_fails_the_job() -> None:
    machine = await Machine(_dispatching(), workers={"work": lambda: {"status": "maybe", "data": {"x": 1}}}).start()

    job = await machine.run("one")

    assert job.status is JobStatus.FAILED
    assert "'maybe'" in (job.error_message or "")
    assert job.state_history == {"x": 1}


async def test_a_listed_status_of_ones_own_takes_its_transition() -> None:
    worker = {"work": lambda: {"status": "maybe", "data": {"x": 1}}}
    machine = await Machine(_dispatching({"maybe": "end"}), workers=worker).start()

    assert ended(await machine.run("one")) == (JobStatus.FINISHED, "end", {"x": 1})


async def test_a_cancelled_task_without_a_transition_cancels_the_job() -> None:
    machine = await Machine(_dispatching(), workers={"work": lambda: {"status": "cancelled"}}).start()

    assert (await machine.run("one")).status is JobStatus.CANCELLED
