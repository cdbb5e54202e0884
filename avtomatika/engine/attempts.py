"""First attempts: from what a handler dispatched, the attempt to store. Pure but for the ids it makes."""

from __future__ import annotations

import json

from avtomatika.blueprint.actions import DispatchTask
from avtomatika.engine import strategies
from avtomatika.errors import HandlerError
from avtomatika.jobs import JSON, FanOut, Job, Limit, TaskInfo, new_id
from avtomatika.limits import FANOUT, fill_key, fill_limits


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


def assert_plain(what: str, value: JSON) -> None:
    """HandlerError where a value is not JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise HandlerError(f"{what} are not JSON: {exc}") from None
