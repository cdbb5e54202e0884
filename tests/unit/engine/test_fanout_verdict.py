"""The verdict on a fan-out, row by row."""

from __future__ import annotations

import pytest

from avtomatika.blueprint.actions import ActionFactory, DispatchParallel
from avtomatika.blueprint.options import FailurePolicy
from avtomatika.engine.fanout import (
    Aggregated,
    Standing,
    bounds,
    fan_out_of,
    first_failure,
    reason_of_failure,
    standing,
    tally,
)
from avtomatika.jobs import FanOut, Result, ResultError

COLLECT, FAIL_FAST = FailurePolicy("collect"), FailurePolicy("fail_fast")
OPEN, GOOD, BAD = Standing.OPEN, Standing.GOOD, Standing.BAD
DEADLINE = 100.0


def at_least(amount: int) -> FailurePolicy:
    return FailurePolicy("at_least", amount)


def tolerate(share: float) -> FailurePolicy:
    return FailurePolicy("tolerate", share)


def results_of(succeeded: int, failed: int, missing: int) -> dict[str, Result | None]:
    """So many of each, mixed."""
    found: list[Result | None] = [Result.failure("BAD", f"number {n}") for n in range(failed)]
    found += [None] * missing + [Result.success({"n": n}) for n in range(succeeded)]
    return {f"t{n}": result for n, result in enumerate(found)}


def fan_out(policy: FailurePolicy, total: int, deadline: float | None = None) -> FanOut:
    need, may_fail = bounds(policy, total)
    return FanOut("f", "join", total, need=need, may_fail=may_fail, deadline_at=deadline, on_failure=str(policy))


@pytest.mark.parametrize(
    ("policy", "total", "need", "may_fail"),
    [
        (COLLECT, 10, None, None),
        (COLLECT, 0, None, None),
        (FAIL_FAST, 10, None, 0),
        (at_least(1), 10, 1, 9),
        (at_least(10), 10, 10, 0),
        (tolerate(0), 10, None, 0),
        (tolerate(0.1), 10, None, 1),
        (tolerate(0.1), 9, None, 0),
        (tolerate(0.1), 30, None, 3),
        (tolerate(0.29), 100, None, 29),  # 0.29 * 100 is less than 29 among floats
        (tolerate(0.57), 100, None, 57),
        (tolerate(0.99), 100, None, 99),
        (tolerate(0.999), 100, None, 99),
        (tolerate(1e-05), 100_000, None, 1),
        (tolerate(0.5), 0, None, 0),
    ],
)
def test_bounds(policy: FailurePolicy, total: int, need: int | None, may_fail: int | None) -> None:
    assert bounds(policy, total) == (need, may_fail)


@pytest.mark.parametrize(
    ("policy", "succeeded", "failed", "missing", "before", "after"),
    [
        # (policy, counts, before the deadline, at the deadline)
        (COLLECT, 0, 0, 0, GOOD, GOOD),
        (COLLECT, 10, 0, 0, GOOD, GOOD),
        (COLLECT, 0, 10, 0, GOOD, GOOD),
        (COLLECT, 9, 0, 1, OPEN, GOOD),
        (COLLECT, 0, 9, 1, OPEN, GOOD),
        (COLLECT, 0, 0, 10, OPEN, GOOD),
        (FAIL_FAST, 0, 0, 0, GOOD, GOOD),
        (FAIL_FAST, 10, 0, 0, GOOD, GOOD),
        (FAIL_FAST, 9, 0, 1, OPEN, BAD),
        (FAIL_FAST, 9, 1, 0, BAD, BAD),
        (FAIL_FAST, 0, 1, 9, BAD, BAD),
        (FAIL_FAST, 0, 0, 10, OPEN, BAD),
        (at_least(3), 2, 0, 8, OPEN, BAD),
        (at_least(3), 2, 7, 1, OPEN, BAD),
        (at_least(3), 3, 0, 7, GOOD, GOOD),
        (at_least(3), 3, 7, 0, GOOD, GOOD),
        (at_least(3), 2, 8, 0, BAD, BAD),
        (at_least(3), 0, 8, 2, BAD, BAD),
        (at_least(3), 1, 8, 1, BAD, BAD),
        (at_least(10), 9, 0, 1, OPEN, BAD),
        (at_least(10), 10, 0, 0, GOOD, GOOD),
        (at_least(10), 0, 1, 9, BAD, BAD),
        (tolerate(0.2), 8, 2, 0, GOOD, GOOD),
        (tolerate(0.2), 7, 2, 1, OPEN, BAD),
        (tolerate(0.2), 8, 1, 1, OPEN, GOOD),
        (tolerate(0.2), 8, 0, 2, OPEN, GOOD),
        (tolerate(0.2), 7, 0, 3, OPEN, BAD),
        (tolerate(0.2), 7, 3, 0, BAD, BAD),
        (tolerate(0.2), 0, 3, 7, BAD, BAD),
        (tolerate(0), 9, 1, 0, BAD, BAD),
        (tolerate(0), 10, 0, 0, GOOD, GOOD),
    ],
)
def test_the_verdict(policy: FailurePolicy, succeeded: int, failed: int, missing: int, before: Standing, after: Standing) -> None:
    total = succeeded + failed + missing
    found = tally(results_of(succeeded, failed, missing))

    assert standing(fan_out(policy, total), found, 10**9) is before
    assert standing(fan_out(policy, total, DEADLINE), found, DEADLINE - 0.1) is before
    assert standing(fan_out(policy, total, DEADLINE), found, DEADLINE) is after
    if after is BAD:
        reason = reason_of_failure(fan_out(policy, total, DEADLINE), found)
        assert ("deadline" in reason) is (before is not BAD)
        assert f"of {total} branches" in reason


