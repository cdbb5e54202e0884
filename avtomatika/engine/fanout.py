"""The verdict on a fan-out: from its policy and what its branches came to. Pure but for the ids it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from avtomatika.blueprint.actions import DispatchParallel
from avtomatika.blueprint.options import AT_LEAST, FAIL_FAST, TOLERATE, FailurePolicy
from avtomatika.engine.verdict import said_of
from avtomatika.jobs import JSON, FanOut, Result, new_id

_FAILURES = frozenset({Result.FAILURE, Result.TIMEOUT, Result.CANCELLED})


class Standing(StrEnum):
    OPEN = "open"  # what is still out decides
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Tally:
    """The branches of a fan-out, by what became of them, each in the order of the dispatch.

    Attributes:
        missing: ids of the attempts that are still out.
    """

    succeeded: dict[str, Result]
    failed: dict[str, Result]
    missing: tuple[str, ...]

    @property
    def counts(self) -> JSON:
        return {"succeeded": len(self.succeeded), "failed": len(self.failed), "missing": len(self.missing)}


def bounds(policy: FailurePolicy, total: int) -> tuple[int | None, int | None]:
    """(need, may_fail) of a fan-out: so many successes are enough, so many failures are borne; None where there is no bound."""
    match policy.kind:
        case kind if kind == FAIL_FAST:
            return None, 0
        case kind if kind == AT_LEAST:
            return int(policy.amount), total - int(policy.amount)
        case kind if kind == TOLERATE:
            # The share as it was written: 0.29 of 100 is 29, and not what the nearest binary fraction comes to.
            return None, math.floor(Fraction(str(policy.amount)) * total)
    return None, None


def fan_out_of(action: DispatchParallel, now: float) -> FanOut:
    """What a job waits for that has fanned out."""
    total = len(action.tasks)
    need, may_fail = bounds(action.on_failure, total)
    return FanOut(
        id=new_id(),
        aggregate_into=action.aggregate_into,
        total=total,
        need=need,
        may_fail=may_fail,
        deadline_at=None if action.deadline_seconds is None else now + action.deadline_seconds,
        on_failure=str(action.on_failure),
        failure_state=action.failure_state,
        max_concurrency=action.max_concurrency,
    )


def tally(results: Mapping[str, Result | None]) -> Tally:
    """Counts results by task id. Success is ``success`` or a status of the worker's own."""
    ended = {task_id: result for task_id, result in results.items() if result is not None}
    return Tally(
        succeeded={task_id: result for task_id, result in ended.items() if result.status not in _FAILURES},
        failed={task_id: result for task_id, result in ended.items() if result.status in _FAILURES},
        missing=tuple(task_id for task_id, result in results.items() if result is None),
    )


def standing(fanout: FanOut, found: Tally, now: float) -> Standing:
    """The verdict as far as it is clear. At the deadline it is: a branch that is still out counts as failed."""
    if fanout.settled:
        return Standing.GOOD
    succeeded, failed = len(found.succeeded), len(found.failed)
    if fanout.need is not None and succeeded >= fanout.need:
        return Standing.GOOD
    if fanout.may_fail is not None and failed > fanout.may_fail:
        return Standing.BAD
    if not found.missing:
        return Standing.GOOD
    if fanout.deadline_at is None or now < fanout.deadline_at:
        return Standing.OPEN
    if fanout.may_fail is not None and failed + len(found.missing) > fanout.may_fail:
        return Standing.BAD
    return Standing.GOOD


def reason_of_failure(fanout: FanOut, found: Tally, first: str = "") -> str:
    """Why a verdict is bad, as a sentence.

    Args:
        first: the first branch that failed, as `first_failure` describes it.
    """
    may_fail, need, failed = fanout.may_fail or 0, fanout.need, len(found.failed)
    if failed > may_fail:
        said = f"{failed} of {fanout.total} branches failed"
        strict, enough = "and none may", f"so that {need} cannot succeed any more"
    else:
        said = (
            f"at the deadline {len(found.succeeded)} of {fanout.total} branches had succeeded, {failed} had failed "
            f"and {len(found.missing)} had not ended"
        )
        strict, enough = "and all have to succeed", f"and {need} have to succeed"
    bound = enough if need is not None else f"more than the {may_fail} tolerated" if may_fail else strict
    return f"{said}, {bound}{f'; first: {first}' if first else ''}"


def first_failure(task_type: str, result: Result) -> str:
    """A failed branch as a part of a sentence: its task, and what it said."""
    said = said_of(result)
    return f"{task_type}: {said}" if said else f"{task_type} ended with status {result.status!r}"


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What an aggregator is called with: its state, and the results by task id, None for what did not report."""

    state: str
    results: Mapping[str, Result | None]

    @property
    def counts(self) -> JSON:
        return tally(self.results).counts

    def inputs(self) -> JSON:
        """By the names that an aggregator asks for them by: envelopes by task id, and the ids of the missing."""
        found = tally(self.results)
        envelopes = {task_id: result.to_dict() for task_id, result in self.results.items() if result is not None}
        return {
            "aggregation_results": envelopes,
            "succeeded": {task_id: envelopes[task_id] for task_id in found.succeeded},
            "failed": {task_id: envelopes[task_id] for task_id in found.failed},
            "missing": list(found.missing),
        }
