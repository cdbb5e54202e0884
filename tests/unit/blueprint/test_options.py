"""What `dispatch_task` and `dispatch_parallel` take, and what they refuse with a sentence that names the fix."""

from __future__ import annotations

from typing import Any

import pytest

from avtomatika import ActionFactory, RetryPolicy
from avtomatika.blueprint.actions import DispatchParallel, DispatchTask
from avtomatika.blueprint.options import FailurePolicy
from avtomatika.errors import HandlerError
from avtomatika.jobs import Limit


def dispatched(**options: Any) -> DispatchTask:
    actions = ActionFactory()
    actions.dispatch_task("work", {"x": 1}, {"success": "end"}, **options)
    assert isinstance(actions.action, DispatchTask)
    return actions.action


def fanned_out(count: int = 4, branch: dict[str, Any] | None = None, **options: Any) -> DispatchParallel:
    actions = ActionFactory()
    actions.dispatch_parallel([{"task_type": "work", **(branch or {})} for _ in range(count)], "join", **options)
    assert isinstance(actions.action, DispatchParallel)
    return actions.action


def test_a_dispatch_without_options() -> None:
    assert dispatched() == DispatchTask("work", {"x": 1}, {"success": "end"})


OPTIONS: dict[str, Any] = {
    "dispatch_strategy": "cheapest",
    "resource_requirements": {"cpu_cores": 4, "gpu_info": {"model": "T4", "vram_gb": 16.5}, "installed_models": ["sd15"]},
    "timeout_seconds": 30,
    "dispatch_timeout_seconds": 0.5,
    "max_cost": 0,
    "priority": 7.5,
    "queue": "fleet",
    "retries": RetryPolicy(2),
    "fairness_key": "team:{client}",
    "fairness_weight": 3,
}


def test_a_branch_takes_the_options_of_a_single_dispatch() -> None:
    limits = {"openai": "60/min", "tenant:{client}": 5}

    task = dispatched(**OPTIONS, limits=limits)
    (branch,) = fanned_out(1, {**OPTIONS, "limits": limits}).tasks

    kept = (Limit("openai", 60, 60.0), Limit("tenant:{client}", 5))
    for one in (task, branch):
        assert one.limits == kept
        assert {name: getattr(one, name) for name in OPTIONS} == OPTIONS


BAD: list[tuple[str, Any, str]] = [
    ("dispatch_strategy", "", "non-empty string"),
    ("dispatch_strategy", None, "non-empty string"),
    ("resource_requirements", ["gpu"], "must be a dict"),
    ("resource_requirements", {"installed_models": "sd15"}, "list of names"),
    ("resource_requirements", {"installed_models": [1]}, "list of names"),
    ("resource_requirements", {"installed_models": [""]}, "list of names"),
    ("resource_requirements", {"gpu_info": "T4"}, "gpu_info is an object"),
    ("resource_requirements", {"gpus": {1}}, "gpus is {1}"),
    ("resource_requirements", {"memory_gb": float("nan")}, "nothing can be compared"),
    ("resource_requirements", {"gpu_info": {"vram_gb": {4}}}, "gpu_info.vram_gb is {4}"),
    ("resource_requirements", {3: 4}, "3 is none"),
    ("timeout_seconds", 0, "positive number of seconds"),
    ("timeout_seconds", True, "positive number of seconds"),
    ("dispatch_timeout_seconds", float("inf"), "positive number of seconds"),
    ("max_cost", -0.1, "0 or more"),
    ("max_cost", True, "0 or more"),
    ("max_cost", "1", "0 or more"),
    ("priority", 11, "from 0 to 10"),
    ("queue", 5, "name of a queue"),
    ("retries", 3, "RetryPolicy"),
    ("limits", {"a": 0}, "60/min"),
    ("fairness_key", "", "not ''"),
    ("fairness_key", "{tenant}", "{client}"),
    ("fairness_weight", 0, "from 0.001 to 1000"),
    ("fairness_weight", True, "from 0.001 to 1000"),
    ("fairness_weight", None, "from 0.001 to 1000"),
]


