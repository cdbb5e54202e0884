"""What a new queue task has to fit before it is stored: known, checked, and allowed to its client."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from avtomatika.jobs import JSON, Client
from avtomatika.operations.base import Operation, Params, misfits
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import SETTING, OperationsConfig, PolicyEntry, operations_config
from avtomatika.operations.errors import OperationError
from avtomatika.operations.hosts import batches, read_spread, resolve_hosts, split
from avtomatika.operations.policy import Permit, permit_of
from avtomatika.operations.registry import registry
from avtomatika.operations.secrets import refuse_secrets
from avtomatika.settings import Settings

#: The built-in blueprint of queue tasks.
NAME = "operation"
CATEGORY = "general"
WEEK = 7 * 24 * 3600

#: What the `queue` of a policy entry may hold.
PUSH, STATUS, CANCEL, MANAGE, LOGS = "push", "status", "cancel", "manage", "logs"
#: Of those, what an admin may do whatever the policy says.
_ADMINS = (STATUS, CANCEL, LOGS)


class NewTask(Params):
    """A queue task as it is asked for: the initial data of a job of the blueprint ``operation``.

    Attributes:
        max_retries: how often it is tried again by itself, after failures that another try may mend.
        max_concurrent: how many tasks of this client's queue `queue` run at once at most.
    """

    task_type: str = Field(min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    priority: float = Field(0.0, ge=0, le=10, allow_inf_nan=False)
    category: str = Field(CATEGORY, min_length=1, max_length=100)
    timeout_seconds: float | None = Field(None, gt=0, le=WEEK)
    max_retries: int | None = Field(None, ge=0, le=100)
    max_concurrent: int | None = Field(None, ge=1, le=10_000)
    queue: str = Field("default", pattern=r"^[A-Za-z0-9_.-]{1,64}$")


#: What `complete` adds for the blueprint.
_ADDED = ("hosts", "spread", "own_params", "batches")


def check_queue(client: Client, config: OperationsConfig, what: str) -> None:
    """Raises PolicyError where the client may not do this with the queue. Admins may always look, and cancel."""
    role = client.role or "default"
    entry = config.policy.get(f"blueprint:{NAME}") or config.policy.get(role)
    if (entry is not None and what in entry.queue) or (client.admin and what in _ADMINS):
        return
    fix = f"add [policy.{role}] to {SETTING}" if entry is None else f"name it in queue of [policy.{entry.name}]"
    raise Permit(client, config, entry or PolicyEntry(name=role)).refusal(f"{what!r} on the queue", fix)


def admit(initial_data: JSON, client: Client, settings: Settings) -> JSON:
    """What a new queue task is stored as; raises OperationError for one that does not fit, or that its client may not run."""
    config = operations_config(settings)
    check_queue(client, config, PUSH)
    given = {name: value for name, value in initial_data.items() if name not in _ADDED}
    return complete(given, permit_of(client, NAME, config), config)


def complete(given: JSON, permit: Permit, config: OperationsConfig) -> JSON:
    """The same, with what the blueprint needs: defaults of the operation, and its hosts in batches."""
    try:
        task = NewTask.model_validate(given)
    except ValidationError as exc:
        failed = {error["loc"][:1] for error in exc.errors(include_url=False, include_input=False, include_context=False)}
        code = TaskErrorCode.QUEUE_PRIORITY_INVALID if failed == {("priority",)} else None
        raise misfits("the task", exc, code) from None
    operation = registry().get(task.task_type)
    permit.check(operation)  # first of all: parameters are explained to those only who may use them
    refuse_secrets(task.params)
    own, about = split(operation, task.params)
    spread = read_spread(operation, about)
    hosts = resolve_hosts(spread, config)
    if hosts is None:
        operation.allow(operation.parse(own), permit)
    else:
        for host in _without_host(own, hosts):
            operation.allow(operation.parse({**own, "host": host}), permit)
    more: JSON = {"own_params": own} if about else {}
    if hosts is not None:
        more |= {"hosts": hosts, "batches": batches(hosts, spread.serial)}
    if about:
        more["spread"] = spread.model_dump(exclude={"hosts", "group"})
    return {**task.model_dump(exclude_none=True), **_defaults(task, operation), **more}


def _without_host(own: JSON, hosts: list[str]) -> list[str]:
    if "host" in own:
        raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, "give either host or hosts (or group), not both")
    return hosts


def _defaults(task: NewTask, operation: Operation) -> JSON:
    return {
        "timeout_seconds": task.timeout_seconds or operation.timeout_seconds,
        "max_retries": operation.max_retries if task.max_retries is None else task.max_retries,
    }
