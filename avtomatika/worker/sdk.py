"""How a worker says what it can do: `Worker` and `@worker.task`.

The same decorated function runs in a Celery worker and in any other worker of this package. One process is one registered
worker: its Worker objects merge.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from avtomatika.broker.queues import ORCHESTRATOR, queue_name
from avtomatika.errors import InvalidInputError, RegistrationError
from avtomatika.jobs import JSON
from avtomatika.settings import get_settings

F = TypeVar("F", bound=Callable[..., Any])

#: What a handler may ask for by name, beside its parameters.
CONTEXT_NAMES = frozenset(
    {
        "task_id",
        "job_id",
        "priority",
        "attempt",
        "worker_id",
        "timeout_at",
        "tracing_context",
        "send_progress",
        "add_to_hot_cache",
        "remove_from_hot_cache",
    }
)


@dataclass(frozen=True)
class TaskDeclaration:
    """One task that this process can run.

    Attributes:
        capability: the declared task_type; None where the worker named none.
        process: the function runs in a process of its own.
        path: the file that declares it, which a child process loads again.
    """

    name: str
    capability: str | None
    func: Callable[..., Any]
    process: bool = False
    path: Path | None = None

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.func)

    @cached_property
    def _signature(self) -> tuple[str | None, frozenset[str], bool]:
        """(name of the parameter that takes the params, context names asked for, whether it takes **kwargs)."""
        parameters = inspect.signature(self.func).parameters.values()
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        takes = "params" if "params" in names else next((n for n in names if n not in CONTEXT_NAMES), None)
        return takes, CONTEXT_NAMES.intersection(names), any(p.kind is p.VAR_KEYWORD for p in parameters)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any] | None:
        takes = self._signature[0]
        annotation: Any = get_type_hints(self.func).get(takes) if takes else None
        is_model = isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation))
        return TypeAdapter(annotation) if is_model else None

    def arguments(self, params: JSON, context: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of one call. Raises InvalidInputError where the params do not fit the declared model."""
        takes, asked, takes_rest = self._signature
        out = dict(context) if takes_rest else {name: context[name] for name in asked}
        if takes is not None:
            out[takes] = self._parse(params)
        elif takes_rest:
            out["params"] = params
        return out

    def _parse(self, params: JSON) -> Any:
        if self._adapter is None:
            return params
        try:
            return self._adapter.validate_python(params)
        except ValidationError as exc:
            misfits = "; ".join(
                f"{'.'.join(str(part) for part in error['loc']) or 'params'}: {error['msg']}"
                for error in exc.errors(include_url=False, include_input=False)
            )
            raise InvalidInputError(f"params of {self.name} do not fit: {misfits}") from None


