"""A task request as our pool would have decoded it, for tasks that run under one of Celery's own pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task

from avtomatika.worker.pool import TaskRequest


def request_of(task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskRequest:
    """Reads the request that Celery's tracer has set up in this thread or process.

    Takes the chain out of it, so that the tracer does not publish the next link a second time.
    """
    request = task.request
    chain, request.chain = list(request.chain or ()), None
    return TaskRequest(
        id=request.id,
        name=task.name,
        args=list(args),
        kwargs=dict(kwargs),
        headers=request.headers or {},
        chain=chain,
        root_id=request.root_id,
        parent_id=request.parent_id,
        delivery=request.delivery_info or {},
    )
