"""The five things a handler can decide, and the factory that takes exactly one of them a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from avtomatika.errors import HandlerError
from avtomatika.jobs import JSON, RetryPolicy


@dataclass(frozen=True, slots=True)
class TransitionTo:
    """Go on with another state at once."""

    state: str


@dataclass(frozen=True, slots=True)
class DispatchTask:
    """Give one task to a worker; its result's status picks the next state.

    Attributes:
        type: the task's name.
        transitions: result status -> state.
        queue: set to send a plain Celery task to this queue; None lets `task_routes` decide whether it is one.
    """

    type: str
    params: JSON
    transitions: dict[str, str]
    dispatch_strategy: str = "default"
    resource_requirements: JSON | None = None
    timeout_seconds: float | None = None
    dispatch_timeout_seconds: float | None = None
    max_cost: float | None = None
    priority: float = 0.0
    queue: str | None = None
    retries: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class DispatchParallel:
    """Give many tasks to workers; once all have ended, the aggregator of a state gets their results."""

    tasks: tuple[DispatchTask, ...]
    aggregate_into: str


@dataclass(frozen=True, slots=True)
class RunBlueprint:
    """Run a child job and wait for its end, whatever it is."""

    blueprint_name: str
    initial_data: JSON
    transitions: dict[str, str]


@dataclass(frozen=True, slots=True)
class AwaitApproval:
    """Ask a person and wait for the decision, which picks the next state."""

    integration: str
    message: str
    transitions: dict[str, str]


Action = TransitionTo | DispatchTask | DispatchParallel | RunBlueprint | AwaitApproval

_BRANCH_OPTIONS = {f.name for f in fields(DispatchTask)} - {"type", "params", "transitions"}


class ActionFactory:
    """What a handler calls as `actions`: one action per step, a second one raises HandlerError."""

    def __init__(self, job_id: str = "") -> None:
        self._job_id = job_id
        self._action: Action | None = None

    @property
    def action(self) -> Action | None:
        """The action that was decided, or None so far."""
        return self._action

    def _decide(self, action: Action) -> None:
        if self._action is not None:
            raise HandlerError(
                f"a step decides one action: {_describe(self._action)} was decided already, now {_describe(action)}; "
                "return after the first, or split the state in two"
            )
        self._action = action

    def transition_to(self, state: str) -> None:
        """Goes on with another state, without a trip over the broker."""
        self._decide(TransitionTo(_name("state", state)))

    def dispatch_task(
        self,
        task_type: str,
        params: Mapping[str, Any] | None = None,
        transitions: Mapping[str, str] | None = None,
        dispatch_strategy: str = "default",
        resource_requirements: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
        max_cost: float | None = None,
        priority: float = 0.0,
        *,
        dispatch_timeout_seconds: float | None = None,
        queue: str | None = None,
        retries: RetryPolicy | None = None,
    ) -> None:
        """Gives a task to a worker.

        Args:
            task_type: the task's name, or the full name of a plain Celery task.
            params: JSON; for a plain Celery task its keyword arguments.
            transitions: result status -> state, e.g. ``{"success": "resize", "failure": "failed"}``.
            timeout_seconds: of the execution, from the claim; None means WORKER_TIMEOUT_SECONDS.
            priority: 0..10, highest first.
            dispatch_timeout_seconds: of the wait before it; None means none.
            queue: sends a plain Celery task there.
        """
        self._decide(
            DispatchTask(
                type=_name("task_type", task_type),
                params=_object("params", params),
                transitions=_transitions(transitions),
                dispatch_strategy=dispatch_strategy,
                resource_requirements=dict(resource_requirements) if resource_requirements is not None else None,
                timeout_seconds=_seconds("timeout_seconds", timeout_seconds),
                dispatch_timeout_seconds=_seconds("dispatch_timeout_seconds", dispatch_timeout_seconds),
                max_cost=max_cost,
                priority=_priority(priority),
                queue=queue,
                retries=retries or RetryPolicy(),
            )
        )

    def dispatch_parallel(self, tasks: Sequence[Mapping[str, Any]], aggregate_into: str) -> None:
        """Gives many tasks to workers and joins them.

        Args:
            tasks: each names its task by ``task_type`` or ``type``, with ``params`` and any option of `dispatch_task`.
            aggregate_into: the state whose aggregator gets ``aggregation_results``, {task_id: result envelope}.
        """
        branches = tuple(_branch(index, task) for index, task in enumerate(tasks))
        self._decide(DispatchParallel(branches, _name("aggregate_into", aggregate_into)))

    def run_blueprint(
        self, blueprint_name: str, initial_data: Mapping[str, Any] | None = None, transitions: Mapping[str, str] | None = None
    ) -> None:
        """Runs a child job. Its end resumes this one: ``success``, ``failure`` or ``cancelled``."""
        self._decide(
            RunBlueprint(
                _name("blueprint_name", blueprint_name), _object("initial_data", initial_data), _transitions(transitions)
            )
        )

    def await_human_approval(self, integration: str, message: str, transitions: Mapping[str, str] | None = None) -> None:
        """Asks a person; the decision (``approved``, ``rejected``, any key of transitions) picks the next state."""
        self._decide(AwaitApproval(_name("integration", integration), str(message), _transitions(transitions)))


def _describe(action: Action) -> str:
    match action:
        case TransitionTo(state):
            return f"transition_to({state!r})"
        case DispatchTask(type=name):
            return f"dispatch_task({name!r})"
        case DispatchParallel(tasks=tasks):
            return f"dispatch_parallel({len(tasks)} tasks)"
        case RunBlueprint(blueprint_name=name):
            return f"run_blueprint({name!r})"
        case AwaitApproval(integration=name):
            return f"await_human_approval({name!r})"


def _branch(index: int, task: Mapping[str, Any]) -> DispatchTask:
    if not isinstance(task, Mapping):
        raise HandlerError(f"dispatch_parallel: tasks[{index}] is a {type(task).__name__}, not a dict with task_type and params")
    options = dict(task)
    name = options.pop("task_type", None)
    name = options.pop("type", name) if name is None else name
    options.pop("type", None)
    if name is None:
        raise HandlerError(f"dispatch_parallel: tasks[{index}] names no task; give it a 'task_type' (or 'type')")
    params = _object(f"tasks[{index}].params", options.pop("params", None))
    options.pop("transitions", None)  # a branch has none: its result goes to the aggregator
    unknown = options.keys() - _BRANCH_OPTIONS
    if unknown:
        raise HandlerError(
            f"dispatch_parallel: tasks[{index}] has unknown options {sorted(unknown)}; known: {sorted(_BRANCH_OPTIONS)}"
        )
    if "priority" in options:
        options["priority"] = _priority(options["priority"])
    for option in ("timeout_seconds", "dispatch_timeout_seconds"):
        _seconds(f"tasks[{index}].{option}", options.get(option))
    if not isinstance(options.setdefault("retries", RetryPolicy()), RetryPolicy):
        raise HandlerError(f"tasks[{index}].retries must be a RetryPolicy, not {options['retries']!r}")
    return DispatchTask(type=_name(f"tasks[{index}].task_type", name), params=params, transitions={}, **options)


def _name(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise HandlerError(f"{what} must be a non-empty string, not {value!r}")
    return value


def _object(what: str, value: Mapping[str, Any] | None) -> JSON:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise HandlerError(f"{what} must be a dict (JSON object), not {type(value).__name__}")
    return dict(value)


def _transitions(value: Mapping[str, str] | None) -> dict[str, str]:
    out = _object("transitions", value)
    for status, state in out.items():
        if not isinstance(status, str) or not isinstance(state, str):
            raise HandlerError(f"transitions map result statuses to state names; {status!r}: {state!r} does not")
    return out


def _seconds(what: str, value: float | None) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise HandlerError(f"{what} must be a positive number of seconds, not {value!r}")
    return value


def _priority(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        raise HandlerError(f"priority goes from 0 to 10, highest first; {value!r} does not fit")
    return float(value)
