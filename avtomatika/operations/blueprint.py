"""The built-in blueprint ``operation``: a queue task is a job of it."""

from __future__ import annotations

from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.errors import HandlerError
from avtomatika.jobs import JSON, Client, RetryPolicy
from avtomatika.operations.admission import NAME as NAME
from avtomatika.operations.admission import admit, complete
from avtomatika.operations.audit import audited
from avtomatika.operations.config import operations_config
from avtomatika.operations.errors import OperationError
from avtomatika.operations.hosts import batches, is_good, left, reason_to_stop, row_of, summary
from avtomatika.operations.policy import permit_of
from avtomatika.settings import get_settings

#: What every task has that was admitted.
_ADMITTED = {"queue", "max_retries", "timeout_seconds"}
#: Of the state_history, what is no part of an operation's result: an earlier attempt's failure or pause, and a completed task.
_OVER = ("error_code", "error_details", "paused_at", "task")

operation = Blueprint(NAME)
operation.admit = audited(admit)


@operation.handler_for("run", is_start=True)
async def run(initial_data: JSON, state_history: JSON, client: Client, actions: Any) -> None:
    """Gives the operation to a worker; once more after a pause. On many hosts: to one worker for each host of the next batch."""
    if not initial_data.keys() >= _ADMITTED and "task" not in state_history:
        state_history["task"] = _completed(initial_data, client)
    task = task_of(initial_data, state_history)
    options: JSON = {
        "timeout_seconds": task["timeout_seconds"],
        "priority": task.get("priority", 0.0),
        "retries": RetryPolicy(max_attempts=task["max_retries"] + 1),
        "limits": {f"queue:{{client}}:{task['queue']}": task["max_concurrent"]} if task.get("max_concurrent") else None,
    }
    params: JSON = task.get("own_params") or task.get("params") or {}
    spread: JSON = task.get("spread") or {}
    if spread.get("dry_run"):
        state_history["plan"] = _plan(task, params)
        actions.transition_to("completed")
    elif "hosts" in task:
        todo = state_history.get("todo")
        if not todo:  # it begins, or is tried again
            todo = batches(left(task["hosts"], state_history.get("rows", {})), spread.get("serial"))
            state_history.update(todo=todo, rows=state_history.get("rows", {}), stopped=None)
        actions.dispatch_parallel(
            [{"task_type": task["task_type"], "params": {**params, "host": host}, **options} for host in todo[0]],
            aggregate_into="joined",
            max_concurrency=spread.get("forks"),
        )
    else:
        actions.dispatch_task(task["task_type"], params, transitions={"success": "completed", "paused": "run"}, **options)


@operation.aggregator_for("joined")
async def joined(initial_data: JSON, state_history: JSON, aggregation_results: JSON, actions: Any) -> None:
    """A batch has ended: the next one begins, unless too many of its hosts have failed."""
    task = task_of(initial_data, state_history)
    todo, rows, spread = state_history["todo"], dict(state_history["rows"]), task.get("spread", {})
    number = max((row["batch"] for row in rows.values()), default=0) + 1
    ended = {
        host: row_of(envelope, number, len(task["hosts"]))
        for host, envelope in zip(todo[0], aggregation_results.values(), strict=True)
    }
    rows.update(ended)
    stopped = reason_to_stop(spread, list(ended.values()), last=len(todo) == 1)
    state_history.update(rows=rows, todo=todo[1:], stopped=stopped)
    if stopped is None and todo[1:]:
        actions.transition_to("run")
        return
    state_history["todo"] = []
    if is_good(spread, summary(task["hosts"], rows, stopped)):
        actions.transition_to("completed")
    else:
        actions.transition_to("failed")


@operation.handler_for("completed", is_end=True)
async def completed(initial_data: JSON, state_history: JSON) -> JSON:
    """The operation's result is the job's; that of many hosts has each one's."""
    if "rows" in state_history:
        return many(initial_data, state_history)
    return {name: value for name, value in state_history.items() if name not in _OVER}


@operation.handler_for("failed", is_end=True)
async def failed(initial_data: JSON, state_history: JSON) -> JSON:
    """Too many hosts have failed."""
    return many(initial_data, state_history)


def many(initial_data: JSON, state_history: JSON) -> JSON:
    """What is said of a task on many hosts: the counts, and each host's row in the order of the task."""
    task = task_of(initial_data, state_history)
    rows = state_history.get("rows", {})
    return {
        "summary": summary(task["hosts"], rows, state_history.get("stopped")),
        "hosts": {host: rows.get(host, {"status": "skipped"}) for host in task["hosts"]},
    }


def task_of(initial_data: JSON, state_history: JSON) -> JSON:
    """A task as it was admitted: the initial data, or what they were completed to."""
    found: JSON = state_history.get("task") or initial_data
    return found


def _completed(initial_data: JSON, client: Client) -> JSON:
    """A task that did not come through the queue, but was made by a schedule or by another blueprint."""
    config = operations_config(get_settings())
    try:
        return complete(initial_data, permit_of(client, NAME, config), config)
    except OperationError as exc:  # to try again would not help
        raise HandlerError(str(exc)) from None


def _plan(task: JSON, params: JSON) -> JSON:
    """What a task would do: its operation with these parameters, on each of these hosts."""
    hosts = {"batches": task["batches"], "forks": task["spread"]["forks"]} if "hosts" in task else {}
    return {"task_type": task["task_type"], "params": params, **hosts}
