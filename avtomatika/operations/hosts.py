"""One operation on many hosts: which they are, in which batches, and what has come of them. Nothing here does I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from avtomatika.errors import FailureCode
from avtomatika.operations.base import Operation, Params, misfits
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.errors import OperationError
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON, Result

#: Of one task.
MAX_HOSTS = 1000
#: Characters of one host's result, and of all of them, that are kept with the task: they are carried through all its batches.
MAX_RESULT, MAX_RESULTS = 8000, 1_000_000
#: Hosts of a batch at once, unless the task says otherwise.
FORKS = 5

#: A number of hosts, or a share of them, such as ``30%``.
Serial = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^(100|[1-9]?[0-9])(\.[0-9]+)?%$")]

_STATUSES = {
    Result.SUCCESS: TaskStatus.COMPLETED,
    Result.CANCELLED: TaskStatus.CANCELLED,
    Result.TIMEOUT: TaskStatus.TIMEOUT,
}
_CODES = {Result.TIMEOUT: TaskErrorCode.SYSTEM_TIMEOUT}


class Spread(Params):
    """What a task says about its hosts, beside the operation's own parameters.

    Attributes:
        hosts: names of the inventory, in place of `host`.
        group: all hosts of a group of the inventory, in its order; `*` is every host.
        serial: the size of a batch, as a number or a share (`30%`); a list gives the sizes of the first, the second, … batch.
        forks: how many hosts of a batch run at once.
        max_fail_percentage: the share of a batch that may fail; beyond it no further batch begins, and the task has failed.
        any_errors_fatal: after a batch with a failed host no further one begins.
        dry_run: nothing is run: the result is the plan.
    """

    hosts: list[Annotated[str, Field(min_length=1, max_length=253)]] | None = Field(None, min_length=1, max_length=MAX_HOSTS)
    group: str | None = Field(None, min_length=1)
    serial: Serial | list[Serial] | None = None
    forks: int = Field(FORKS, ge=1, le=MAX_HOSTS)
    max_fail_percentage: float | None = Field(None, ge=0, le=100)
    any_errors_fatal: bool = False
    dry_run: bool = False


def split(operation: Operation, params: JSON) -> tuple[JSON, JSON]:
    """The operation's own parameters, and those about its hosts. What the operation itself declares is its own."""
    own = {field.alias or name for name, field in operation.params.model_fields.items()} | set(operation.params.model_fields)
    about = {name: value for name, value in params.items() if name in Spread.model_fields and name not in own}
    return {name: value for name, value in params.items() if name not in about}, about


def read_spread(operation: Operation, about: JSON) -> Spread:
    """What a task says about its hosts, checked; OperationError with a VALIDATION code."""
    try:
        spread = Spread.model_validate(about)
    except ValidationError as exc:
        raise misfits(f"params of {operation.name}", exc) from None
    named = spread.hosts is not None or spread.group is not None
    if named and "host" not in operation.params.model_fields:
        raise _invalid(f"{operation.name} has no parameter 'host': it cannot be run on many hosts at once")
    if spread.hosts is not None and spread.group is not None:
        raise _invalid("give either hosts or group, not both")
    idle = sorted(set(about) - {"hosts", "group", "dry_run"})
    if idle and not named:
        raise _invalid(f"{', '.join(idle)}: only where the task names hosts, or a group")
    return spread


def resolve_hosts(spread: Spread, config: OperationsConfig) -> list[str] | None:
    """The names of the hosts, each once; None where the task is about one host, or none."""
    if spread.hosts is not None:
        return list(dict.fromkeys(spread.hosts))
    if spread.group is None:
        return None
    found = [host.name for host in config.group(spread.group)]
    if not found:
        raise _invalid(f"the group {spread.group!r} has no hosts: name it in groups of a [hosts.…] of the inventory")
    if len(found) > MAX_HOSTS:
        raise _invalid(f"the group {spread.group!r} has {len(found)} hosts; a task takes {MAX_HOSTS}: part it")
    return found


def _invalid(message: str) -> OperationError:
    return OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, message)


