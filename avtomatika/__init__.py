"""avtomatika: blueprints on Celery. Importing it starts nothing and loads next to nothing; names are resolved at first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "ActionFactory": "avtomatika.blueprint.actions",
    "ApprovalRequest": "avtomatika.integrations",
    "Blueprint": "avtomatika.blueprint.blueprint",
    "Candidate": "avtomatika.state.base",
    "InvalidInputError": "avtomatika.errors",
    "JobContext": "avtomatika.blueprint.context",
    "ModelCache": "avtomatika.worker.models",
    "PermanentError": "avtomatika.errors",
    "Result": "avtomatika.jobs",
    "RetryPolicy": "avtomatika.jobs",
    "StateMachineBlueprint": "avtomatika.blueprint.blueprint",
    "TaskError": "avtomatika.errors",
    "TransientError": "avtomatika.errors",
    "Worker": "avtomatika.worker.sdk",
    "integration": "avtomatika.integrations",
    "strategy": "avtomatika.engine.strategies",
}

__all__ = [
    "ActionFactory",
    "ApprovalRequest",
    "Blueprint",
    "Candidate",
    "InvalidInputError",
    "JobContext",
    "ModelCache",
    "PermanentError",
    "Result",
    "RetryPolicy",
    "StateMachineBlueprint",
    "TaskError",
    "TransientError",
    "Worker",
    "__version__",
    "integration",
    "strategy",
]


def __getattr__(name: str) -> Any:
    try:
        module = _NAMES[name]
    except KeyError:
        raise AttributeError(f"module 'avtomatika' has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])


if TYPE_CHECKING:
    from avtomatika.blueprint.actions import ActionFactory
    from avtomatika.blueprint.blueprint import Blueprint, StateMachineBlueprint
    from avtomatika.blueprint.context import JobContext
    from avtomatika.engine.strategies import strategy
    from avtomatika.errors import InvalidInputError, PermanentError, TaskError, TransientError
    from avtomatika.integrations import ApprovalRequest, integration
    from avtomatika.jobs import Result, RetryPolicy
    from avtomatika.state.base import Candidate
    from avtomatika.worker.models import ModelCache
    from avtomatika.worker.sdk import Worker
