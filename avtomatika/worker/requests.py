"""A task request as our pool would have decoded it, for tasks that run under one of Celery's own pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery import Task

from avtomatika.worker.pool import TaskRequest


def request_of(task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskRequest:
    """Reads the request that Celery's tracer has set up in this thread or process.

    Takes the chain out of it, so that the tracer does not publish the next link a second time.
    """
    found = replace(request_of_context(task.request), name=task.name, args=list(args), kwargs=dict(kwargs))
    task.request.chain = None
    return found


def request_of_context(context: Any) -> TaskRequest:
    """Reads a Celery `Context`, which knows all of a message but the task's name."""
    return TaskRequest(
        id=context.id,
        name=context.task or "",
        args=list(context.args or ()),
        kwargs=dict(context.kwargs or {}),
        headers=context.headers or {},
        chain=list(context.chain or ()),
        root_id=context.root_id,
        parent_id=context.parent_id,
        delivery=context.delivery_info or {},
    )
