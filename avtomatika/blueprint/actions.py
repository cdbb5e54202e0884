"""The five things a handler can decide, and the factory that takes exactly one of them a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avtomatika.blueprint.options import (
    CHECKS,
    FailurePolicy,
    count,
    failure_policy,
    json_object,
    name,
    seconds,
    state_or_none,
    to_states,
)
from avtomatika.errors import HandlerError
from avtomatika.jobs import JSON, Limit, RetryPolicy


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
        limits: what it counts against; the placeholders in their keys are filled when the task is dispatched.
        fairness_key: whose turn it takes while tasks wait; None means the client's name.
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
    limits: tuple[Limit, ...] = ()
    fairness_key: str | None = None
    fairness_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class DispatchParallel:
    """Give many tasks to workers; once the verdict on them is clear, the aggregator of a state gets their results.

    Attributes:
        max_concurrency: how many of them run at once; None means any number.
        deadline_seconds: when the verdict is found with what has come; None waits as long as it takes.
        failure_state: where a bad verdict leads; None fails the job.
    """

    tasks: tuple[DispatchTask, ...]
    aggregate_into: str
    max_concurrency: int | None = None
    on_failure: FailurePolicy = field(default_factory=FailurePolicy)
    deadline_seconds: float | None = None
    failure_state: str | None = None


@dataclass(frozen=True, slots=True)
class RunBlueprint:
    """Run a child job and wait for its end, whatever it is."""

    blueprint_name: str
    initial_data: JSON
    transitions: dict[str, str]


@dataclass(frozen=True, slots=True)
class AwaitApproval:
    """Ask a person and wait for the decision, which picks the next state.

    Attributes:
        timeout_seconds: how long the decision is waited for; None means as long as it takes.
        on_timeout: the state to go to then; None fails the job.
        options: for the integration.
    """

    integration: str
    message: str
    transitions: dict[str, str]
    timeout_seconds: float | None = None
    on_timeout: str | None = None
    options: JSON = field(default_factory=dict)


Action = TransitionTo | DispatchTask | DispatchParallel | RunBlueprint | AwaitApproval


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
        self._decide(TransitionTo(name("state", state)))

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
        limits: Mapping[str, int | str] | None = None,
        fairness_key: str | None = None,
        fairness_weight: float = 1.0,
    ) -> None:
        """Gives a task to a worker.

        Args:
            task_type: the task's name, or the full name of a plain Celery task.
            params: JSON; for a plain Celery task its keyword arguments.
            transitions: result status -> state, e.g. ``{"success": "resize", "failure": "failed"}``.
            dispatch_strategy: which of the workers that suit it gets it.
            resource_requirements: what its worker must have: numbers are least amounts, texts are matched, lists are subsets,
                e.g. ``{"gpu_info": {"vram_gb": 24}, "installed_models": ["sd15"]}``.
            timeout_seconds: of the execution, from the claim; None means WORKER_TIMEOUT_SECONDS.
            max_cost: the most that a second of it may cost on its worker.
            priority: 0..10, highest first.
            dispatch_timeout_seconds: of the wait before it; None means none.
            queue: sends a plain Celery task there.
            retries: how often and how patiently it is tried again, and on which errors; see `RetryPolicy`.
            limits: key -> how many tasks of that key run at once (5), or start in a time ("60/min"); see `avtomatika.limits`.
            fairness_key: whose turn it takes while tasks wait; None means the client's name.
            fairness_weight: the size of that one's share; 2 gets twice what 1 gets.
        """
        options = {
            "dispatch_strategy": dispatch_strategy,
            "resource_requirements": resource_requirements,
            "timeout_seconds": timeout_seconds,
            "max_cost": max_cost,
            "priority": priority,
            "dispatch_timeout_seconds": dispatch_timeout_seconds,
            "queue": queue,
            "retries": retries,
            "limits": limits,
            "fairness_key": fairness_key,
            "fairness_weight": fairness_weight,
        }
        self._decide(_task(f"dispatch_task({task_type!r}): ", task_type, params, transitions, options))

    def dispatch_parallel(
        self,
        tasks: Sequence[Mapping[str, Any]],
        aggregate_into: str,
        max_concurrency: int | None = None,
        on_failure: str | Mapping[str, float] = "collect",
        deadline_seconds: float | None = None,
        failure_state: str | None = None,
    ) -> None:
        """Gives many tasks to workers and joins them.

        Args:
            tasks: each names its task by ``task_type`` or ``type``, with ``params`` and any option of `dispatch_task`.
            aggregate_into: the state whose aggregator gets ``aggregation_results``, {task_id: result envelope}.
            max_concurrency: how many of them run at once; None means any number.
            on_failure: ``"collect"`` joins whatever comes; ``"fail_fast"`` ends the fan-out with the first branch that failed for
                good; ``{"at_least": k}`` joins as soon as k have succeeded; ``{"tolerate": 0.1}`` lets a tenth of them fail.
            deadline_seconds: from now on; then the verdict is found with what has come.
            failure_state: where a bad verdict leads; None fails the job.
        """
        branches = tuple(_branch(index, task) for index, task in enumerate(tasks))
        self._decide(
            DispatchParallel(
                branches,
                name("aggregate_into", aggregate_into),
                count("max_concurrency", max_concurrency),
                failure_policy(on_failure, len(branches)),
                seconds("deadline_seconds", deadline_seconds),
                None if failure_state is None else name("failure_state", failure_state),
            )
        )

    def run_blueprint(
        self, blueprint_name: str, initial_data: Mapping[str, Any] | None = None, transitions: Mapping[str, str] | None = None
    ) -> None:
        """Runs a child job. Its end resumes this one: ``success``, ``failure`` or ``cancelled``."""
        self._decide(
            RunBlueprint(
                name("blueprint_name", blueprint_name),
                json_object("initial_data", initial_data),
                to_states("transitions", transitions),
            )
        )

    def await_human_approval(
        self,
        integration: str,
        message: str,
        transitions: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        on_timeout: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Asks a person; the decision (``approved``, ``rejected``, any key of transitions) picks the next state.

        Args:
            integration: how people come to hear of it: ``log``, ``webhook``, or one of your own; see `avtomatika.integrations`.
            timeout_seconds: how long the decision is waited for; None means as long as it takes.
            on_timeout: the state to go to then; None fails the job.
            options: JSON for the integration, such as ``{"url": "https://…"}`` for ``webhook``.
        """
        seconds_ = seconds("timeout_seconds", timeout_seconds)
        if on_timeout is not None and seconds_ is None:
            raise HandlerError("on_timeout says where to go after a time, and there is none: give timeout_seconds, too")
        self._decide(
            AwaitApproval(
                name("integration", integration),
                str(message),
                to_states("transitions", transitions),
                seconds_,
                state_or_none("on_timeout", on_timeout),
                json_object("options", options),
            )
        )


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
    chosen = options.pop("task_type", None)
    chosen = options.pop("type", chosen) if chosen is None else chosen
    options.pop("type", None)
    if chosen is None:
        raise HandlerError(f"dispatch_parallel: tasks[{index}] names no task; give it a 'task_type' (or 'type')")
    options.pop("transitions", None)  # a branch has none: its result goes to the aggregator
    params = options.pop("params", None)
    unknown = options.keys() - CHECKS.keys()
    if unknown:
        raise HandlerError(f"dispatch_parallel: tasks[{index}] has unknown options {sorted(unknown)}; known: {sorted(CHECKS)}")
    return _task(f"dispatch_parallel: tasks[{index}].", chosen, params, None, options)


def _task(
    where: str,
    task_type: Any,
    params: Any,
    transitions: Any,
    options: Mapping[str, Any],
) -> DispatchTask:
    """A task from what was written; HandlerError for the first thing that does not fit."""
    return DispatchTask(
        type=name(f"{where}task_type", task_type),
        params=json_object(f"{where}params", params),
        transitions=to_states(f"{where}transitions", transitions),
        **{option: CHECKS[option](where + option, value) for option, value in options.items()},
    )
