from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from avtomatika import Blueprint
from avtomatika.errors import ConfigurationError

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz' dot is not on PATH")


def sample(
    name: str = "video", condition: str = "context.initial_data.title == 'a \"quoted\" one'", last: str = "end"
) -> Blueprint:
    bp = Blueprint(name)

    @bp.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("resize", {}, {"success": "fan", "failure": 'odd "state" \\ [x]'})

    @bp.handler_for("start").when(condition)
    async def short(actions: Any) -> None:
        actions.transition_to("fan")

    @bp.handler_for("fan")
    async def fan(actions: Any, files: list[str]) -> None:
        actions.dispatch_parallel(
            [*({"type": "crop", "params": {"f": f}} for f in files), {"type": "blur"}], aggregate_into="join"
        )

    @bp.aggregator_for("join")
    async def join(actions: Any) -> None:
        actions.run_blueprint("child", {}, {"success": "ask"})

    @bp.handler_for("ask")
    async def ask(actions: Any, target: str) -> None:
        if target:
            actions.transition_to(target)
        else:
            actions.await_human_approval("mail", "fine?", {"approved": last})

    @bp.handler_for('odd "state" \\ [x]', is_end=True)
    async def odd() -> None: ...

    @bp.handler_for(last, is_end=True)
    async def end() -> None: ...

    bp.freeze()
    return bp


_ID = r'"(?:[^"\\]|\\.)*"'
_DOT_LINE = re.compile(rf"  (?:rankdir=TB;|(?:node|edge) \[[^\]]*\];|{_ID}(?: -> {_ID})? \[(?:\w+=(?:{_ID}|\w+)(?:, )?)+\];)")


def test_dot_is_well_formed_and_says_all() -> None:
    text = sample().graph("dot")
    first, *lines = text.splitlines()
    assert first == 'digraph "video" {'
    assert lines.pop() == "}"
    assert [line for line in lines if not _DOT_LINE.fullmatch(line)] == []
    assert '"start" -> "fan" [label="resize: success", style=bold];' in text
    assert '"start" -> "fan" [label="[context.initial_data.title == \'a \\"quoted\\" one\']", style=solid];' in text
    assert '"odd \\"state\\" \\\\ [x]"' in text
    assert '[label="fan-out", style=dashed]' in text
    assert '-> "join" [label="join", style=dashed]' in text
    assert 'label="blueprint: child"' in text
    assert 'label="approval: mail"' in text
    assert 'label="any state"' in text
    assert re.search(r'"end" \[label="end", .*peripheries=2', text)


@needs_dot
def test_graphviz_reads_the_dot() -> None:
    done = subprocess.run(["dot", "-Tcanon"], input=sample().graph("dot"), capture_output=True, text=True, check=True)
    assert "resize: success" in done.stdout


@needs_dot
def test_svg_is_drawn() -> None:
    root = ElementTree.fromstring(sample().graph("svg"))
    assert root.tag.endswith("svg")
    assert "resize: success" in "".join(root.itertext())


def test_svg_without_graphviz_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="install the package graphviz"):
        sample().graph("svg")


def test_svg_says_what_graphviz_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho 'no fonts here' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no fonts here"):
        sample().graph("svg")


def test_mermaid() -> None:
    text = sample().graph("mermaid")
    assert text.startswith("flowchart TD\n")
    assert 's0(["start"])' in text
    assert 's0 ==>|"resize: success"| s1' in text
    assert "(((" in text
    assert "odd #34;state#34; #92; #91;x#93;" in text
    for line in text.splitlines()[1:]:
        assert re.fullmatch(r'  \w+(\W+"[^"]*"\W+|( (-->|==>|-\.->)(\|"[^"]*"\|)? \w+))', line), line


def test_json() -> None:
    data = json.loads(sample().graph("json"))
    assert (data["name"], data["start_state"]) == ("video", "start")
    assert data["end_states"] == ["end", 'odd "state" \\ [x]']
    assert data["version"] == sample().version
    states = {state["name"]: state for state in data["states"]}
    assert states["join"]["has_aggregator"]
    assert [h["name"] for h in states["start"]["handlers"]] == ["short", "start"]
    edges = {(t["source"], t["target"], t["kind"], t["status"]) for t in data["transitions"]}
    assert edges == {
        ("start", "fan", "task", "success"),
        ("start", 'odd "state" \\ [x]', "task", "failure"),
        ("start", "fan", "transition", None),
        ("fan", "join", "parallel", None),
        ("join", "ask", "blueprint", "success"),
        ("ask", None, "transition", None),
        ("ask", "end", "approval", "approved"),
    }
    (fan,) = [t for t in data["transitions"] if t["kind"] == "parallel"]
    assert (set(fan["names"]), fan["names_open"]) == ({"crop", "blur"}, False)


