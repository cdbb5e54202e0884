"""What a result means: error classes first, then transitions. Pure, tested by a table."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from avtomatika.errors import ErrorCode
from avtomatika.jobs import Result, RetryPolicy, TaskInfo
from avtomatika.results import TIMED_OUT, TIMEOUT

#: What can be tried again at all.
_RETRIED = (Result.FAILURE, Result.TIMEOUT)


class Verdict(StrEnum):
    """What becomes of the job (or of the branch) that waited for a result."""

    NEXT = "next"  # go on with a state
    RETRY = "retry"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    state: str | None = None
    reason: str | None = None


def judge(info: TaskInfo, result: Result, max_retries: int) -> Judgement:
    """Judges the result of one attempt of a single dispatch.

    Args:
        max_retries: JOB_MAX_RETRIES, for a policy that sets no max_attempts.
    """
    reason = _reason(info, result)
    code = code_of(result)
    if result.status == Result.FAILURE and code == ErrorCode.INVALID_INPUT:
        return Judgement(Verdict.FAILED, reason=reason)
    if result.status in _RETRIED and info.retries.retries(code):
        if may_retry(info, max_retries):
            return Judgement(Verdict.RETRY, reason=reason)
        if result.status != Result.TIMEOUT or Result.TIMEOUT not in info.transitions:
            return exhausted(info, f"{reason} (after {attempts(info)} attempts)")
    elif result.status == Result.FAILURE and code in ("", ErrorCode.TRANSIENT, ErrorCode.PERMANENT):
        return exhausted(info, reason)
    return by_transition(info.transitions, result.status, reason, f"task {info.type!r}")


def code_of(result: Result) -> str:
    """The code of a result's error, which says what is done about it; '' where there is none."""
    if result.status == Result.TIMEOUT:
        return TIMEOUT
    return result.error.code if result.error is not None else ""


def by_transition(transitions: Mapping[str, str], status: str, reason: str | None, what: str) -> Judgement:
    """The state that a status leads to; an unlisted status fails the job."""
    state = transitions.get(status)
    if state is not None:
        return Judgement(Verdict.NEXT, state, None if status == Result.SUCCESS else reason)
    if status == Result.CANCELLED:
        return Judgement(Verdict.CANCELLED, reason=reason)
    if status == Result.TIMEOUT:
        return Judgement(Verdict.FAILED, reason=reason or TIMED_OUT)
    listed = ", ".join(sorted(transitions)) or "none"
    said = f": {reason}" if reason else ""
    return Judgement(Verdict.FAILED, reason=f"{what} ended with status {status!r}, which no transition lists ({listed}){said}")


def exhausted(info: TaskInfo, reason: str | None) -> Judgement:
    """No further attempt: quarantine, or the `failure` transition where the dispatch's policy says so."""
    if info.retries.then == "failure" and Result.FAILURE in info.transitions:
        return Judgement(Verdict.NEXT, info.transitions[Result.FAILURE], reason)
    return Judgement(Verdict.QUARANTINED, reason=reason)


def judge_branch(info: TaskInfo, result: Result, max_retries: int) -> Verdict:
    """RETRY for what its policy says is worth it; everything else ends the branch (NEXT)."""
    retried = result.status in _RETRIED and info.retries.retries(code_of(result)) and may_retry(info, max_retries)
    return Verdict.RETRY if retried else Verdict.NEXT


def attempts(info: TaskInfo) -> int:
    """Attempts that count: those under which a worker died are counted apart."""
    return info.attempt - info.deaths


def may_retry(info: TaskInfo, max_retries: int) -> bool:
    limit = info.retries.max_attempts if info.retries.max_attempts is not None else max_retries + 1
    return attempts(info) < limit


def backoff(policy: RetryPolicy, failures: int, default: float) -> float:
    """Seconds to wait after that many failures: doubling up to the policy's longest, with its jitter."""
    base = policy.backoff_seconds if policy.backoff_seconds is not None else default
    wait = min(policy.max_backoff_seconds, base * 2.0 ** min(failures - 1, 30))
    return wait * random.uniform(1 - policy.jitter, 1 + policy.jitter)


def said_of(result: Result) -> str | None:
    """What a result says of its failure; None where it says nothing."""
    if result.status == Result.TIMEOUT:
        return (result.error.message if result.error is not None else "") or TIMED_OUT
    if result.error is None:
        return None
    code = f"{result.error.code}: " if result.error.code else ""
    return f"{code}{result.error.message or 'no message'}"


def _reason(info: TaskInfo, result: Result) -> str | None:
    if result.status == Result.SUCCESS and result.error is None:
        return None
    return said_of(result) or f"task {info.type!r} ended with status {result.status!r}"
