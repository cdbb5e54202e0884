"""The queue: remote work as tasks that are seen, paused, cancelled and tried again. See docs/queue.md.

A task is a job of the built-in blueprint ``operation``; nothing is stored beside it. Names are resolved at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "ActionFailedError": "avtomatika.queue.errors",
    "ErrorResult": "avtomatika.queue.command",
    "QueueCancelCommand": "avtomatika.queue.commands",
    "QueueManageCommand": "avtomatika.queue.commands",
    "QueueManager": "avtomatika.queue.manager",
    "QueuePushCommand": "avtomatika.queue.pushing",
    "QueueStatusCommand": "avtomatika.queue.commands",
    "QueueTaskStatusCommand": "avtomatika.queue.commands",
    "SCPClientCommand": "avtomatika.queue.pushing",
    "SSHClientCommand": "avtomatika.queue.pushing",
    "SuccessResult": "avtomatika.queue.command",
    "Task": "avtomatika.queue.task",
    "TaskErrorCode": "avtomatika.operations.codes",
    "TaskQueue": "avtomatika.queue.taskqueue",
    "TaskStatus": "avtomatika.operations.types",
    "TaskType": "avtomatika.operations.types",
    "UnknownTaskError": "avtomatika.queue.errors",
    "queue_manager": "avtomatika.queue.manager",
}

__all__ = [
    "ActionFailedError",
    "ErrorResult",
    "QueueCancelCommand",
    "QueueManageCommand",
    "QueueManager",
    "QueuePushCommand",
    "QueueStatusCommand",
    "QueueTaskStatusCommand",
    "SCPClientCommand",
    "SSHClientCommand",
    "SuccessResult",
    "Task",
    "TaskErrorCode",
    "TaskQueue",
    "TaskStatus",
    "TaskType",
    "UnknownTaskError",
    "queue_manager",
]


def __getattr__(name: str) -> Any:
    try:
        module = _NAMES[name]
    except KeyError:
        raise AttributeError(f"module 'avtomatika.queue' has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])


if TYPE_CHECKING:
    from avtomatika.operations.codes import TaskErrorCode
    from avtomatika.operations.types import TaskStatus, TaskType
    from avtomatika.queue.command import ErrorResult, SuccessResult
    from avtomatika.queue.commands import (
        QueueCancelCommand,
        QueueManageCommand,
        QueueStatusCommand,
        QueueTaskStatusCommand,
    )
    from avtomatika.queue.errors import ActionFailedError, UnknownTaskError
    from avtomatika.queue.manager import QueueManager, queue_manager
    from avtomatika.queue.pushing import QueuePushCommand, SCPClientCommand, SSHClientCommand
    from avtomatika.queue.task import Task
    from avtomatika.queue.taskqueue import TaskQueue