def failing() -> Blueprint:
    bp = Blueprint("failing")

    @bp.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        tasks = [{"type": "crop"}, {"type": "blur"}]
        actions.dispatch_parallel(tasks, "join", on_failure={"tolerate": 0.1}, failure_state="clean_up")

    @bp.aggregator_for("join")
    async def join(actions: Any) -> None:
        actions.transition_to("end")

    for state in ("clean_up", "end"):

        @bp.handler_for(state, is_end=True)
        async def end() -> None: ...

    bp.freeze()
    return bp


def test_where_a_failed_fan_out_leads_is_drawn() -> None:
    bp = failing()
    assert bp.graph("dot").count('-> "clean_up" [label="too many failed", style=dashed]') == 2
    assert bp.graph("dot").count('-> "join" [label="join", style=dashed]') == 2
    assert bp.graph("mermaid").count('-.->|"too many failed"|') == 2
    edges = {
        (t["source"], t["target"], t["status"]) for t in json.loads(bp.graph("json"))["transitions"] if t["kind"] == "parallel"
    }
    assert edges == {("start", "join", None), ("start", "clean_up", "failure")}


def test_where_a_question_leads_that_nobody_answers_is_drawn() -> None:
    bp = Blueprint("asking")

    @bp.handler_for("ask", is_start=True)
    async def ask(actions: Any) -> None:
        actions.await_human_approval("log", "fine?", {"approved": "end"}, timeout_seconds=60, on_timeout="late")

    for state in ("late", "end"):

        @bp.handler_for(state, is_end=True)
        async def end() -> None: ...

    bp.freeze()
    assert '-> "late" [label="timeout", style=solid]' in bp.graph("dot")
    edges = {(t["target"], t["status"]) for t in json.loads(bp.graph("json"))["transitions"]}
    assert edges == {("end", "approved"), ("late", "timeout")}


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there are dot, mermaid, json, svg"):
        sample().graph("png")


def test_the_version_is_stable_and_follows_the_process_only() -> None:
    assert sample().version == sample().version == sample(name="other").version
    assert sample().version != sample(condition="context.initial_data.title == 'x'").version
    assert sample().version != sample(last="over").version


VERSIONED = """
from avtomatika import Blueprint
{gap}
bp = Blueprint("b")

@bp.handler_for("start", is_start=True)
async def {name}(actions):
    actions.dispatch_task("{task}", {{}}, {{"success": "end", "failure": "end"}})

@bp.handler_for("end", is_end=True)
async def end(): ...
"""


def version_of(text: str, file: Path) -> str:
    file.write_text(text)
    scope: dict[str, Any] = {"__name__": "user_module"}
    exec(compile(text, str(file), "exec"), scope)
    version: str = scope["bp"].version
    return version


def test_the_version_does_not_depend_on_place_or_names_of_functions(tmp_path: Path) -> None:
    first = version_of(VERSIONED.format(gap="", name="start", task="resize"), tmp_path / "a.py")
    # Written down: orchestrators of two releases of Python must agree on it.
    assert first == "8fa68ebc6d5a49ed"
    assert first == version_of(VERSIONED.format(gap="\n\n", name="begin", task="resize"), tmp_path / "b.py")
    assert first != version_of(VERSIONED.format(gap="", name="start", task="crop"), tmp_path / "c.py")


FANNED = """
from avtomatika import Blueprint

bp = Blueprint("b")

@bp.handler_for("start", is_start=True)
async def start(actions):
    actions.dispatch_parallel([{{"type": "a"}}], "join"{options})

@bp.aggregator_for("join")
async def join(actions):
    actions.transition_to("end")

@bp.handler_for("end", is_end=True)
async def end(): ...
"""


def test_the_version_follows_the_failure_state(tmp_path: Path) -> None:
    options = {"none": "", "null": ", failure_state=None", "end": ', failure_state="end"'}
    found = {name: version_of(FANNED.format(options=text), tmp_path / f"{name}.py") for name, text in options.items()}
    assert found["none"] == found["null"] != found["end"]