@pytest.mark.parametrize(("option", "value", "says"), BAD)
def test_an_option_that_does_not_fit(option: str, value: Any, says: str) -> None:
    with pytest.raises(HandlerError) as single:
        dispatched(**{option: value})
    with pytest.raises(HandlerError) as branch:
        fanned_out(2, {option: value})
    for message in (str(single.value), str(branch.value)):
        assert says in message
        assert option in message
    assert "dispatch_task('work')" in str(single.value)
    assert "tasks[0]" in str(branch.value)


def test_an_unknown_option_of_a_branch_names_the_known_ones() -> None:
    with pytest.raises(HandlerError, match=r"unknown options \['limit'\]; known: .*'limits'"):
        fanned_out(1, {"limit": {"a": 1}})


def test_a_fan_out_without_options_collects() -> None:
    action = fanned_out()

    assert action.on_failure == FailurePolicy("collect")
    assert (action.max_concurrency, action.deadline_seconds, action.failure_state) == (None, None, None)


@pytest.mark.parametrize(
    ("given", "policy", "shown"),
    [
        ("collect", FailurePolicy("collect"), "collect"),
        ("fail_fast", FailurePolicy("fail_fast"), "fail_fast"),
        ({"at_least": 1}, FailurePolicy("at_least", 1), "at_least 1"),
        ({"at_least": 4}, FailurePolicy("at_least", 4), "at_least 4"),
        ({"at_least": 2.0}, FailurePolicy("at_least", 2), "at_least 2"),
        ({"tolerate": 0}, FailurePolicy("tolerate", 0), "tolerate 0"),
        ({"tolerate": 0.1}, FailurePolicy("tolerate", 0.1), "tolerate 0.1"),
    ],
)
def test_policies(given: Any, policy: FailurePolicy, shown: str) -> None:
    found = fanned_out(4, on_failure=given).on_failure

    assert found == policy
    assert str(found) == shown


@pytest.mark.parametrize(
    "given",
    [None, "fail-fast", "at_least", {}, {"at_most": 3}, {"at_least": 1, "tolerate": 0.1}, ["collect"], 3],
)
def test_an_unknown_policy_names_the_known_ones(given: Any) -> None:
    with pytest.raises(HandlerError) as caught:
        fanned_out(on_failure=given)
    for part in (repr(given), '"collect"', '"fail_fast"', '"at_least"', '"tolerate"'):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on_failure": {"at_least": 0}}, "from 1 to the 4"),
        ({"on_failure": {"at_least": 5}}, "from 1 to the 4"),
        ({"on_failure": {"at_least": True}}, "from 1 to the 4"),
        ({"on_failure": {"at_least": 1.5}}, "from 1 to the 4"),
        ({"on_failure": {"at_least": "2"}}, "from 1 to the 4"),
        ({"on_failure": {"at_least": float("nan")}}, "from 1 to the 4"),
        ({"on_failure": {"tolerate": 1}}, "0.1 for a tenth"),
        ({"on_failure": {"tolerate": -0.1}}, "0.1 for a tenth"),
        ({"on_failure": {"tolerate": False}}, "0.1 for a tenth"),
        ({"max_concurrency": 0}, "1 or more"),
        ({"max_concurrency": 2.0}, "1 or more"),
        ({"max_concurrency": True}, "1 or more"),
        ({"deadline_seconds": 0}, "positive number of seconds"),
        ({"deadline_seconds": "10"}, "positive number of seconds"),
        ({"failure_state": ""}, "non-empty string"),
        ({"failure_state": 3}, "non-empty string"),
    ],
)
def test_an_option_of_a_fan_out_that_does_not_fit(options: dict[str, Any], says: str) -> None:
    with pytest.raises(HandlerError) as caught:
        fanned_out(**options)
    assert says in str(caught.value)
    assert next(iter(options)) in str(caught.value)


def test_at_least_one_of_nothing_cannot_be() -> None:
    with pytest.raises(HandlerError, match="from 1 to the 0"):
        fanned_out(0, on_failure={"at_least": 1})


def test_what_was_refused_decides_nothing() -> None:
    actions = ActionFactory()
    with pytest.raises(HandlerError):
        actions.dispatch_parallel([{"type": "work"}], "join", max_concurrency=0)
    assert actions.action is None
