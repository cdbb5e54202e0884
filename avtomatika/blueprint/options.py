"""What the options of a dispatch may be: each check returns the value as it is kept, or raises HandlerError with the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from avtomatika.errors import HandlerError
from avtomatika.jobs import JSON, Limit, RetryPolicy
from avtomatika.limits import check_key, parse_limits

COLLECT, FAIL_FAST, AT_LEAST, TOLERATE = "collect", "fail_fast", "at_least", "tolerate"
_POLICIES = f'"{COLLECT}", "{FAIL_FAST}", {{"{AT_LEAST}": number of branches}}, {{"{TOLERATE}": share of branches}}'


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Which verdict a fan-out comes to.

    Attributes:
        kind: collect (whatever comes), fail_fast (none may fail), at_least, tolerate.
        amount: of at_least, how many branches have to succeed; of tolerate, the share of them that may fail.
    """

    kind: str = COLLECT
    amount: float = 0

    def __str__(self) -> str:
        return self.kind if self.kind in (COLLECT, FAIL_FAST) else f"{self.kind} {self.amount}"


def failure_policy(value: Any, total: int) -> FailurePolicy:
    """`on_failure` of a fan-out of so many branches."""
    if value in (COLLECT, FAIL_FAST):
        return FailurePolicy(value)
    match value:
        case {"at_least": amount, **rest} if not rest:
            if not _is_number(amount) or amount != int(amount) or not 1 <= amount <= total:
                raise HandlerError(f"on_failure: at_least counts branches, from 1 to the {total} that there are, not {amount!r}")
            return FailurePolicy(AT_LEAST, int(amount))
        case {"tolerate": amount, **rest} if not rest:
            if not _is_number(amount) or not 0 <= amount < 1:
                raise HandlerError(
                    f"on_failure: tolerate is the share that may fail, from 0 to below 1 (0.1 for a tenth), not {amount!r}"
                )
            return FailurePolicy(TOLERATE, amount)
    raise HandlerError(f"on_failure {value!r} is no policy; there are {_POLICIES}")


def name(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise HandlerError(f"{what} must be a non-empty string, not {value!r}")
    return value


def state_or_none(what: str, value: Any) -> str | None:
    return None if value is None else name(what, value)


def json_object(what: str, value: Any) -> JSON:
    """A JSON object; {} where None is given."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise HandlerError(f"{what} must be a dict (JSON object), not {type(value).__name__}")
    return dict(value)


def to_states(what: str, value: Any) -> dict[str, str]:
    out = json_object(what, value)
    for status, state in out.items():
        if not isinstance(status, str) or not isinstance(state, str):
            raise HandlerError(f"{what} map result statuses to state names; {status!r}: {state!r} does not")
    return out


def seconds(what: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not value > 0:
        raise HandlerError(f"{what} must be a positive number of seconds, not {value!r}")
    return value  # type: ignore[no-any-return]


def count(what: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise HandlerError(f"{what} must be a whole number of 1 or more, or None for no limit, not {value!r}")
    return value


def _priority(what: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 10:
        raise HandlerError(f"{what} goes from 0 to 10, highest first; {value!r} does not fit")
    return float(value)


def _max_cost(what: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value < 0:
        raise HandlerError(f"{what} is the most that a second may cost, a number of 0 or more, not {value!r}")
    return float(value)


def _weight(what: str, value: Any) -> float:
    if not _is_number(value) or not 0.001 <= value <= 1000:
        raise HandlerError(
            f"{what} is the size of a share, a number from 0.001 to 1000 (2 for twice that of others), not {value!r}"
        )
    return float(value)


def _queue(what: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise HandlerError(f"{what} must be the name of a queue, not {value!r}")
    return value


def _retries(what: str, value: Any) -> RetryPolicy:
    if value is not None and not isinstance(value, RetryPolicy):
        raise HandlerError(f"{what} must be a RetryPolicy, such as RetryPolicy(max_attempts=5, backoff_seconds=2), not {value!r}")
    return value or RetryPolicy()


def _fairness_key(what: str, value: Any) -> str | None:
    return None if value is None else check_key(what, value)


def _requirements(what: str, value: Any) -> JSON | None:
    if value is None:
        return None
    wanted = json_object(what, value)
    models = wanted.get("installed_models", [])
    if not isinstance(models, list | tuple) or not all(isinstance(model, str) and model for model in models):
        raise HandlerError(f'{what}: installed_models is a list of names, such as ["sd15"], not {models!r}')
    if not isinstance(wanted.get("gpu_info", {}), Mapping):
        raise HandlerError(f'{what}: gpu_info is an object, such as {{"vram_gb": 24}}, not {wanted["gpu_info"]!r}')
    return {_asked_name(what, asked): _asked(f"{what}: {asked}", item) for asked, item in wanted.items()}


def _asked_name(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise HandlerError(f"{what}: the names in it are texts, and {value!r} is none")
    return value


def _asked(what: str, value: Any) -> Any:
    """One requirement, as JSON: a least amount, a text, a flag, a list, or an object of those."""
    match value:
        case Mapping():
            return {_asked_name(what, asked): _asked(f"{what}.{asked}", item) for asked, item in value.items()}
        case list() | tuple():
            return [_asked(what, item) for item in value]
    if value is None or isinstance(value, str | bool) or _is_number(value):
        return value
    raise HandlerError(
        f"{what} is {value!r}, which nothing can be compared with; ask for numbers (least amounts), texts, or lists of those"
    )


def _limits(what: str, value: Any) -> tuple[Limit, ...]:
    return parse_limits(what, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: The options that `dispatch_task` and each branch of `dispatch_parallel` take, beside the task, its params and transitions.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "dispatch_strategy": name,
    "resource_requirements": _requirements,
    "timeout_seconds": seconds,
    "dispatch_timeout_seconds": seconds,
    "max_cost": _max_cost,
    "priority": _priority,
    "queue": _queue,
    "retries": _retries,
    "limits": _limits,
    "fairness_key": _fairness_key,
    "fairness_weight": _weight,
}

#: Those of `dispatch_parallel` itself, but for `on_failure`, which depends on the number of branches.
FAN_OUT_CHECKS: dict[str, Callable[[str, Any], Any]] = {"max_concurrency": count, "deadline_seconds": seconds}

#: Those of `await_human_approval`.
APPROVAL_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "timeout_seconds": seconds,
    "on_timeout": state_or_none,
    "options": json_object,
}
