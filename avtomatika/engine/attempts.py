"""First attempts: from what a handler dispatched, the attempt to store. Pure but for the ids it makes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from avtomatika.blueprint.actions import DispatchTask
from avtomatika.engine import strategies
from avtomatika.errors import HandlerError
from avtomatika.jobs import JSON, FanOut, Job, Limit, TaskInfo, new_id
from avtomatika.limits import FANOUT, SUSPECTS, fill_key, fill_limits
from avtomatika.state.base import TaskRecord

#: How many times as many workers may die under a task that was never clearly the cause.
PATIENCE = 3


def first_attempt(
    job: Job,
    action: DispatchTask,
    now: float,
    fanout: FanOut | None,
    branch: int | None,
    is_plain: bool,
    plain_timeout_seconds: float,
) -> TaskInfo:
    """The first attempt of a task of a job, or of one branch of its fan-out.

    Args:
        is_plain: whether it is a plain Celery task.
        plain_timeout_seconds: of a plain one that names none: nobody claims it, so that its clock starts with its message.

    Raises:
        HandlerError: its params are not JSON, its strategy is unknown, or two of its limits have the same key.
    """
    assert_plain(f"params of task {action.type!r}", action.params)
    if strategies.find(action.dispatch_strategy) is None:
        raise HandlerError(
            f"task {action.type!r} names the unknown dispatch_strategy {action.dispatch_strategy!r}; "
            f"there are {', '.join(strategies.known())}"
        )
    names = {"client": job.client.name, "blueprint": job.blueprint_name, "task": action.type, "job_id": job.id}
    limits = fill_limits(action.limits, names)
    if fanout is not None and fanout.max_concurrency is not None:
        limits += (Limit(f"{FANOUT}{fanout.id}", fanout.max_concurrency),)
    timeout = action.timeout_seconds
    return TaskInfo(
        id=new_id(),
        job_id=job.id,
        type=action.type,
        params=action.params,
        transitions=action.transitions,
        branch=branch,
        fanout_id=None if fanout is None else fanout.id,
        priority=action.priority or job.priority,
        queue=(action.queue or "") if is_plain else None,
        timeout_seconds=plain_timeout_seconds if timeout is None and is_plain else timeout,
        dispatch_timeout_seconds=action.dispatch_timeout_seconds,
        retries=action.retries,
        dispatch_strategy=action.dispatch_strategy,
        resource_requirements=action.resource_requirements,
        max_cost=action.max_cost,
        limits=limits,
        fairness_key=job.client.name if action.fairness_key is None else fill_key(action.fairness_key, names),
        fairness_weight=action.fairness_weight,
        tracing_context=job.tracing_context,
        created_at=now,
    )


def is_suspect(info: TaskInfo) -> bool:
    """Whether an attempt runs alone among those that may have killed their workers."""
    return any(limit.key == SUSPECTS for limit in info.limits)


def is_poison(info: TaskInfo, most: int, *, alone: bool) -> bool:
    """Whether an attempt whose worker has died is taken for what kills its workers."""
    if most == 0:
        return True
    return info.deaths >= most and ((alone and is_suspect(info)) or info.deaths >= PATIENCE * (most + 1) - 1)


def stood_out(record: TaskRecord, others: Iterable[TaskRecord]) -> bool:
    """Whether, of what a dead worker held, this is the likely cause: it began last, and no other has lost a worker before."""
    began = record.claimed_at or 0
    return all(other.info.deaths == 0 and (other.claimed_at or 0) <= began for other in others)


def suspected(info: TaskInfo, most: int) -> TaskInfo:
    """The attempt, as a suspect once so many workers have died under the task."""
    if info.deaths < max(1, most) or is_suspect(info):
        return info
    return replace(info, limits=(*info.limits, Limit(SUSPECTS, 1)))


def assert_plain(what: str, value: JSON) -> None:
    """HandlerError where a value is not JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise HandlerError(f"{what} are not JSON: {exc}") from None