class Worker:
    """Declares tasks and limits.

    Args:
        worker_type: a name for people and views.
        max_concurrent_tasks: how many tasks run at once over all capabilities.
        task_type_limits: capability -> how many of its tasks run at once; without one, the global limit holds.
        skill_dependencies: task name -> models that must be loaded for it to count as hot.
    """

    def __init__(
        self,
        worker_type: str = "worker",
        max_concurrent_tasks: int = 10,
        task_type_limits: Mapping[str, int] | None = None,
        skill_dependencies: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        if max_concurrent_tasks < 1:
            raise RegistrationError(f"max_concurrent_tasks must be at least 1, not {max_concurrent_tasks}")
        for capability, limit in (task_type_limits or {}).items():
            if limit < 1:
                raise RegistrationError(f"task_type_limits[{capability!r}] must be at least 1, not {limit}")
        self.worker_type = worker_type
        self.max_concurrent_tasks = max_concurrent_tasks
        self.task_type_limits = dict(task_type_limits or {})
        self.skill_dependencies = {name: list(models) for name, models in (skill_dependencies or {}).items()}
        self.tasks: dict[str, TaskDeclaration] = {}

    def task(self, name: str | None = None, task_type: str | None = None, *, process: bool = False) -> Callable[[F], F]:
        """Declares a function as a task.

        Args:
            name: the task's name; the function's own by default.
            task_type: its capability (`gpu`, `cpu`, …); without one, the pinned capability, else the task's own name.
            process: run it in a process of its own: for work that holds the interpreter's lock.
        """

        def register(func: F) -> F:
            task = name or func.__name__
            for label, value in (("task name", task), ("task_type", task_type)):
                if value is not None and (not value or value != value.strip() or " " in value):
                    raise RegistrationError(f"{label} {value!r} must be a non-empty name without spaces")
            if task_type == ORCHESTRATOR:
                raise RegistrationError(f"task {task!r}: the capability {ORCHESTRATOR!r} belongs to the engine; name another")
            if task_type is not None and "." in task_type:
                raise RegistrationError(
                    f"task {task!r}: a task_type has no dot, since queues are named <task_type>.<task>; not {task_type!r}"
                )
            if task in self.tasks:
                raise RegistrationError(f"task {task!r} is declared twice in one Worker; rename one of them")
            if process and inspect.iscoroutinefunction(func):
                raise RegistrationError(f"task {task!r}: process=True takes a plain function, not a coroutine function")
            self.tasks[task] = TaskDeclaration(task, task_type, func, process, _source(func))
            return func

        return register


def _source(func: Callable[..., Any]) -> Path | None:
    try:
        return Path(inspect.getfile(func)).resolve()
    except TypeError:
        return None


@dataclass(frozen=True, slots=True)
class Capability:
    """What one channel of the consumer takes: its queues, and how many of its tasks run at once."""

    name: str
    queues: tuple[str, ...]
    limit: int


@dataclass
class Declared:
    """Everything that the Worker objects of this process declare, merged."""

    workers: list[Worker] = field(default_factory=list)
    tasks: dict[str, TaskDeclaration] = field(default_factory=dict)
    capability_limits: dict[str, int] = field(default_factory=dict)
    skill_dependencies: dict[str, list[str]] = field(default_factory=dict)
    max_concurrent_tasks: int = 0
    pinned: dict[str, str] = field(default_factory=dict)

    def use(self, worker: Worker) -> None:
        """Adds a Worker; all or nothing. A task declared twice or two limits for one capability refuse it."""
        if worker in self.workers:
            return
        for name, task in worker.tasks.items():
            if name in self.tasks:
                raise RegistrationError(
                    f"task {name!r} is declared by {task.path} and by {self.tasks[name].path}; "
                    "a process runs one of them: rename or remove one"
                )
        for capability, limit in worker.task_type_limits.items():
            other = self.capability_limits.get(capability, limit)
            if other != limit:
                raise RegistrationError(
                    f"capability {capability!r} is limited to {other} and to {limit} by two Worker objects; "
                    "give both the same limit"
                )
        self.workers.append(worker)
        self.tasks.update(worker.tasks)
        self.capability_limits.update(worker.task_type_limits)
        self.skill_dependencies.update(worker.skill_dependencies)
        self.max_concurrent_tasks += worker.max_concurrent_tasks

    def capability_of(self, task: str) -> str:
        """The pinned capability, the declared one, or the task's own name."""
        return self.pinned.get(task) or self.tasks[task].capability or task

    def limit_of(self, capability: str) -> int:
        return min(self.capability_limits.get(capability, self.max_concurrent_tasks), self.max_concurrent_tasks)


_declared = Declared()


def declared() -> Declared:
    """What this process declares."""
    return _declared


def use(worker: Worker) -> None:
    """Makes this process run a Worker's tasks."""
    _declared.use(worker)


def find_task(name: str) -> TaskDeclaration:
    try:
        return _declared.tasks[name]
    except KeyError:
        raise RegistrationError(f"this process declares no task {name!r}; declared: {sorted(_declared.tasks)}") from None


def capabilities_of(selected: Collection[str] | None) -> dict[str, Capability]:
    """What to consume for the names given with -Q; None (no -Q) means all that is declared, never the orchestrator.

    Names that are no capability of this process are left out: they are ordinary Celery queues.
    """
    by_capability: dict[str, list[str]] = {}
    for task in _declared.tasks:
        by_capability.setdefault(_declared.capability_of(task), []).append(task)
    out = {
        name: Capability(name, (*(queue_name(name, task) for task in tasks), queue_name(name)), _declared.limit_of(name))
        for name, tasks in by_capability.items()
        if selected is None or name in selected
    }
    if selected is not None and ORCHESTRATOR in selected:
        out[ORCHESTRATOR] = Capability(ORCHESTRATOR, (queue_name(ORCHESTRATOR),), get_settings().orchestrator_concurrency)
    return out
