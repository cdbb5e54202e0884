"""Bad blueprints, each in a file of its own as a user would write it: refused with file, line and fix."""

from __future__ import annotations

import importlib.util
import textwrap
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from avtomatika import Blueprint
from avtomatika.blueprint.sites import Report
from avtomatika.errors import BlueprintError

_numbers = count()

HEAD = """
from avtomatika import Blueprint

bp = Blueprint("video")
"""
END = """
@bp.handler_for("end", is_end=True)
async def end():
    pass
"""


def write(folder: Path, body: str) -> Path:
    file = folder / f"bp_{next(_numbers)}.py"
    file.write_text(textwrap.dedent(body))
    return file


def load(file: Path) -> Blueprint:
    spec = importlib.util.spec_from_file_location(f"user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bp: Blueprint = module.bp
    return bp


def marked(file: Path) -> int:
    """The line with the mark `# here`."""
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if "# here" in line)


def handler(body: str, arguments: str = "actions, initial_data, context") -> str:
    """A start state with a body of its own, and an end."""
    lines = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return f'{HEAD}\n@bp.handler_for("start", is_start=True)\nasync def start({arguments}):\n{lines}\n{END}'


JOIN = """
@bp.aggregator_for("join")
async def join(actions):
    actions.transition_to("end")
"""