def batches(hosts: Sequence[str], serial: Any) -> list[list[str]]:
    """The hosts in batches: of `serial` each, all in one without it. The last size of a list goes on to the end."""
    if serial is None:
        return [list(hosts)]
    sizes = [_size(one, len(hosts)) for one in (serial if isinstance(serial, list) else [serial])]
    found: list[list[str]] = []
    begin = 0
    while begin < len(hosts):
        size = sizes[min(len(found), len(sizes) - 1)]
        found.append(list(hosts[begin : begin + size]))
        begin += size
    return found


def _size(serial: int | str, total: int) -> int:
    """At least one host, whatever its share comes to."""
    return serial if isinstance(serial, int) else max(1, math.floor(float(serial[:-1]) * total / 100))


def left(hosts: Sequence[str], rows: Mapping[str, JSON]) -> list[str]:
    """Those that have not succeeded yet: all of them at first, those that failed or were not reached when it is tried again."""
    return [host for host in hosts if rows.get(host, {}).get("status") != TaskStatus.COMPLETED]


def row_of(envelope: Mapping[str, Any], batch: int, hosts: int = 1) -> JSON:
    """What is kept of the result of a host, one of so many."""
    most = min(MAX_RESULT, MAX_RESULTS // hosts)
    result = Result.from_dict(envelope)
    status = _STATUSES.get(result.status, TaskStatus.FAILED)
    if status is TaskStatus.COMPLETED:
        return {"status": status.value, "batch": batch, "result": bounded(result.data, most)}
    said = result.error.message if result.error is not None else "Worker task timed out" if status is TaskStatus.TIMEOUT else ""
    code = _CODES.get(result.status) or result.data.get("error_code") or TaskErrorCode.UNKNOWN_ERROR
    if result.error is not None and result.error.code == FailureCode.WORKER_LOST:
        code = TaskErrorCode.SYSTEM_PROCESS_KILLED
    row = {"status": status.value, "batch": batch, "error": said, "error_code": str(code)}
    details = result.data.get("error_details")
    return {**row, "error_details": bounded(details, most)} if details else row


def bounded(value: Any, most: int = MAX_RESULT) -> Any:
    """A JSON value of about `most` characters at most: long values lose their middle, and of many keys the last ones go."""
    if len(json.dumps(value, default=str)) <= most:
        return value
    if isinstance(value, Mapping):
        share = max(100, most // max(1, len(value)))
        cut = {name: _cut(item, share) for name, item in list(value.items())[: max(1, most // 100)]}
        return {**cut, "shortened": True}
    return _cut(value, most)


def _cut(value: Any, most: int) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= most:
        return value
    return f"{text[: most // 2]}…{text[-(most // 2) :]}"


def reason_to_stop(spread: Mapping[str, Any], rows: Sequence[JSON], *, last: bool) -> str | None:
    """Why no further batch begins after one with these rows; None where it goes on.

    Without a bound of its own it goes on unless all hosts of the batch failed.
    """
    failed = sum(row["status"] != TaskStatus.COMPLETED for row in rows)
    most = spread.get("max_fail_percentage")
    if failed and spread.get("any_errors_fatal"):
        return f"{failed} of {len(rows)} hosts of a batch failed, and any error is fatal"
    if most is not None and failed * 100 > most * len(rows):
        return f"{failed} of {len(rows)} hosts of a batch failed, more than max_fail_percentage {most:g} lets"
    if most is None and failed == len(rows) and not last:
        return f"all {failed} hosts of a batch failed"
    return None


def summary(hosts: Sequence[str], rows: Mapping[str, JSON], stopped: str | None) -> JSON:
    """How many of the hosts came to what."""
    statuses = [rows.get(host, {}).get("status") for host in hosts]
    succeeded = statuses.count(TaskStatus.COMPLETED.value)
    skipped = statuses.count(None)
    return {
        "total": len(hosts),
        "succeeded": succeeded,
        "failed": len(hosts) - succeeded - skipped,
        "skipped": skipped,
        "stopped": stopped,
    }


def is_good(spread: Mapping[str, Any], counts: Mapping[str, Any]) -> bool:
    """Whether the task as a whole has succeeded: no host failed, or no more of them than its bound lets."""
    return counts["stopped"] is None and (not counts["failed"] or spread.get("max_fail_percentage") is not None)