def test_a_settled_one_stays_good() -> None:
    fanout = FanOut("f", "join", 4, need=1, may_fail=3, settled=True)

    assert standing(fanout, tally(results_of(0, 4, 0)), 0) is GOOD


def test_what_is_a_success() -> None:
    results = {
        "a": Result.success(),
        "b": Result("shiny"),
        "c": Result.failure("BAD", "no"),
        "d": Result(Result.TIMEOUT),
        "e": None,
        "f": Result(Result.CANCELLED),
        "g": Result("shiny", error=ResultError("BAD", "yet fine")),
    }

    found = tally(results)

    assert [list(found.succeeded), list(found.failed), list(found.missing)] == [["a", "b", "g"], ["c", "d", "f"], ["e"]]
    assert found.counts == {"succeeded": 3, "failed": 3, "missing": 1}


@pytest.mark.parametrize(
    ("policy", "counts", "said"),
    [
        (FAIL_FAST, (50, 1, 49), "1 of 100 branches failed, and none may; first: image_generation: TRANSIENT_ERROR: no GPU"),
        (tolerate(0.05), (93, 7, 0), "7 of 100 branches failed, more than the 5 tolerated; first: image_generation: "),
        (tolerate(0), (93, 7, 0), "7 of 100 branches failed, and none may; first: "),
        (at_least(5), (4, 96, 0), "96 of 100 branches failed, so that 5 cannot succeed any more; first: "),
        (
            FAIL_FAST,
            (97, 0, 3),
            "at the deadline 97 of 100 branches had succeeded, 0 had failed and 3 had not ended, and all have to succeed",
        ),
        (
            at_least(5),
            (4, 2, 94),
            "at the deadline 4 of 100 branches had succeeded, 2 had failed and 94 had not ended, and 5 have to succeed; first: ",
        ),
        (
            tolerate(0.05),
            (90, 4, 6),
            "at the deadline 90 of 100 branches had succeeded, 4 had failed and 6 had not ended, more than the 5 tolerated; ",
        ),
    ],
)
def test_the_sentence(policy: FailurePolicy, counts: tuple[int, int, int], said: str) -> None:
    found = tally(results_of(*counts))
    first = first_failure("image_generation", Result.failure("TRANSIENT_ERROR", "no GPU")) if found.failed else ""

    assert reason_of_failure(fan_out(policy, 100, DEADLINE), found, first).startswith(said)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (Result.failure("TRANSIENT_ERROR", "no GPU"), "work: TRANSIENT_ERROR: no GPU"),
        (Result.failure("", "no GPU"), "work: no GPU"),
        (Result.failure("BAD", ""), "work: BAD: no message"),
        (Result(Result.TIMEOUT), "work: Worker task timed out"),
        (Result(Result.CANCELLED), "work ended with status 'cancelled'"),
        (Result(Result.FAILURE), "work ended with status 'failure'"),
    ],
)
def test_the_first_failure(result: Result, said: str) -> None:
    assert first_failure("work", result) == said


def test_what_a_job_waits_for() -> None:
    actions = ActionFactory()
    tasks = [{"task_type": "work"}] * 20
    actions.dispatch_parallel(tasks, "join", 3, {"tolerate": 0.1}, deadline_seconds=60, failure_state="bad")
    assert isinstance(actions.action, DispatchParallel)

    fanout = fan_out_of(actions.action, 1000.0)

    assert fanout == FanOut(
        fanout.id, "join", 20, may_fail=2, deadline_at=1060.0, on_failure="tolerate 0.1", failure_state="bad", max_concurrency=3
    )


def test_what_an_aggregator_is_given() -> None:
    results = {"a": Result.success({"n": 1}), "b": None, "c": Result.failure("BAD", "no")}

    inputs = Aggregated("join", results).inputs()

    good = {"a": {"status": "success", "data": {"n": 1}}}
    bad = {"c": {"status": "failure", "data": {}, "error": {"code": "BAD", "message": "no"}}}
    assert inputs == {"aggregation_results": {**good, **bad}, "succeeded": good, "failed": bad, "missing": ["b"]}
