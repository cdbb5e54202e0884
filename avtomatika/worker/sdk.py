"""How a worker says what it can do: `Worker` and `@worker.task`.

The same decorated function runs in a Celery worker and in any other worker of this package. One process is one registered
worker: its Worker objects merge.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from avtomatika.broker.queues import ORCHESTRATOR, queue_name
from avtomatika.errors import InvalidInputError, RegistrationError
from avtomatika.jobs import JSON
from avtomatika.settings import get_settings
from avtomatika.worker.resources import check_resources, join_same

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
    """Declares tasks, limits, and what the machine is that they run on.

    Args:
        worker_type: a name for people and views.
        max_concurrent_tasks: how many tasks run at once over all capabilities.
        task_type_limits: capability -> how many of its tasks run at once; without one, the global limit holds.
        skill_dependencies: task name -> models that must be loaded for it to count as hot.
        cost_per_second: what a second of work costs here, in the fleet's currency; None leaves it to WORKER_COST_PER_SECOND.
        cost_per_skill: task name -> what a second of it costs instead.
        resources: laid over what is found on the machine: `{"gpu_info": {"model": "T4", "vram_gb": 16}, "region": "eu"}`;
            None takes away what was found.
        installed_models: names of the models on the disk.

    Raises:
        RegistrationError: a value does not fit; the message names the argument.
    """

    def __init__(
        self,
        worker_type: str = "worker",
        max_concurrent_tasks: int = 10,
        task_type_limits: Mapping[str, int] | None = None,
        skill_dependencies: Mapping[str, Collection[str]] | None = None,
        *,
        cost_per_second: float | None = None,
        cost_per_skill: Mapping[str, float] | None = None,
        resources: Mapping[str, Any] | None = None,
        installed_models: Collection[str] = (),
    ) -> None:
        if max_concurrent_tasks < 1:
            raise RegistrationError(f"max_concurrent_tasks must be at least 1, not {max_concurrent_tasks}")
        for capability, limit in (task_type_limits or {}).items():
            if limit < 1:
                raise RegistrationError(f"task_type_limits[{capability!r}] must be at least 1, not {limit}")
        self.worker_type = worker_type
        self.max_concurrent_tasks = max_concurrent_tasks
        self.task_type_limits = dict(task_type_limits or {})
        self.skill_dependencies = {
            task: check_names(models, f"skill_dependencies[{task!r}]") for task, models in (skill_dependencies or {}).items()
        }
        self.cost_per_second = None if cost_per_second is None else _amount(cost_per_second, "cost_per_second")
        self.cost_per_skill = {task: _amount(cost, f"cost_per_skill[{task!r}]") for task, cost in (cost_per_skill or {}).items()}
        self.resources = check_resources(resources or {}, "resources")
        self.installed_models = check_names(installed_models, "installed_models")
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
            if (task_type or task) in (ORCHESTRATOR, "worker"):
                raise RegistrationError(
                    f"task {task!r}: the capability {task_type or task!r} belongs to the engine; name another"
                )
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

    def run(
        self,
        *others: Worker,
        orchestrator_url: str | None = None,
        token: str | None = None,
        orchestrators: Sequence[Mapping[str, Any]] | None = None,
        worker_id: str | None = None,
    ) -> None:
        """Runs this process's tasks over HTTP until SIGTERM or SIGINT: no broker, it pulls from the orchestrators' facades.

        Args:
            others: more Worker objects that this process runs; all of them make one registered worker.
            orchestrator_url: the facade, such as ``https://orchestrator.example``; without it ORCHESTRATOR_URL.
            token: without it WORKER_INDIVIDUAL_TOKEN, then WORKER_TOKEN.
            orchestrators: several of them, ``[{"url": …, "priority": 1, "weight": 2, "token": …}, …]``; without it
                ORCHESTRATORS_CONFIG. The lower priority number comes first; work is shared by weight within one priority.
            worker_id: without it WORKER_ID, else ``<worker type>-<host>-<pid>``.

        Raises:
            ConfigurationError: a URL or token is missing or does not fit, or no orchestrator lets this worker in.
            RegistrationError: the Worker objects do not fit together.
        """
        from avtomatika.logs import configure
        from avtomatika.worker.http import read_config, work

        settings = get_settings()
        urls = (orchestrator_url,) if orchestrator_url else ()
        config = read_config(settings, self.worker_type, urls=urls, orchestrators=orchestrators, token=token, worker_id=worker_id)
        for worker in (self, *others):
            use(worker)
        if not logging.getLogger().handlers:
            configure(settings)
        work(config, declared(), settings)


def _amount(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise RegistrationError(f"{where} must be a number of at least 0, not {value!r}")
    return float(value)


def check_names(names: Collection[str], where: str) -> list[str]:
    """Model names as a list without repetitions. Raises RegistrationError."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise RegistrationError(f"{where} must be a list of model names, not {names!r}")
    for name in names:
        if not isinstance(name, str) or not name or name != name.strip():
            raise RegistrationError(f"{where} holds {name!r}; a model's name is a text without spaces around it")
    return list(dict.fromkeys(names))


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
    cost_per_second: float | None = None
    cost_per_skill: dict[str, float] = field(default_factory=dict)
    resources: JSON = field(default_factory=dict)
    installed_models: tuple[str, ...] = ()
    max_concurrent_tasks: int = 0
    pinned: dict[str, str] = field(default_factory=dict)

    def use(self, worker: Worker) -> None:
        """Adds a Worker; all or nothing. What two of them say differently is refused, and so is the name of an unknown task."""
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
        for argument in ("skill_dependencies", "cost_per_skill"):
            for task in getattr(worker, argument):
                if task not in worker.tasks:
                    raise RegistrationError(
                        f"{argument} names the task {task!r}, which its Worker does not declare; declared: {sorted(worker.tasks)}"
                    )
        costs = {cost for cost in (self.cost_per_second, worker.cost_per_second) if cost is not None}
        if len(costs) > 1:
            raise RegistrationError(
                f"cost_per_second is {self.cost_per_second} and {worker.cost_per_second} by two Worker objects; "
                "a process has one; use cost_per_skill for single tasks"
            )
        resources = join_same(self.resources, worker.resources)
        self.workers.append(worker)
        self.tasks.update(worker.tasks)
        self.capability_limits.update(worker.task_type_limits)
        self.skill_dependencies.update(worker.skill_dependencies)
        self.cost_per_skill.update(worker.cost_per_skill)
        self.cost_per_second = next(iter(costs), None)
        self.resources = resources
        self.installed_models = tuple(dict.fromkeys((*self.installed_models, *worker.installed_models)))
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
