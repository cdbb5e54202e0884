"""Every field of a RetryPolicy, in a single dispatch and in a branch of a fan-out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import JobStatus, RetryPolicy
from tests.support.machine import Machine

both = pytest.mark.parametrize("fans_out", [False, True], ids=["dispatch_task", "dispatch_parallel"])


def _blueprint(fans_out: bool, make: Any, **options: Any) -> Blueprint:
    blueprint = Blueprint("b")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        retries = make()
        if fans_out:
            actions.dispatch_parallel([{"task_type": "work", "retries": retries, **options}], "join", on_failure="fail_fast")
        else:
            actions.dispatch_task("work", {}, {"success": "end", "failure": "bad", "timeout": "late"}, retries=retries, **options)

    @blueprint.aggregator_for("join")
    async def join(actions: Any) -> None:
        actions.transition_to("end")

    for state in ("end", "bad", "late"):
        blueprint.handler_for(state, is_end=True)(lambda: None)
    return blueprint


def _failing(code: str, calls: list[float], machine: list[Machine]) -> Any:
    def work() -> dict[str, Any]:
        calls.append(machine[0].now)
        return {"status": "failure", "error": {"code": code, "message": "no"}}

    return work


async def _run(fans_out: bool, policy: RetryPolicy, code: str, **options: Any) -> tuple[Any, list[float]]:
    calls: list[float] = []
    box: list[Machine] = []
    box.append(Machine(_blueprint(fans_out, lambda: policy, **options), workers={"work": _failing(code, calls, box)}))
    await box[0].start()
    return await box[0].run("b"), calls


@both
async def test_max_attempts(fans_out: bool) -> None:
    job, calls = await _run(fans_out, RetryPolicy(max_attempts=2), "TRANSIENT_ERROR")

    assert len(calls) == 2
    assert job.status is (JobStatus.FAILED if fans_out else JobStatus.QUARANTINED)


@both
async def test_pauses(fans_out: bool) -> None:
    policy = RetryPolicy(max_attempts=5, backoff_seconds=4, max_backoff_seconds=10, jitter=0)

    _, calls = await _run(fans_out, policy, "")

    assert [later - earlier for earlier, later in itertools.pairwise(calls)] == [4, 8, 10, 10]


@both
async def test_retry_on(fans_out: bool) -> None:
    policy = RetryPolicy(max_attempts=3, retry_on=["RATE_LIMITED"])

    assert len((await _run(fans_out, policy, "RATE_LIMITED"))[1]) == 3
    assert len((await _run(fans_out, policy, "TRANSIENT_ERROR"))[1]) == 1


async def test_then() -> None:
    job, _ = await _run(False, RetryPolicy(max_attempts=1, then="failure"), "TRANSIENT_ERROR")

    assert (job.status, job.current_state) == (JobStatus.FINISHED, "bad")


@both
async def test_a_timeout_that_is_tried_again(fans_out: bool) -> None:
    policy = RetryPolicy(max_attempts=2, retry_on=["TIMEOUT"], backoff_seconds=1)
    machine = await Machine(_blueprint(fans_out, lambda: policy, timeout_seconds=5), workers={"work": lambda: None}).start()
    job_id = await machine.create("b")
    for attempt in (1, 2):
        await machine.deliver(machine.queue.pop(0)) if attempt == 1 else None
        task = machine.queue.pop()
        assert task.queue == "cpu.work"
        assert await machine.claim(task.headers["id"])
        await machine.tick(6)  # its worker never answers
        await machine.pump()
        await machine.tick(2)  # the pause

    job = await machine.job(job_id)
    assert (job.status, job.current_state) == ((JobStatus.FAILED, "start") if fans_out else (JobStatus.FINISHED, "late"))
    assert len(machine.stopped) == 2  # each worker was told that its attempt is over


@both
async def test_a_bad_value_is_refused_at_the_call_and_not_tried_again(fans_out: bool) -> None:
    machine = await Machine(_blueprint(fans_out, lambda: RetryPolicy(jitter=3))).start()

    job = await machine.run("b")

    assert (job.status, job.retry_count) == (JobStatus.QUARANTINED, 0)
    assert job.error_message == "RetryPolicy.jitter is a share of the wait, from 0 (none) to 1, not 3"


@both
async def test_what_is_no_policy_is_refused_at_the_call(fans_out: bool) -> None:
    machine = await Machine(_blueprint(fans_out, lambda: {"max_attempts": 3})).start()

    job = await machine.run("b")

    assert job.status is JobStatus.QUARANTINED
    assert "retries must be a RetryPolicy, such as RetryPolicy(max_attempts=5" in (job.error_message or "")
