"""What a result means, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika.engine.verdict import TIMED_OUT, Judgement, Verdict, attempts, backoff, by_transition, judge, judge_branch
from avtomatika.jobs import Result, ResultError, RetryPolicy, TaskInfo

TRANSIENT, PERMANENT, INVALID = "TRANSIENT_ERROR", "PERMANENT_ERROR", "INVALID_INPUT_ERROR"
ALL = {"success": "good", "failure": "bad", "timeout": "late", "cancelled": "clean_up", "odd": "strange"}
TO_FAILURE = RetryPolicy(then="failure")
ON_LIMIT = RetryPolicy(retry_on=["RATE_LIMITED"])
ON_TIMEOUT = RetryPolicy(retry_on=["TIMEOUT"])


def _info(transitions: dict[str, str] | None = None, **fields: Any) -> TaskInfo:
    return TaskInfo("t", "j", "work", {}, ALL if transitions is None else transitions, **fields)


def _failure(code: str, message: str = "m") -> Result:
    return Result.failure(code, message)


@pytest.mark.parametrize(
    ("info", "result", "verdict", "state"),
    [
        # transitions
        (_info(), Result.success(), Verdict.NEXT, "good"),
        (_info(), Result("odd"), Verdict.NEXT, "strange"),
        (_info({}), Result.success(), Verdict.FAILED, None),
        (_info(), Result("unlisted"), Verdict.FAILED, None),
        # transient, no code, an error without a code, no error at all: again
        (_info(), _failure(TRANSIENT), Verdict.RETRY, None),
        (_info(), _failure(""), Verdict.RETRY, None),
        (_info(), Result("failure"), Verdict.RETRY, None),
        (_info({}), _failure(TRANSIENT), Verdict.RETRY, None),
        (_info(attempt=3), _failure(TRANSIENT), Verdict.RETRY, None),
        # ... at most so often, whatever the transitions say
        (_info(attempt=4), _failure(TRANSIENT), Verdict.QUARANTINED, None),
        (_info(attempt=4), Result("failure"), Verdict.QUARANTINED, None),
        (_info(attempt=5, deaths=1), _failure(TRANSIENT), Verdict.QUARANTINED, None),
        # ... deaths of workers are counted apart
        (_info(attempt=6, deaths=3), _failure(TRANSIENT), Verdict.RETRY, None),
        # ... by the dispatch's own policy
        (_info(retries=RetryPolicy(1)), _failure(TRANSIENT), Verdict.QUARANTINED, None),
        (_info(retries=RetryPolicy(2)), _failure(TRANSIENT), Verdict.RETRY, None),
        (_info(attempt=7, retries=RetryPolicy(8)), _failure(TRANSIENT), Verdict.RETRY, None),
        (_info(attempt=4, retries=TO_FAILURE), _failure(TRANSIENT), Verdict.NEXT, "bad"),
        (_info({"success": "s"}, attempt=4, retries=TO_FAILURE), _failure(TRANSIENT), Verdict.QUARANTINED, None),
        # permanent: quarantine at once
        (_info(), _failure(PERMANENT), Verdict.QUARANTINED, None),
        (_info(retries=TO_FAILURE), _failure(PERMANENT), Verdict.NEXT, "bad"),
        # invalid input: failed at once, even with a `failure` transition
        (_info(), _failure(INVALID), Verdict.FAILED, None),
        (_info(retries=TO_FAILURE), _failure(INVALID), Verdict.FAILED, None),
        # any other code: the `failure` transition
        (_info(), _failure("NO_PAPER"), Verdict.NEXT, "bad"),
        (_info({"success": "s"}), _failure("NO_PAPER"), Verdict.FAILED, None),
        (_info(attempt=9), _failure("NO_PAPER"), Verdict.NEXT, "bad"),
        # timeout and cancel: their transitions, else the status of that name
        (_info(), Result("timeout"), Verdict.NEXT, "late"),
        (_info({"failure": "bad"}), Result("timeout"), Verdict.FAILED, None),
        (_info(), Result("cancelled"), Verdict.NEXT, "clean_up"),
        (_info({"failure": "bad"}), Result("cancelled"), Verdict.CANCELLED, None),
        # what the policy names is tried again, and nothing else
        (_info(retries=ON_LIMIT), _failure("RATE_LIMITED"), Verdict.RETRY, None),
        (_info(attempt=4, retries=ON_LIMIT), _failure("RATE_LIMITED"), Verdict.QUARANTINED, None),
        (_info(retries=ON_LIMIT), _failure(TRANSIENT), Verdict.QUARANTINED, None),
        (_info(retries=ON_LIMIT), Result("failure"), Verdict.QUARANTINED, None),
        (_info(retries=ON_LIMIT), _failure("NO_PAPER"), Verdict.NEXT, "bad"),
        (_info(retries=ON_LIMIT), Result("timeout"), Verdict.NEXT, "late"),
        (_info(retries=RetryPolicy(retry_on=[TRANSIENT])), Result("failure"), Verdict.RETRY, None),
        (_info(retries=RetryPolicy(retry_on=[PERMANENT])), _failure(PERMANENT), Verdict.RETRY, None),
        (_info(retries=RetryPolicy(retry_on=())), _failure(TRANSIENT), Verdict.QUARANTINED, None),
        (
            _info(attempt=2, retries=RetryPolicy(2, retry_on=["NO_PAPER"], then="failure")),
            _failure("NO_PAPER"),
            Verdict.NEXT,
            "bad",
        ),
        # ... timeouts, too; once it is enough, they go their own way
        (_info(retries=ON_TIMEOUT), Result("timeout"), Verdict.RETRY, None),
        (_info(attempt=4, retries=ON_TIMEOUT), Result("timeout"), Verdict.NEXT, "late"),
        (_info({"failure": "bad"}, attempt=4, retries=ON_TIMEOUT), Result("timeout"), Verdict.QUARANTINED, None),
        # the error classes belong to failures only
        (_info(), Result("odd", error=ResultError(PERMANENT, "m")), Verdict.NEXT, "strange"),
    ],
)
def test_a_result_of_a_single_dispatch(info: TaskInfo, result: Result, verdict: Verdict, state: str | None) -> None:
    judgement = judge(info, result, 3)

    assert (judgement.verdict, judgement.state) == (verdict, state)


@pytest.mark.parametrize(
    ("info", "result", "verdict"),
    [
        (_info(), Result.success(), Verdict.NEXT),
        (_info(), _failure(TRANSIENT), Verdict.RETRY),
        (_info(), Result("failure"), Verdict.RETRY),
        (_info(attempt=4), _failure(TRANSIENT), Verdict.NEXT),
        (_info(attempt=4, deaths=1), _failure(TRANSIENT), Verdict.RETRY),
        (_info(), _failure(PERMANENT), Verdict.NEXT),
        (_info(), _failure(INVALID), Verdict.NEXT),
        (_info(), _failure("NO_PAPER"), Verdict.NEXT),
        (_info(), Result("timeout"), Verdict.NEXT),
        (_info(), Result("cancelled"), Verdict.NEXT),
        (_info(), Result("odd"), Verdict.NEXT),
        (_info(retries=ON_LIMIT), _failure("RATE_LIMITED"), Verdict.RETRY),
        (_info(retries=ON_LIMIT), _failure(TRANSIENT), Verdict.NEXT),
        (_info(retries=ON_TIMEOUT), Result("timeout"), Verdict.RETRY),
        (_info(attempt=4, retries=ON_TIMEOUT), Result("timeout"), Verdict.NEXT),
    ],
)
def test_a_result_of_a_branch(info: TaskInfo, result: Result, verdict: Verdict) -> None:
    assert judge_branch(info, result, 3) is verdict


@pytest.mark.parametrize(
    ("result", "parts"),
    [
        (Result("unlisted"), ("'work'", "'unlisted'", "failure, odd, success, timeout")),
        (_failure(INVALID, "x is no number"), (INVALID, "x is no number")),
        (_failure(PERMANENT, ""), (PERMANENT, "no message")),
        (Result("cancelled"), ("cancelled",)),
    ],
)
def test_the_reason_says_what_happened(result: Result, parts: tuple[str, ...]) -> None:
    reason = judge(_info({k: v for k, v in ALL.items() if k != "cancelled"}), result, 3).reason or ""

    assert [part for part in parts if part not in reason] == []


def test_a_timeout_without_a_word_says_that_the_task_timed_out() -> None:
    assert judge(_info({}), Result("timeout"), 3) == Judgement(Verdict.FAILED, reason=TIMED_OUT)


def test_a_success_clears_the_reason() -> None:
    assert by_transition(ALL, "success", "an older failure", "task") == Judgement(Verdict.NEXT, "good", None)


@pytest.mark.parametrize(
    ("policy", "failures", "middle"),
    [
        (RetryPolicy(), 1, 1.0),
        (RetryPolicy(), 2, 2.0),
        (RetryPolicy(), 5, 16.0),
        (RetryPolicy(), 7, 60.0),
        (RetryPolicy(), 10_000, 60.0),
        (RetryPolicy(backoff_seconds=0.5), 3, 2.0),
        (RetryPolicy(backoff_seconds=0.0), 9, 0.0),
    ],
)
def test_the_pause_doubles_up_to_a_minute_with_jitter(policy: RetryPolicy, failures: int, middle: float) -> None:
    waits = [backoff(policy, failures, 1.0) for _ in range(200)]

    assert all(0.75 * middle <= wait <= 1.25 * middle for wait in waits)
    assert middle == 0 or len(set(waits)) > 100


@pytest.mark.parametrize(
    ("policy", "failures", "least", "most"),
    [
        (RetryPolicy(backoff_seconds=10, max_backoff_seconds=15), 1, 7.5, 12.5),
        (RetryPolicy(backoff_seconds=10, max_backoff_seconds=15), 2, 11.25, 18.75),
        (RetryPolicy(max_backoff_seconds=600), 10, 384.0, 640.0),
        (RetryPolicy(jitter=0), 3, 4.0, 4.0),
        (RetryPolicy(jitter=1), 1, 0.0, 2.0),
        (RetryPolicy(max_backoff_seconds=0), 5, 0.0, 0.0),
    ],
)
def test_a_policy_sets_the_longest_pause_and_its_jitter(policy: RetryPolicy, failures: int, least: float, most: float) -> None:
    waits = [backoff(policy, failures, 1.0) for _ in range(200)]

    assert all(least <= wait <= most for wait in waits)
    assert policy.jitter == 0 or most == 0 or max(waits) - min(waits) > 0.5 * (most - least)


def test_attempts_count_without_those_that_a_dying_worker_cost() -> None:
    assert attempts(_info(attempt=5, deaths=2)) == 3
