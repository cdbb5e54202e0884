"""Fan-outs from the handler to the end of the job: policies, deadlines, limits, and what becomes of the branches still out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import FanOut, Job, JobStatus, Limit, Message, RetryPolicy, TaskInfo, TaskState
from tests.support.machine import Killed, Machine, ended

ONCE = RetryPolicy(max_attempts=1)


def _blueprint(count: int = 100, *, end_state: str = "end", branch: dict[str, Any] | None = None, **options: Any) -> Blueprint:
    """start -> so many branches of `work` -> merge (notes what it was given) -> end; `bad` for a failure state."""
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, state_history: dict[str, Any]) -> None:
        state_history["before"] = True
        tasks = [{"task_type": "work", "params": {"n": n}, "retries": ONCE, **(branch or {})} for n in range(count)]
        actions.dispatch_parallel(tasks, "merge", **options)

    @blueprint.aggregator_for("merge")
    async def merge(
        actions: Any, aggregation_results: Any, succeeded: Any, failed: Any, missing: Any, state_history: dict[str, Any]
    ) -> None:
        assert list(aggregation_results) == [t for t in aggregation_results if t in succeeded or t in failed]
        assert {**succeeded, **failed} == aggregation_results
        state_history["good"] = [result["data"]["n"] for result in succeeded.values()]
        state_history["bad"] = [result["error"]["message"] for result in failed.values()]
        state_history["missing"] = len(missing)
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end(good: list[int], bad: list[str], missing: int) -> list[int]:
        return [len(good), len(bad), missing]

    @blueprint.handler_for("bad", is_end=True)
    async def bad(fan_out: Any, context: Any) -> Any:
        return fan_out

    return blueprint


def _works(*failing: int, code: str = "BAD_PICTURE") -> dict[str, Callable[..., Any]]:
    """A worker whose task fails for these numbers."""

    def work(n: int) -> Any:
        if n in failing:
            return {"status": "failure", "error": {"code": code, "message": f"number {n}"}}
        return {"n": n}

    return {"work": work}


SEVEN = (3, 20, 21, 22, 50, 80, 99)


async def _run(machine: Machine) -> Job:
    """A job in which each branch is taken only when the orchestrator has dealt with the one before."""
    job_id = await machine.create("fan")
    while machine.queue:
        control = [message for message in machine.queue if message.headers["task"] != "work"]
        message = (control or machine.queue)[0]
        machine.queue.remove(message)
        await machine.deliver(message)
    await machine.drive()
    return await machine.job(job_id)


async def _over(machine: Machine, job: Job) -> None:
    """Nothing is left of a fan-out that is over."""
    assert await machine.store.branches(job.id) == {}
    assert machine.store._tasks == {}
    assert machine.timers() == []
    assert await machine.store.ledger(machine.now) == []


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ({}, [93, 7, 0]),
        ({"on_failure": "collect"}, [93, 7, 0]),
        ({"on_failure": {"tolerate": 0.07}}, [93, 7, 0]),
        ({"on_failure": {"tolerate": 0.5}}, [93, 7, 0]),
        ({"on_failure": {"at_least": 93}}, [93, 6, 1]),
        ({"on_failure": {"at_least": 10}}, [10, 1, 89]),
        ({"on_failure": {"at_least": 1}}, [1, 0, 99]),
    ],
)
async def test_a_good_verdict_on_a_hundred_of_which_seven_fail(options: dict[str, Any], result: list[int]) -> None:
    machine = await Machine(_blueprint(**options), workers=_works(*SEVEN)).start()

    job = await _run(machine)

    assert ended(job) == (JobStatus.FINISHED, "end", result)
    assert job.state_history["bad"] == [f"number {n}" for n in SEVEN[: result[1]]]
    counts = dict(zip(("succeeded", "failed", "missing"), result, strict=True))
    (aggregated,) = await machine.events(job.id, "aggregated")
    assert aggregated.details == counts
    settled = await machine.events(job.id, "fan_out_settled")
    assert [event.details for event in settled] == ([counts] if result[2] else [])
    await _over(machine, job)


@pytest.mark.parametrize(
    ("options", "counts", "reason"),
    [
        ({"on_failure": "fail_fast"}, [3, 1, 96], "1 of 100 branches failed, and none may; "),
        ({"on_failure": {"tolerate": 0.05}}, [75, 6, 19], "6 of 100 branches failed, more than the 5 tolerated; "),
        ({"on_failure": {"tolerate": 0}}, [3, 1, 96], "1 of 100 branches failed, and none may; "),
        ({"on_failure": {"at_least": 94}}, [93, 7, 0], "7 of 100 branches failed, so that 94 cannot succeed any more; "),
        ({"on_failure": {"at_least": 98}}, [19, 3, 78], None),
    ],
)
@pytest.mark.parametrize("failure_state", [None, "bad"])
async def test_a_bad_verdict_on_a_hundred_of_which_seven_fail(
    options: dict[str, Any], counts: list[int], reason: str | None, failure_state: str | None
) -> None:
    machine = await Machine(_blueprint(**options, failure_state=failure_state), workers=_works(*SEVEN)).start()

    job = await _run(machine)

    said = dict(zip(("succeeded", "failed", "missing"), counts, strict=True))
    if failure_state is None:
        assert ended(job) == (JobStatus.FAILED, "start", None)
    else:
        assert ended(job) == (JobStatus.FINISHED, "bad", said)
    assert job.state_history == {"before": True, "fan_out": said}
    assert (job.error_message or "").startswith(reason or "3 of 100")
    assert "first: work: BAD_PICTURE: number 3" in (job.error_message or "")
    (event,) = await machine.events(job.id, "fan_out_failed")
    assert event.details == {**said, "reason": job.error_message}
    assert (event.state, event.next_state) == ("start", failure_state)
    assert await machine.events(job.id, "aggregated", "fan_out_settled") == []
    await _over(machine, job)


async def test_a_failure_state_named_failed_fails_the_job_with_the_sentence() -> None:
    blueprint = _blueprint(3, on_failure="fail_fast", failure_state="failed")

    @blueprint.handler_for("failed", is_end=True)
    async def failed() -> str:
        return "cleaned up"

    machine = await Machine(blueprint, workers=_works(0)).start()

    job = await machine.run("fan")

    assert ended(job) == (JobStatus.FAILED, "failed", "cleaned up")
    assert job.error_message == "1 of 3 branches failed, and none may; first: work: BAD_PICTURE: number 0"


async def test_a_branch_fails_for_its_policy_only_after_its_retries() -> None:
    calls: Counter[int] = Counter()

    def work(n: int) -> Any:
        calls[n] += 1
        if n == 1 and calls[1] < 3:
            return {"status": "failure", "error": {"code": "TRANSIENT_ERROR", "message": "no GPU"}}
        return {"n": n}

    branch = {"retries": RetryPolicy(max_attempts=3)}
    machine = await Machine(_blueprint(3, branch=branch, on_failure="fail_fast"), workers={"work": work}).start()
    assert ended(await machine.run("fan")) == (JobStatus.FINISHED, "end", [3, 0, 0])

    calls.clear()
    branch["retries"] = RetryPolicy(max_attempts=2)
    job = await machine.run("fan")
    assert (job.status, calls[1]) == (JobStatus.FAILED, 2)
    assert (job.error_message or "").endswith("first: work: TRANSIENT_ERROR: no GPU")


async def test_statuses_of_ones_own_are_successes_and_cancelled_branches_are_not() -> None:
    answers = [{"status": "shiny", "data": {"n": 1}}, {"status": "cancelled", "error": {"code": "", "message": "stopped"}}]
    machine = await Machine(_blueprint(2), workers={"work": lambda n: answers[n]}).start()

    assert (await machine.run("fan")).result == [1, 1, 0]


# --- What is still out --------------------------------------------------------------------------------------------------------


async def _fanned_out(machine: Machine) -> tuple[str, FanOut, list[str]]:
    """A job that has just fanned out, and the ids of its branches in their order."""
    job_id = await machine.create("fan")
    await machine.deliver(machine.queue.pop(0))
    waiting = (await machine.job(job_id)).waiting
    assert isinstance(waiting, FanOut)
    return job_id, waiting, list(await machine.store.branches(job_id))


def _of(machine: Machine, task_id: str) -> Message:
    """Takes the message of an attempt out of the queue."""
    (message,) = [message for message in machine.queue if message.headers["id"] == task_id]
    machine.queue.remove(message)
    return message


async def _report(machine: Machine, job_id: str, task_id: str, envelope: Any, fanout: FanOut) -> None:
    """The result of an attempt arrives, whatever has become of it."""
    await machine.engine.resume(job_id, task_id, {**envelope, "meta": {"type": "work", "worker_id": "worker"}}, fanout.id)


GOOD = {"status": "success", "data": {"n": 7}}
BAD = {"status": "failure", "error": {"code": "BAD_PICTURE", "message": "number 7"}}


async def test_fail_fast_stops_those_that_run_and_drops_those_that_wait() -> None:
    machine = await Machine(_blueprint(10, on_failure="fail_fast", failure_state="bad"), workers=_works()).start()
    job_id, fanout, branches = await _fanned_out(machine)
    sent = {task_id: _of(machine, task_id) for task_id in branches if (await _state(machine, task_id)) is TaskState.DISPATCHED}
    running = [task_id for task_id in list(sent)[1:3] if await machine.claim(task_id)]
    assert len(running) == 2

    await _report(machine, job_id, branches[0], BAD, fanout)
    await machine.pump()

    assert sorted(machine.stopped) == sorted(("worker", task_id) for task_id in running)
    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "bad", {"succeeded": 0, "failed": 1, "missing": 9})
    await _over(machine, job)
    assert not any([await machine.claim(task_id) for task_id in branches])
    for message in sent.values():  # those that were on the broker already do nothing
        await machine.deliver(message)
    assert machine.queue == []
    assert await machine.job(job_id) == job


async def _state(machine: Machine, task_id: str) -> TaskState | None:
    record = await machine.store.get_task(task_id)
    return None if record is None else record.state


async def test_enough_successes_stop_the_rest_before_the_aggregator_runs() -> None:
    told: list[set[str]] = []
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"type": "work", "params": {"n": n}} for n in range(6)], "merge", on_failure={"at_least": 2})

    @blueprint.handler_for("merge", is_end=True)
    async def unused() -> None: ...

    @blueprint.aggregator_for("merge")
    async def merge(succeeded: dict[str, Any], missing: list[str]) -> list[int]:
        told.append({task_id for _, task_id in machine.stopped})
        return [len(succeeded), len(missing)]

    machine = await Machine(blueprint, workers=_works()).start()
    job_id, fanout, branches = await _fanned_out(machine)
    for task_id in branches[:4]:
        assert await machine.claim(task_id)
    machine.queue.clear()

    await _report(machine, job_id, branches[0], GOOD, fanout)
    assert (await machine.job(job_id)).waiting == fanout
    await _report(machine, job_id, branches[3], GOOD, fanout)
    await machine.deliver(machine.queue.pop())

    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "merge", [2, 4])
    assert set(branches[1:3]) <= told[0] <= set(branches[:4])  # those that had begun
    await _over(machine, job)


async def test_what_reports_after_the_verdict_changes_nothing() -> None:
    machine = await Machine(_blueprint(4, on_failure="fail_fast"), workers=_works()).start()
    job_id, fanout, branches = await _fanned_out(machine)
    machine.queue.clear()
    await _report(machine, job_id, branches[0], BAD, fanout)
    await machine.pump()
    before, stream = await machine.job(job_id), list(machine.store.stream)
    assert before.status is JobStatus.FAILED

    for task_id in branches:
        await _report(machine, job_id, task_id, GOOD, fanout)
        await _report(machine, job_id, task_id, BAD, fanout)
    await machine.engine.aggregate(job_id, fanout.id)

    assert await machine.job(job_id) == before
    assert machine.store.stream == stream
    assert machine.queue == []


# --- Aggregators that fail ----------------------------------------------------------------------------------------------------


async def test_an_aggregator_that_raises_gets_the_same_again_whatever_reports_meanwhile() -> None:
    seen: list[Any] = []
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"type": "work", "params": {"n": n}} for n in range(5)], "merge", on_failure={"at_least": 2})

    @blueprint.handler_for("merge", is_end=True)
    async def unused() -> None: ...

    @blueprint.aggregator_for("merge")
    async def merge(aggregation_results: Any, succeeded: Any, failed: Any, missing: Any) -> str:
        seen.append((aggregation_results, succeeded, failed, missing))
        if len(seen) < 3:
            raise RuntimeError("not yet")
        return "merged"

    machine = await Machine(blueprint, workers=_works()).start()
    job_id, fanout, branches = await _fanned_out(machine)
    machine.queue.clear()
    await _report(machine, job_id, branches[1], GOOD, fanout)
    await _report(machine, job_id, branches[4], {**BAD, "status": "cancelled"}, fanout)
    await _report(machine, job_id, branches[2], GOOD, fanout)
    await machine.pump()
    assert len(seen) == 1
    assert (await machine.job(job_id)).status is JobStatus.AWAITING_RETRY

    for task_id in branches:  # two of them had been out
        await _report(machine, job_id, task_id, GOOD, fanout)
    await machine.drive()

    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "merge", "merged")
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    results, succeeded, failed, missing = seen[0]
    assert list(results) == [branches[1], branches[2], branches[4]]
    assert (list(succeeded), list(failed), missing) == ([branches[1], branches[2]], [branches[4]], [branches[0], branches[3]])
    assert len(await machine.events(job_id, "fan_out_settled")) == 1
    assert len(await machine.events(job_id, "handler_retry")) == 2
    await _over(machine, job)


async def test_an_orchestrator_that_dies_over_the_aggregator_leaves_it_to_another() -> None:
    calls: list[list[str]] = []
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_parallel([{"type": "work", "params": {"n": n}} for n in range(3)], "merge", on_failure={"at_least": 1})

    @blueprint.handler_for("merge", is_end=True)
    async def unused() -> None: ...

    @blueprint.aggregator_for("merge")
    async def merge(missing: list[str]) -> int:
        calls.append(missing)
        if len(calls) == 1:
            raise Killed
        return len(missing)

    machine = await Machine(blueprint, workers=_works()).start()
    job = await _run(machine)

    assert ended(job) == (JobStatus.FINISHED, "merge", 2)
    assert calls[0] == calls[1]
    assert len(await machine.events(job.id, "fan_out_settled")) == 1
    await _over(machine, job)


async def test_an_aggregator_that_never_works_leaves_nothing_behind() -> None:
    blueprint = _blueprint(4, on_failure={"at_least": 1}, deadline_seconds=60)
    machine = await Machine(blueprint, workers={"work": lambda n: {"no": "n"}}, job_max_retries=1).start()

    job = await machine.run("fan")

    assert (job.status, "KeyError" in (job.error_message or "")) == (JobStatus.QUARANTINED, True)
    await _over(machine, job)


# --- Deadlines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "good", "bad", "status", "said"),
    [
        ("collect", 0, 0, JobStatus.FINISHED, [0, 0, 4]),
        ("collect", 1, 1, JobStatus.FINISHED, [1, 1, 2]),
        ("fail_fast", 3, 0, JobStatus.FAILED, "at the deadline 3 of 4 branches had succeeded, 0 had failed and 1 had not ended"),
        ({"at_least": 2}, 1, 1, JobStatus.FAILED, "and 2 have to succeed; first: work: BAD_PICTURE: number 7"),
        ({"tolerate": 0.5}, 2, 0, JobStatus.FINISHED, [2, 0, 2]),
        ({"tolerate": 0.5}, 2, 1, JobStatus.FINISHED, [2, 1, 1]),
        ({"tolerate": 0.5}, 1, 1, JobStatus.FAILED, "more than the 2 tolerated"),
    ],
)
async def test_at_the_deadline_the_verdict_is_found(policy: Any, good: int, bad: int, status: JobStatus, said: Any) -> None:
    machine = await Machine(_blueprint(4, on_failure=policy, deadline_seconds=60), workers=_works()).start()
    job_id, fanout, branches = await _fanned_out(machine)
    machine.queue.clear()
    for task_id, envelope in zip(branches, [GOOD] * good + [BAD] * bad, strict=False):
        await _report(machine, job_id, task_id, envelope, fanout)
    await machine.tick(59.5)
    await machine.pump()
    assert (await machine.job(job_id)).waiting == fanout

    await machine.tick(0.5)
    await machine.pump()

    job = await machine.job(job_id)
    assert job.status is status
    assert job.result == said if status is JobStatus.FINISHED else said in (job.error_message or "")
    await _over(machine, job)


async def test_a_verdict_before_the_deadline_takes_its_timer_along() -> None:
    machine = await Machine(_blueprint(3, deadline_seconds=60), workers=_works()).start()
    job_id, _, _ = await _fanned_out(machine)
    assert [(timer.kind, timer.due - machine.now) for timer in machine.timers()] == [("deadline", 60)]

    await machine.pump()

    job = await machine.job(job_id)
    assert ended(job) == (JobStatus.FINISHED, "end", [3, 0, 0])
    await _over(machine, job)


async def test_a_deadline_seen_too_early_is_looked_at_again() -> None:
    machine = await Machine(_blueprint(2, deadline_seconds=60), workers=_works()).start()
    job_id, fanout, _ = await _fanned_out(machine)
    machine.queue.clear()

    await machine.engine.aggregate(job_id, fanout.id)  # as by an orchestrator whose clock is behind

    assert (await machine.job(job_id)).waiting == fanout
    await machine.tick(60)
    await machine.pump()
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", [0, 0, 2])


async def test_a_branch_that_waits_for_its_retry_is_missing_at_the_deadline() -> None:
    branch = {"retries": RetryPolicy(max_attempts=5, backoff_seconds=50)}
    workers = _works(1, code="TRANSIENT_ERROR")
    machine = await Machine(_blueprint(2, branch=branch, deadline_seconds=20), workers=workers).start()

    job = await machine.run("fan")

    assert ended(job) == (JobStatus.FINISHED, "end", [1, 0, 1])
    assert len(await machine.events(job.id, "branch_retry")) == 1
    await _over(machine, job)


# --- Limits and fairness ------------------------------------------------------------------------------------------------------


async def test_never_more_than_max_concurrency_run_at_once() -> None:
    machine = await Machine(_blueprint(20, max_concurrency=3), workers=_works(4, 11)).start()
    job_id, _, _ = await _fanned_out(machine)
    most, done = 0, 0
    while done < 20:
        sent = [message for message in machine.queue if message.headers["task"] == "work"]
        most = max(most, len(sent))
        assert sent, f"after {done} nothing more goes"
        await machine.deliver(_of(machine, sent[-1].headers["id"]))
        done += 1

    await machine.drive()

    assert most == 3
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", [18, 2, 0])


async def test_two_fan_outs_have_a_limit_each() -> None:
    machine = await Machine(_blueprint(5, max_concurrency=2), workers=_works()).start()
    for _ in range(2):
        await machine.create("fan")
    steps = [machine.queue.pop(0) for _ in range(2)]
    for step in steps:
        await machine.deliver(step)

    assert Counter(json.loads(message.body)[1]["job_id"] for message in machine.queue) == Counter(
        dict.fromkeys({json.loads(step.body)[1]["job_id"] for step in steps}, 2)
    )


async def _dispatched(machine: Machine, blueprint: str) -> TaskInfo:
    job_id = await machine.create(blueprint)
    await machine.deliver(machine.queue.pop(0))
    waiting = (await machine.job(job_id)).waiting
    assert isinstance(waiting, TaskInfo)
    return waiting


def _single(**options: Any) -> Blueprint:
    blueprint = Blueprint("single")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {"n": 1}, {"success": "end"}, **options)

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    return blueprint


async def test_placeholders_are_filled_with_the_jobs_own() -> None:
    limits = {"{blueprint}/{task}": "60/min", "tenant:{client}": 5, "{job_id}": 1}
    machine = await Machine(_single(limits=limits, fairness_key="of {task}", fairness_weight=2), workers=_works()).start()

    info = await _dispatched(machine, "single")

    assert info.limits == (Limit("single/work", 60, 60.0), Limit("tenant:", 5), Limit(info.job_id, 1))
    assert (info.fairness_key, info.fairness_weight) == ("of work", 2.0)


async def test_the_clients_share_is_the_default() -> None:
    machine = await Machine(_single(), workers=_works()).start()

    info = await _dispatched(machine, "single")

    assert (info.limits, info.fairness_key, info.fairness_weight) == ((), "", 1.0)


async def test_a_branch_counts_against_its_own_limits_and_the_fan_outs() -> None:
    machine = await Machine(_blueprint(2, branch={"limits": {"openai": 9}}, max_concurrency=1), workers=_works()).start()
    _, fanout, branches = await _fanned_out(machine)

    records = [await machine.store.get_task(task_id) for task_id in branches]

    assert [record and record.info.limits for record in records] == [(Limit("openai", 9), Limit(f"fanout:{fanout.id}", 1))] * 2


async def test_an_unknown_strategy_names_the_known_ones() -> None:
    machine = await Machine(_single(dispatch_strategy="fastest"), workers=_works()).start()

    job = await machine.run("single")

    assert job.status is JobStatus.QUARANTINED
    for part in ("'work'", "'fastest'", "cheapest", "round_robin"):
        assert part in (job.error_message or "")


async def test_two_limits_of_one_key_are_refused() -> None:
    machine = await Machine(_single(limits={"{task}": 1, "work": 2}), workers=_works()).start()

    job = await machine.run("single")

    assert job.status is JobStatus.QUARANTINED
    assert "two keys become 'work'" in (job.error_message or "")


# --- Workers to avoid ---------------------------------------------------------------------------------------------------------


async def test_after_a_transient_failure_another_worker_is_preferred() -> None:
    machine = await Machine(_single(), workers=_works(1, code="TRANSIENT_ERROR")).start()
    first = await _dispatched(machine, "single")
    await machine.pump()

    again = (await machine.job(first.job_id)).waiting

    assert isinstance(again, TaskInfo)
    assert (again.attempt, first.avoid, again.avoid) == (2, (), ("worker",))


async def test_after_a_transient_failure_of_a_branch_another_worker_is_preferred() -> None:
    branch = {"retries": RetryPolicy(max_attempts=2)}
    machine = await Machine(_blueprint(1, branch=branch), workers=_works(0, code="TRANSIENT_ERROR")).start()
    job_id, _, _ = await _fanned_out(machine)
    await machine.pump()
    (again,) = await machine.store.branches(job_id)

    record = await machine.store.get_task(again)

    assert record is not None
    assert (record.state, record.info.avoid) == (TaskState.DELAYED, ("worker",))
    await machine.drive()
    assert (await machine.job(job_id)).result == [0, 1, 0]


@pytest.mark.parametrize("blueprint", [_single(), _blueprint(1)], ids=["single", "branch"])
async def test_a_lost_worker_is_avoided_and_remembered(blueprint: Blueprint) -> None:
    machine = await Machine(blueprint, workers=_works()).start()
    await machine.create(blueprint.name)
    await machine.deliver(machine.queue.pop(0))
    message = machine.queue.pop(0)
    assert await machine.claim(message.headers["id"])

    await machine.restart_worker()
    await machine.tick()

    ((task_id, record),) = machine.store._tasks.items()
    assert (record.info.attempt, record.info.deaths, record.info.avoid) == (2, 1, ("worker",))
    assert [outcome for _, outcome in await machine.store.outcomes("worker")] == ["lost"]
    assert [message.headers["id"] for message in machine.queue] == [task_id]
