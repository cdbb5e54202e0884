"""The page on blueprints is one blueprint, written step by step: it loads, passes its check, and behaves as described."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from avtomatika import Blueprint, Candidate
from avtomatika.blueprint.context import JobContext
from avtomatika.blueprint.options import AT_LEAST, CHECKS, COLLECT, FAIL_FAST, FAN_OUT_CHECKS, TOLERATE, failure_policy
from avtomatika.blueprint.sites import Report
from avtomatika.engine import strategies
from avtomatika.engine.fanout import Aggregated
from avtomatika.jobs import Client, Limit, Result, TaskInfo, WorkerRecord
from avtomatika.state.base import Order

PAGE = Path(__file__).parents[3] / "docs" / "blueprints.md"


@pytest.fixture(name="page")
def load_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(strategies, "_known", dict(strategies._known))  # the page adds one
    scope: dict[str, Any] = {"__name__": "docs_blueprints"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    for number, block in enumerate(blocks):
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        exec(compile(block, str(file), "exec"), scope)
    return scope


def test_the_page_is_a_good_blueprint(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]
    assert bp.check() == Report()
    bp.freeze()
    assert bp.task_names == {"probe_video", "encode_video", "encode_part", "describe_video"}
    assert page["dot"].startswith("digraph")


def test_conditions_choose_as_described(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]

    def chosen(initial_data: dict[str, Any], plan: str = "free", duration: int = 10) -> str:
        return bp.select(
            JobContext("j", "encode", initial_data=initial_data, state_history={"duration": duration}, client=Client(plan=plan))
        ).name

    assert chosen({"urgent": False}, duration=4000) == "encode_long"
    assert chosen({"urgent": True}, duration=4000) == "encode"
    assert chosen({}, duration=4000) == "encode"
    assert chosen({}, plan="gold") == "encode_in_parts"
    assert chosen({"options": {"parts": 2}}) == "encode_in_parts"
    assert chosen({}) == "encode"


async def test_handlers_run_as_described(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]
    for expected in ("probe", "finished"):
        context = JobContext("j", "start", initial_data={"path": "/v.mp4"}, data_stores=bp.data_stores)
        await bp.select(context).call(context)
        assert context.actions.action is not None
        assert getattr(context.actions.action, "state", None) == expected


async def test_dispatches_and_fan_outs_go_as_described(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]
    actions: list[Any] = []
    for state in ("describe", "split"):
        context = JobContext("j", state, initial_data={"path": "/v.mp4"}, data_stores=bp.data_stores)
        await bp.select(context).call(context)
        actions.append(context.actions.action)
    described, split = actions
    assert described.limits == (Limit("openai", 60, 60.0), Limit("tenant:{client}", 5))
    assert (len(split.tasks), str(split.on_failure), split.failure_state) == (4, "tolerate 0.1", "failed")

    results = {"a": Result.success({"file": 1}), "b": Result.failure("BAD", "no"), "c": None}
    context = JobContext("j", "join", **Aggregated("join", results).inputs())
    await bp.aggregator("join").call(context)
    assert context.state_history == {"parts": [{"file": 1}], "lost_parts": ["b", "c"]}
    assert getattr(context.actions.action, "state", None) == "publish"


def test_the_policies_that_the_page_lists_are_those_there_are() -> None:
    rows = re.findall(r'^\| `("\w+"|\{"\w+": [^}]+\})`(?: \(default\))? \|', PAGE.read_text(), re.MULTILINE)
    found = [failure_policy(ast.literal_eval(row.replace("k}", "2}")), 4).kind for row in rows]
    assert found == [COLLECT, FAIL_FAST, AT_LEAST, TOLERATE]


def test_the_options_that_the_page_lists_are_those_there_are() -> None:
    tables = re.findall(r"^\| option \|.*?\n\n", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    listed = [set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)))) for table in tables]
    assert listed == [set(CHECKS), {*FAN_OUT_CHECKS, "on_failure", "failure_state"}]


def test_the_strategies_that_the_page_lists_are_the_built_in_ones(page: dict[str, Any]) -> None:
    table = re.search(r"^\| strategy \|.*?\n\n", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert table is not None
    known = [strategies.find(name) for name in strategies.known()]
    assert set(re.findall(r"^\| `(\w+)`", table[0], re.MULTILINE)) == {s.name for s in known if s and strategies.is_built_in(s)}


def test_a_strategy_chooses_as_described(page: dict[str, Any]) -> None:
    task = TaskInfo("t", "j", "work", {"region": "eu"}, {})
    candidates = [
        Candidate(WorkerRecord(name, f"boot-{name}", resources={"region": region}), free, 0)
        for name, region, free in (("a", "us", 9), ("b", "eu", 1), ("c", "eu", 2))
    ]

    chosen, problem = strategies.ask(strategies.Strategy("nearest", page["nearest"], Order.COST), task, candidates)

    assert (chosen, problem) == (candidates[2], None)
    assert strategies.ask(strategies.Strategy("nearest", page["nearest"], Order.COST), task, candidates[:1]) == (None, None)