BAD: dict[str, tuple[str, str, str]] = {
    # kind: (module, what the message says, what the fix says); the line is marked
    "no handlers": ('from avtomatika import Blueprint\nbp = Blueprint("video")  # here', "no handlers", "handler_for"),
    "no start": (
        'from avtomatika import Blueprint\nbp = Blueprint("video")  # here\n' + END,
        "no start state",
        "is_start=True",
    ),
    "two starts": (
        handler('actions.transition_to("end")')
        + '\n@bp.handler_for("again", is_start=True)  # here\nasync def again(actions):\n    actions.transition_to("end")',
        "second start state 'again'",
        "is_start=True",
    ),
    "two plain handlers": (
        handler('actions.transition_to("end")') + '\n@bp.handler_for("end")  # here\nasync def other(actions): ...',
        "second plain handler",
        ".when(",
    ),
    "two aggregators": (
        HEAD + '@bp.aggregator_for("j")\nasync def a(actions): ...\n@bp.aggregator_for("j")  # here\nasync def b(actions): ...',
        "second aggregator",
        "another state",
    ),
    "bad condition": (
        HEAD + '@bp.handler_for("a").when("context.initial_data.size.bit_length() > 3")  # here\nasync def a(actions): ...',
        "a call is not allowed",
        "allowed are",
    ),
    "bad signature": (
        HEAD + '@bp.handler_for("a")  # here\nasync def a(*args): ...',
        "*args",
        "name each argument",
    ),
    "a generator": (
        HEAD + '@bp.handler_for("a")  # here\nasync def a(actions):\n    yield 1',
        "must not yield",
        "instead",
    ),
    "no state given": (
        HEAD + "@bp.handler_for  # here\nasync def a(actions): ...",
        "without a state",
        '@….handler_for("name of the state")',
    ),
    "bad endpoint": (
        'from avtomatika import Blueprint\nbp = Blueprint("video", api_endpoint="/jobs/{id}")  # here',
        "'/jobs/{id}' is no path",
        "write plain parts",
    ),
    "unknown state": (handler('actions.transition_to("edn")  # here'), "unknown state 'edn'", "did you mean 'end'?"),
    "unknown state in transitions": (
        handler(
            """
            actions.dispatch_task(
                "resize",
                {},
                transitions={
                    "success": "end",
                    "failure": "failed",  # here
                },
            )
            """
        ),
        "unknown state 'failed'",
        "handler_for('failed')",
    ),
    "unreachable state": (
        handler('actions.transition_to("end")')
        + '\n@bp.handler_for("island")  # here\nasync def island(actions):\n    actions.transition_to("end")',
        "state 'island' is never reached",
        "remove it",
    ),
    "fan-out without aggregator": (
        handler('actions.dispatch_parallel([{"type": "a"}], aggregate_into="end")  # here'),
        "no aggregator",
        "aggregator_for('end')",
    ),
    "aggregator never reached": (
        handler('actions.transition_to("end")')
        + '\n@bp.aggregator_for("join")  # here\nasync def join(actions):\n    actions.transition_to("end")',
        "aggregator of state 'join' is never reached",
        "dispatch_parallel",
    ),
    "transition to an aggregator": (
        handler(
            """
            if initial_data:
                actions.transition_to("join")  # here
            else:
                actions.dispatch_parallel([{"type": "a"}], "join")
            """
        )
        + '\n@bp.aggregator_for("join")\nasync def join(actions):\n    actions.transition_to("end")',
        "has an aggregator only",
        "handler_for('join')",
    ),
    "no action": (
        handler("initial_data['x'] = 1")
        .replace("async def start", "async def start", 1)
        .replace("context):", "context):  # here", 1),
        "decides no action",
        "is_end=True",
    ),
    "no action in one branch": (
        handler('if initial_data:  # here\n    actions.transition_to("end")'),
        "can end without an action",
        "else branch",
    ),
    "an early return": (
        handler('if initial_data:\n    return  # here\nactions.transition_to("end")'),
        "can end without an action",
        "else branch",
    ),
    "an exception swallowed": (
        handler(
            """
            try:  # no action where int() fails
                size = int(initial_data["size"])
                actions.transition_to("end")
            except ValueError:
                return  # here
            """
        ),
        "can end without an action",
        "on every path",
    ),
    "a case forgotten": (
        handler(
            """
            match initial_data:  # here
                case {"a": _}:
                    actions.transition_to("end")
                case []:
                    actions.transition_to("end")
            """
        ),
        "can end without an action",
        "on every path",
    ),
    "two actions": (
        handler('actions.dispatch_task("a", {}, {"success": "end"})\nactions.transition_to("end")  # here'),
        "a second action",
        "return after line",
    ),
    "a forgotten return": (
        handler('if initial_data:\n    actions.transition_to("end")\ncontext.actions.transition_to("end")  # here'),
        "a second action",
        "split the state",
    ),
    "an action in an end": (
        HEAD
        + '@bp.handler_for("only", is_start=True, is_end=True)\n'
        + 'async def only(actions):\n    actions.transition_to("only")  # here',
        "end state 'only'",
        "remove the action",
    ),
    "no end": (
        HEAD
        + '@bp.handler_for("a", is_start=True)  # here\nasync def a(actions):\n    actions.transition_to("b")\n'
        + '@bp.handler_for("b")\nasync def b(actions):\n    actions.transition_to("a")',
        "no end state",
        "is_end=True",
    ),
    "an unknown method": (handler('actions.transition("end")  # here'), "no method 'transition'", "did you mean transition_to?"),
    "an unknown argument": (
        handler('actions.dispatch_task("a", {}, transition={"success": "end"})  # here'),
        "no argument 'transition'",
        "did you mean 'transitions'?",
    ),
    "a missing argument": (
        handler('actions.dispatch_parallel([{"type": "a"}])  # here'),
        "without 'aggregate_into'",
        "pass aggregate_into=",
    ),
    "an unknown failure state": (
        handler('actions.dispatch_parallel([{"type": "a"}], "join", failure_state="edn")  # here') + JOIN,
        "unknown state 'edn'",
        "did you mean 'end'? Otherwise add a handler with handler_for('edn')",
    ),
    "a failure state that only joins": (
        handler('actions.dispatch_parallel([{"type": "a"}], "join", failure_state="join")  # here') + JOIN,
        "state 'join' has an aggregator only",
        "handler_for('join')",
    ),
    "a failure state as the place to join": (
        handler('actions.dispatch_parallel([{"type": "a"}], "end", failure_state="end")  # here'),
        "no aggregator",
        "aggregator_for('end')",
    ),
    "an unknown state after a time": (
        handler('actions.await_human_approval("log", "?", {"yes": "end"}, timeout_seconds=9, on_timeout="edn")  # here'),
        "unknown state 'edn'",
        "did you mean 'end'? Otherwise add a handler with handler_for('edn')",
    ),
    "a state after no time": (
        handler('actions.await_human_approval("log", "?", {"yes": "end"}, on_timeout="end")  # here'),
        "on_timeout is given and no time",
        "give timeout_seconds, too",
    ),
    "a time that is none": (
        handler('actions.await_human_approval("log", "?", {"yes": "end"}, timeout_seconds="soon")  # here'),
        "await_human_approval: timeout_seconds must be a positive number",
        "correct the value",
    ),
    "an unknown policy": (
        handler('actions.dispatch_parallel([{"type": "a"}], "join", on_failure="fail-fast")  # here') + JOIN,
        "dispatch_parallel: on_failure 'fail-fast' is no policy",
        'there are "collect"',
    ),
    "a share of more than all": (
        handler('actions.dispatch_parallel([{"type": "a"}], "join", on_failure={"tolerate": 5})  # here') + JOIN,
        "tolerate is the share",
        "correct the value",
    ),
    "a fan-out that never runs": (
        handler('actions.dispatch_parallel([{"type": "a"}], "join", max_concurrency=0)  # here') + JOIN,
        "max_concurrency must be",
        "correct the value",
    ),
    "a bad limit": (
        handler('actions.dispatch_task("a", {}, {"success": "end"}, limits={"openai": "60/minutes"})  # here'),
        "'60/minutes' is no limit for key 'openai'",
        'such as "60/min"',
    ),
    "an awaited action": (handler('await actions.transition_to("end")  # here'), "is awaited", "remove the await"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_blueprint_is_refused_with_file_line_and_fix(kind: str, tmp_path: Path) -> None:
    body, says, fix = BAD[kind]
    file = write(tmp_path, body)
    with pytest.raises(BlueprintError) as caught:
        load(file).freeze()
    found = [text for text in caught.value.problems if text.startswith(f"{file}:{marked(file)}: ")]
    assert found, f"none is of line {marked(file)}: {caught.value}"
    assert says in found[0]
    assert fix in found[0]
    assert found[0] in str(caught.value)


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        HEAD
        + '@bp.handler_for("a", is_start=True)\nasync def a(actions):\n    actions.transition_to("nowhere")\n'
        + '@bp.handler_for("b")\nasync def b(actions):\n    pass\n',
    )
    with pytest.raises(BlueprintError) as caught:
        load(file).freeze()
    assert len(caught.value.problems) == 4
    assert all(problem in str(caught.value) for problem in caught.value.problems)


GOOD: dict[str, str] = {
    "elif chain": """
        if initial_data.get("a"):
            actions.transition_to("end")
        elif initial_data.get("b"):
            context.actions.transition_to("end")
        else:
            actions.transition_to("end")
        """,
    "return after each": """
        if initial_data.get("a"):
            actions.transition_to("end")
            return
        for _ in range(3):
            initial_data["n"] = 1
        actions.transition_to("end")
        """,
    "raise is a path's end": """
        if not initial_data:
            raise ValueError("empty")
        actions.transition_to("end")
        """,
    "raises, or not": "if initial_data:\n    raise ValueError\nelse:\n    actions.transition_to('end')",
    "one expression": 'actions.transition_to("end") if initial_data else actions.transition_to("start")',
    "a target of two": 'actions.transition_to("end" if initial_data else "start")',
    "a local target": """
        target = "end"
        if initial_data:
            target = "start"
        actions.transition_to(target)
        """,
    "try and except": """
        try:
            size = int(initial_data["size"])
        except (KeyError, ValueError):
            actions.transition_to("end")
            return
        finally:
            initial_data.clear()
        actions.dispatch_task("a", {"size": size}, {"success": "end"})
        """,
    "try with an action in both": """
        try:
            actions.dispatch_task("a", {"size": int(initial_data["size"])}, {"success": "end"})
        except (KeyError, ValueError):
            actions.transition_to("end")
        """,
    "a loop with break": """
        for name in ("a", "b"):
            if name in initial_data:
                actions.transition_to("end")
                break
        else:
            actions.transition_to("start")
        """,
    "while true": """
        while True:
            if initial_data.popitem():
                actions.transition_to("end")
                return
        """,
    "match with a wildcard": """
        match initial_data:
            case {"a": 1}:
                actions.transition_to("end")
            case _:
                actions.transition_to("start")
        """,
    "with": """
        async with context.data_stores.lock:
            actions.transition_to("end")
        """,
    "handed on": "decide(actions)",
    "context handed on": "await decide(context)",
    "an alias": 'act = context.actions\nact.transition_to("end")',
    "a bound method": 'go = actions.transition_to\ngo("end")',
    "a closure": 'def go():\n    actions.transition_to("end")\ngo()',
    "logging the context": 'print(context)\nlogger.info("%s", context)\nactions.transition_to("end")',
    "a dynamic target": 'actions.transition_to(initial_data["next"])',
    "a dict made by dict()": 'actions.dispatch_task("a", transitions=dict(success="end", **initial_data))',
    "never returns": 'if not initial_data:\n    sys.exit(1)\nactions.transition_to("end")',
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_handler_passes(kind: str, tmp_path: Path) -> None:
    report = load(write(tmp_path, handler(GOOD[kind]))).check()
    assert report == Report()


FAILING: dict[str, str] = {
    "literal": 'actions.dispatch_parallel([{"type": "a"}], "join", failure_state="clean_up")',
    "by its place": 'actions.dispatch_parallel([{"type": "a"}], "join", 3, "fail_fast", 60, "clean_up")',
    "a local": """
        where = "clean_up"
        actions.dispatch_parallel([{"type": "a"}], "join", failure_state=where)
        """,
    "one of two": """
        actions.dispatch_parallel([{"type": "a"}], "join", failure_state="clean_up" if initial_data else "end")
        """,
    "computed": 'actions.dispatch_parallel([{"type": "a"}], "join", failure_state=initial_data["where"])',
    "among others": 'actions.dispatch_parallel([{"type": "a"}], "join", **initial_data)',
}
CLEAN_UP = """
@bp.handler_for("clean_up")
async def clean_up(actions):
    actions.transition_to("end")
"""


@pytest.mark.parametrize("kind", FAILING)
def test_a_failure_state_is_reached(kind: str, tmp_path: Path) -> None:
    assert load(write(tmp_path, handler(FAILING[kind]) + JOIN + CLEAN_UP)).check() == Report()


@pytest.mark.parametrize("options", ["timeout_seconds=5", "on_timeout=None", "**initial_data"])
def test_a_question_may_have_a_time_a_state_both_by_keywords_or_neither(options: str, tmp_path: Path) -> None:
    call = f'actions.await_human_approval("log", "?", {{"yes": "end"}}, {options})'
    assert load(write(tmp_path, handler(call))).check() == Report()


@pytest.mark.parametrize("where", ['"clean_up"', '"end" if initial_data else "clean_up"', 'initial_data["where"]'])
def test_the_state_after_a_time_is_reached(where: str, tmp_path: Path) -> None:
    call = f'actions.await_human_approval("log", "?", {{"yes": "end"}}, 60, {where})'
    assert load(write(tmp_path, handler(call) + CLEAN_UP)).check() == Report()


@pytest.mark.parametrize("option", ["", ", failure_state=None", ', failure_state="end"'])
def test_without_one_nothing_is(option: str, tmp_path: Path) -> None:
    text = handler(f'actions.dispatch_parallel([{{"type": "a"}}], "join"{option})') + JOIN + CLEAN_UP
    (problem,) = load(write(tmp_path, text)).check().errors
    assert "state 'clean_up' is never reached" in problem.message


def test_a_state_that_is_only_failed_into_is_no_place_to_join(tmp_path: Path) -> None:
    text = handler('actions.dispatch_parallel([{"type": "a"}], "join", failure_state="both")') + JOIN
    text += '\n@bp.handler_for("both", is_end=True)\ndef both(): ...\n\n@bp.aggregator_for("both")\ndef merge(): ...\n'
    (warning,) = load(write(tmp_path, text)).check().warnings
    assert "the aggregator of state 'both' is never called" in warning.message


OPTIONS: dict[str, str] = {
    "all in order": """
        actions.dispatch_parallel(
            [{"type": "a"}], "join", max_concurrency=3, on_failure={"at_least": 100}, deadline_seconds=1.5, failure_state="end"
        )
        """,
    "computed": 'actions.dispatch_parallel([{"type": "a"}], "join", int(initial_data["n"]), {"at_least": len(initial_data)})',
    "with a limit": """
        if initial_data:
            actions.dispatch_parallel([{"type": "a"}], "join")
        else:
            actions.dispatch_task("a", {}, {"success": "end"}, limits={"x:{client}": 3, f"y:{initial_data}": "1/s"}, max_cost=0)
        """,
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_good_options_pass(kind: str, tmp_path: Path) -> None:
    assert load(write(tmp_path, handler(OPTIONS[kind]) + JOIN)).check() == Report()


def test_targets_and_names_written_as_constants_are_literal(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        from enum import StrEnum

        from avtomatika import Blueprint

        bp = Blueprint("video")
        NEXT = {"success": "end", "failure": "failed"}

        class State(StrEnum):
            END = "end"
            START = "start"

        class Names:
            RESIZE = "resize"

        @bp.handler_for(State.START, is_start=True)
        async def start(actions, initial_data):
            if initial_data.get("a"):
                actions.dispatch_task(Names.RESIZE, transitions=NEXT)
            elif initial_data.get("b"):
                tasks = [{"task_type": "crop", "params": {"n": n}} for n in range(3)]
                tasks.append({"type": "blur"})
                actions.dispatch_parallel(tasks + [dict(type="flip")], aggregate_into="join")
            elif initial_data.get("c"):
                transitions = {**NEXT, "late": State.END}
                actions.run_blueprint("child", {}, transitions)
            else:
                actions.await_human_approval("mail", "go on?", {"approved": State.END.value})

        @bp.aggregator_for("join")
        def join(actions):
            actions.transition_to(State.END)

        @bp.handler_for(State.END, is_end=True)
        def end(): ...

        @bp.handler_for("failed", is_end=True)
        def failed(): ...
        """,
    )
    bp = load(file)
    assert bp.check() == Report()
    assert bp.task_names == {"resize", "crop", "blur", "flip"}
    targets = {
        (d.kind, t.status, t.state)
        for _, d in bp.analysis().decisions()
        for t in d.targets
        if d.kind in ("blueprint", "approval")
    }
    assert targets == {
        ("blueprint", "success", "end"),
        ("blueprint", "failure", "failed"),
        ("blueprint", "late", "end"),
        ("approval", "approved", "end"),
    }


WARNED: dict[str, tuple[str, str, str]] = {
    "only conditional handlers": (
        handler('actions.transition_to("end")').replace(
            '@bp.handler_for("start", is_start=True)',
            '@bp.handler_for("start", is_start=True).when("initial_data.x == 1")  # here',
        ),
        "conditional handlers only",
        "plain one",
    ),
    "the same condition twice": (
        handler('actions.transition_to("end")')
        + '\n@bp.handler_for("end").when("job_id == 1")\nasync def a(): ...'
        + '\n@bp.handler_for("end").when("job_id == 1")  # here\nasync def b(): ...',
        "has the condition of a",
        "change one",
    ),
    "an action in a loop": (
        handler('while initial_data:\n    actions.transition_to("end")  # here\nraise ValueError'),
        "in a loop",
        "dispatch_parallel",
    ),
    "a loop that may not run": (
        handler('for key in initial_data:  # here\n    actions.transition_to("end")\n    return'),
        "may end without an action",
        "after the loop",
    ),
    "two guards that may exclude each other": (
        handler(
            'if initial_data:\n    actions.transition_to("end")\nif not initial_data:  # here\n    actions.transition_to("end")'
        ),
        "may end without an action",
        "the last condition",
    ),
    "no transitions": (handler('actions.dispatch_task("a", {})  # here'), "no transitions", "transitions="),
}


@pytest.mark.parametrize("kind", WARNED)
def test_what_may_be_meant_is_a_warning(kind: str, tmp_path: Path) -> None:
    body, says, fix = WARNED[kind]
    file = write(tmp_path, body)
    report = load(file).check()
    errors = [problem for problem in report.errors if "never reached" not in problem.message]
    assert errors == []
    (warning,) = report.warnings
    assert (warning.file, warning.line) == (str(file), marked(file))
    assert says in warning.message
    assert fix in warning.fix


def test_an_undeclared_task_is_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path, handler('actions.dispatch_task("rezise", {}, {"success": "end"})  # here'))
    bp = load(file)
    assert bp.check() == Report()
    assert bp.check(known_tasks={"rezise"}) == Report()
    report = bp.check(known_tasks={"resize"})
    (warning,) = report.warnings
    assert report.ok
    assert (warning.line, warning.message) == (marked(file), "no worker here declares the task 'rezise'")
    assert "did you mean 'resize'?" in warning.fix


def test_without_a_source_the_handler_may_go_anywhere() -> None:
    scope: dict[str, Any] = {}
    exec("from avtomatika import Blueprint\nbp = Blueprint('b')\ndef start(actions): actions.transition_to('end')", scope)
    bp: Blueprint = scope["bp"]
    bp.handler_for("start", is_start=True)(scope["start"])

    @bp.handler_for("end", is_end=True)
    def end() -> None: ...

    report = bp.check()
    assert report.errors == ()
    (warning,) = report.warnings
    assert "the source of start is not at hand" in warning.message
    bp.freeze()


def test_lambdas_are_read_too(tmp_path: Path) -> None:
    file = write(
        tmp_path, HEAD + 'bp.handler_for("start", is_start=True)(lambda actions: actions.transition_to("gone"))  # here' + END
    )
    report = load(file).check()
    assert report.errors[0].line == marked(file)
    assert "unknown state 'gone'" in report.errors[0].message


def test_code_with_very_many_paths_is_left_alone(tmp_path: Path) -> None:
    body = "\n".join(f'if initial_data.get("{n}"):\n    actions.transition_to("end")' for n in range(40))
    assert load(write(tmp_path, handler(body))).check().errors == ()


def test_a_very_long_chain_is_left_alone(tmp_path: Path) -> None:
    chain = "".join(f'elif initial_data.get("{n}"):\n    actions.transition_to("end")\n' for n in range(300))
    body = f'if initial_data:\n    actions.transition_to("end")\n{chain}else:\n    actions.transition_to("end")'
    assert load(write(tmp_path, handler(body))).check().errors == ()


def test_a_task_with_a_queue_is_a_plain_celery_task(tmp_path: Path) -> None:
    file = write(tmp_path, handler('actions.dispatch_task("myapp.tasks.add", {}, {"success": "end"}, queue="theirs")'))
    assert load(file).check(known_tasks={"resize"}) == Report()


def test_a_module_written_for_the_original_api_passes(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        from avtomatika import StateMachineBlueprint
        from avtomatika.context import ActionFactory

        bp = StateMachineBlueprint(name="first", api_version="v1", api_endpoint="/jobs/my_flow")

        @bp.handler_for("start", is_start=True)
        async def start_handler(job_id: str, initial_data: dict, actions: ActionFactory):
            print(f"Job {job_id} | Start: {initial_data}")
            tasks = [{"type": "analysis", "params": {"file": file}} for file in initial_data.get("files", [])]
            actions.dispatch_parallel(tasks=tasks, aggregate_into="merge")

        @bp.aggregator_for("merge")
        async def merge(aggregation_results, state_history, actions):
            state_history["summary"] = [res.get("data") for res in aggregation_results.values()]
            actions.transition_to("decision")

        @bp.handler_for("decision").when("context.initial_data.type == 'urgent'")
        async def urgent(context):
            context.actions.transition_to("finished")

        @bp.handler_for("decision")
        async def normal(actions):
            actions.transition_to("finished")

        @bp.handler_for("finished", is_end=True)
        async def finished(context):
            print(f"Job {context.job_id} | Complete.")
        """,
    )
    bp = load(file)
    assert bp.check(known_tasks={"analysis"}) == Report()
    bp.freeze()
