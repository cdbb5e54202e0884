"""Random blueprints: one blueprint whose steps do what the job's own program says."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import RetryPolicy

STEPS = 4
"""States s0, s1, …: the longest program."""

#: What one attempt of a task comes to.
OUTCOMES = ("ok", "ok", "ok", "odd", "unlisted", "transient", "transient", "permanent", "invalid", "other", "hangs", "dies")

Program = list[list[Any]]

_does = st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=3)
_options = st.sampled_from(
    [
        {},
        {},
        {"timeout_seconds": 30},
        {"limits": {"one": 1}},
        {"limits": {"two": 2}, "timeout_seconds": 30},
        {"dispatch_strategy": "round_robin"},
        {"dispatch_strategy": "least_connections", "limits": {"one": 1}},
        {"resource_requirements": {"cpu_cores": 2}, "timeout_seconds": 30},
        {"dispatch_timeout_seconds": 20},
        {"retries": "failure"},
    ]
)
_fan_out = st.fixed_dictionaries(
    {
        "branches": st.lists(_does, max_size=4),
        "options": _options,
        "on_failure": st.sampled_from(["collect", "collect", "fail_fast", {"at_least": 1}, {"tolerate": 0.5}]),
        "max_concurrency": st.sampled_from([None, None, 1, 2]),
        "deadline_seconds": st.sampled_from([None, None, 25]),
        "failure_state": st.booleans(),
        "raises": st.sampled_from([0, 0, 0, 1, 9]),
    }
)
_task = st.fixed_dictionaries(
    {"does": _does, "options": _options, "listed": st.sets(st.sampled_from(["failure", "timeout", "cancelled", "odd"]))}
)
_approval = st.fixed_dictionaries({"timeout_seconds": st.sampled_from([None, 40]), "on_timeout": st.booleans()})


def _steps(child: st.SearchStrategy[Program] | None) -> st.SearchStrategy[Program]:
    kinds: list[st.SearchStrategy[list[Any]]] = [
        st.just(["go"]),
        st.tuples(st.just("slow"), st.sampled_from([0.2, 2.0])).map(list),
        st.tuples(st.just("raise"), st.sampled_from([1, 1, 2, 9])).map(list),
        st.tuples(st.just("task"), _task).map(list),
        st.tuples(st.just("task"), _task).map(list),
        st.tuples(st.just("fan"), _fan_out).map(list),
        st.tuples(st.just("ask"), _approval).map(list),
    ]
    if child is not None:
        listed = st.sets(st.sampled_from(["failure", "cancelled"]))
        kinds.append(st.tuples(st.just("child"), child, listed).map(lambda row: [row[0], row[1], sorted(row[2])]))
    return st.lists(st.one_of(kinds), min_size=1, max_size=STEPS)


def programs() -> st.SearchStrategy[Program]:
    return _steps(_steps(None))


def plain(program: Program) -> Program:
    """As JSON."""
    return [[step[0], *(_plain(part) for part in step[1:])] for step in program]


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def program_blueprint(failures: dict[tuple[str, str], int]) -> Blueprint:
    """The blueprint `program`. Each handler leaves its state's name in `log`, so that what was committed can be counted.

    Args:
        failures: how often the handler of (job, state) has raised so far.
    """
    blueprint = Blueprint("program")

    def raise_now_and_then(job_id: str, state: str, times: int) -> None:
        failed = failures.get((job_id, state), 0)
        if failed < times:
            failures[job_id, state] = failed + 1
            raise RuntimeError(f"for the {failed + 1}. time")

    def add_step(index: int) -> None:
        then = f"s{index + 1}" if index + 1 < STEPS else "end"

        @blueprint.handler_for(f"s{index}", is_start=index == 0)
        async def step(job_id: str, initial_data: Any, state_history: Any, actions: Any) -> None:
            program = initial_data["program"]
            state_history["log"] = [*state_history.get("log", ()), f"s{index}"]
            if index >= len(program):
                actions.transition_to("end")
                return
            kind, *rest = program[index]
            if kind == "slow":
                await asyncio.sleep(rest[0])
            if kind == "raise":
                raise_now_and_then(job_id, f"s{index}", rest[0])
            if kind in ("go", "slow", "raise"):
                actions.transition_to(then)
            elif kind == "task":
                _dispatch(actions, rest[0], then)
            elif kind == "fan":
                _fan(actions, rest[0], f"m{index}")
            elif kind == "child":
                transitions = {"success": then, **dict.fromkeys(rest[1], "swept")}
                actions.run_blueprint("program", {"program": rest[0]}, transitions)
            else:
                on_timeout = "swept" if rest[0]["on_timeout"] and rest[0]["timeout_seconds"] else None
                actions.await_human_approval("log", "?", {"yes": then, "no": "swept"}, rest[0]["timeout_seconds"], on_timeout)

        @blueprint.aggregator_for(f"m{index}")
        async def merge(job_id: str, initial_data: Any, state_history: Any, actions: Any) -> None:
            state_history["log"] = [*state_history.get("log", ()), f"m{index}"]
            raise_now_and_then(job_id, f"m{index}", initial_data["program"][index][1]["raises"])
            actions.transition_to(then)

    for index in range(STEPS):
        add_step(index)

    for state in ("end", "swept"):

        @blueprint.handler_for(state, is_end=True)
        async def end(current_state: str, state_history: Any) -> Any:
            state_history["log"] = [*state_history.get("log", ()), current_state]
            return len(state_history["log"])

    return blueprint


def _options_of(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "retries": RetryPolicy(max_attempts=2, then="failure")} if "retries" in options else options


def _dispatch(actions: Any, given: dict[str, Any], then: str) -> None:
    transitions = {"success": then, **dict.fromkeys(given["listed"], "swept")}
    actions.dispatch_task("work", {"does": given["does"]}, transitions, **_options_of(given["options"]))


def _fan(actions: Any, given: dict[str, Any], merge: str) -> None:
    options = _options_of(given["options"])
    tasks = [{"task_type": "work", "params": {"does": does}, **options} for does in given["branches"]]
    policy = given["on_failure"]
    if isinstance(policy, dict) and policy.get("at_least", 0) > len(tasks):
        policy = "collect"
    failure_state = "swept" if given["failure_state"] else None
    actions.dispatch_parallel(tasks, merge, given["max_concurrency"], policy, given["deadline_seconds"], failure_state)
