"""Watching jobs and giving them orders, against a facade over a real engine; the test delivers its messages."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.cli.watching import Bar, follow
from avtomatika.client import Client
from avtomatika.engine.service import Service
from avtomatika.jobs import JobStatus, TaskInfo
from tests.support.machine import Machine
from tests.support.polling import eventually
from tests.support.processes import REPOSITORY, clean_environment

from .conftest import TOKEN, Here, Run, serving


def _blueprint() -> Blueprint:
    blueprint = Blueprint("picture")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions, ask=False):
        if ask:
            actions.await_human_approval("log", "May I?", {"approved": "done", "rejected": "no"})
        else:
            actions.dispatch_task("draw", {}, {"success": "done"})

    @blueprint.handler_for("done", is_end=True)
    async def done():
        return {"drawn": True}

    @blueprint.handler_for("no", is_end=True)
    async def no():
        return {"drawn": False}

    return blueprint


@dataclass
class Engine:
    here: Here
    machine: Machine

    @property
    def env(self) -> dict[str, str]:
        return {"AVTOMATIKA_URL": self.here.url, "CLIENT_TOKEN": TOKEN}

    def pump(self) -> None:
        self.here.do(self.machine.pump())

    def job(self, job_id: str) -> Any:
        return self.here.do(self.machine.job(job_id))


@pytest.fixture
def engine() -> Iterator[Engine]:
    machine: Machine = None  # type: ignore[assignment]

    def draw() -> dict[str, Any]:
        return {"status": "failure", "error": {"code": "PERMANENT_ERROR", "message": "no ink"}}

    async def make() -> Service:
        nonlocal machine
        machine = await Machine(_blueprint(), workers={"draw": draw}).start()
        machine.now = time.time()
        await machine.restart_orchestrator()
        await machine.restart_worker()
        return Service(machine.engine)

    with serving(make) as here:
        yield Engine(here, machine)


def _submit(run: Run, engine: Engine, data: str = "{}") -> str:
    return run("job", "submit", "picture", data, env=engine.env).output.strip()


def test_cancel(run: Run, engine: Engine) -> None:
    first, second = _submit(run, engine), _submit(run, engine)

    done = run("job", "cancel", first, env=engine.env)

    assert (done.exit_code, done.output) == (0, f"{first} cancellation_request_accepted\n")
    assert engine.job(first).status is JobStatus.CANCELLED
    mixed = run("job", "cancel", first, second, "nope", "--force", "--json", env=engine.env)
    assert mixed.exit_code == 1
    answers = json.loads(mixed.output)
    assert [answer["job_id"] for answer in answers] == [first, second, "nope"]
    assert answers[1]["status"] == "cancellation_request_accepted"
    assert "cancelled" in answers[0]["error"]
    assert "unknown job" in answers[2]["error"]


def test_pause_and_resume(run: Run, engine: Engine) -> None:
    job_id = _submit(run, engine)

    assert run("job", "pause", job_id, env=engine.env).output == f"{job_id} paused\n"
    assert engine.job(job_id).status is JobStatus.PAUSED
    assert run("job", "resume", job_id, env=engine.env).output == f"{job_id} resumed\n"
    again = run("job", "resume", job_id, env=engine.env)
    assert (again.exit_code, job_id in again.output) == (1, True)


def test_decide(run: Run, engine: Engine) -> None:
    job_id = _submit(run, engine, '{"ask": true}')
    engine.pump()

    refused = run("job", "decide", job_id, "perhaps", env=engine.env)
    assert (refused.exit_code, "perhaps" in refused.output) == (2, True)
    done = run("job", "decide", job_id, "rejected", "--comment", "too dear", env=engine.env)
    assert (done.exit_code, done.output) == (0, f"{job_id}: rejected\n")
    engine.pump()
    assert engine.job(job_id).result == {"drawn": False}


def test_retry(run: Run, engine: Engine) -> None:
    job_id = _submit(run, engine)
    engine.pump()
    assert engine.job(job_id).status is JobStatus.QUARANTINED

    done = run("job", "retry", job_id, env=engine.env)

    assert (done.exit_code, done.output) == (0, f"{job_id} retry_accepted\n")
    assert run("job", "retry", job_id, env=engine.env).exit_code == 1


def _task_begins(engine: Engine, job_id: str) -> TaskInfo:
    """The handler dispatches, and a worker claims the task."""
    engine.here.do(engine.machine.deliver(engine.machine.queue.pop(0)))
    info = engine.job(job_id).waiting
    assert isinstance(info, TaskInfo)
    assert engine.here.do(engine.machine.claim(info.id))
    return info


def _says(engine: Engine, info: TaskInfo, value: float, message: str) -> None:
    engine.here.do(engine.machine.store.task_progress(info.id, engine.machine.worker_boot, value, message))


@contextmanager
def _watching(engine: Engine, job_id: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "avtomatika", "job", "watch", job_id]
    env = {**clean_environment(), **engine.env}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as watching:
        try:
            yield watching
        finally:
            watching.kill()


@pytest.mark.timeout(60)
def test_a_watch_shows_what_happens(run: Run, engine: Engine) -> None:
    job_id = _submit(run, engine)
    with _watching(engine, job_id) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"{job_id} pending start\n"
        info = _task_begins(engine, job_id)
        assert watching.stdout.readline() == f"{job_id} waiting_for_worker start\n"
        _says(engine, info, 0.5, "the sky")
        assert watching.stdout.readline() == f"{job_id} waiting_for_worker start 50% the sky\n"
        run("job", "cancel", job_id, "--force", env=engine.env)
        assert watching.stdout.readline() == f"{job_id} cancelled start\n"
        assert watching.wait(30) == 1


def test_a_watch_in_json_lines(run: Run, engine: Engine) -> None:
    job_id = _submit(run, engine)
    run("job", "cancel", job_id, env=engine.env)

    done = run("job", "watch", job_id, "--json", env=engine.env)

    *events, ended = map(json.loads, done.output.splitlines())
    history = json.loads(run("job", "history", job_id, "--json", env=engine.env).output)
    assert (done.exit_code, events, ended["status"]) == (1, history, "cancelled")


def test_a_watch_on_a_terminal(run: Run, engine: Engine) -> None:
    job_id = _submit(run, engine)
    info = _task_begins(engine, job_id)
    _says(engine, info, 0.25, "the [ground]")
    shown = StringIO()
    ended: list[Any] = []

    def watch() -> None:
        view = Bar(Console(file=shown, force_terminal=True, width=120))
        with Client(engine.here.url, TOKEN) as client, view:
            ended.append(follow(client, job_id, view))

    thread = threading.Thread(target=watch)
    thread.start()
    eventually(lambda: "the [ground]" in shown.getvalue() and "25%" in shown.getvalue(), what="the progress on the terminal")
    run("job", "cancel", job_id, "--force", env=engine.env)
    thread.join(30)
    assert ended[0]["status"] == "cancelled"
    assert [words for words in ("start: waiting for worker", "start: cancelled") if words not in shown.getvalue()] == []


def test_branches_are_counted() -> None:
    shown = StringIO()
    view = Bar(Console(file=shown, force_terminal=True, width=120))
    waiting = {"kind": "parallel_tasks", "total": 4, "done": 1}
    with view:
        view.job({"status": "waiting_for_parallel_tasks", "current_state": "s", "progress": 0.25, "waiting_for": waiting})
        for _ in range(2):
            view.event({"event_type": "branch_finished"})
        view.event({"event_type": "branch_retry"})
    assert [words for words in ("3/4", "75%") if words not in shown.getvalue()] == []


def test_quarantine(run: Run, engine: Engine) -> None:
    jobs = [_submit(run, engine) for _ in range(3)]
    engine.pump()

    listed = run("quarantine", "ls", env=engine.env)
    assert listed.exit_code == 0
    assert sorted(line.split()[0] for line in listed.output.splitlines()[1:]) == sorted(jobs)
    assert listed.output.count("no ink") == 3
    assert run("quarantine", "retry", env=engine.env).exit_code == 2
    assert run("quarantine", "retry", jobs[0], "--all", env=engine.env).exit_code == 2
    one = run("quarantine", "retry", jobs[0], env=engine.env)
    assert (one.exit_code, one.output) == (0, f"{jobs[0]} retry_accepted\n")
    rest = json.loads(run("quarantine", "retry", "--all", "--json", env=engine.env).output)
    assert {answer["job_id"] for answer in rest} == set(jobs[1:])
    assert run("quarantine", "ls", env=engine.env).output.splitlines()[1:] == []


def test_the_quarantine_shows_filters_edits_and_discards(run: Run, engine: Engine) -> None:
    jobs = [_submit(run, engine) for _ in range(4)]
    engine.pump()
    env = engine.env

    card = run("quarantine", "show", jobs[0], env=env).output
    for part in (jobs[0], "PERMANENT_ERROR: no ink", "draw", "picture", "worker"):
        assert part in card
    assert json.loads(run("quarantine", "show", jobs[0], "--json", env=env).output)["last_attempt"]["params"] == {}
    assert len(json.loads(run("quarantine", "list", "--code", "PERMANENT_ERROR", "--json", env=env).output)) == 4
    assert json.loads(run("quarantine", "list", "--older-than", "1h", "--json", env=env).output) == []
    dry = run("quarantine", "discard", "--matching", "NO INK", "--dry-run", env=env)
    assert (dry.exit_code, dry.output.splitlines()[-1]) == (0, "4 found, 0 refused")
    some = json.loads(run("quarantine", "discard", "--all", "--limit", "2", "--reason", "old", "--json", env=env).output)
    assert [answer["status"] for answer in some] == ["discarded"] * 2
    gone = {answer["job_id"] for answer in some}
    assert all("discarded by default: old" in engine.job(job_id).error_message for job_id in gone)
    left = [job_id for job_id in jobs if job_id not in gone]
    one = run("quarantine", "retry", left[0], "--initial-data", '{"ask": true}', env=env)
    assert (one.exit_code, one.output) == (0, f"{left[0]} retry_accepted\n")
    engine.pump()
    assert engine.job(left[0]).status is JobStatus.WAITING_FOR_HUMAN
    refused = run("quarantine", "retry", "--all", "--state", "nowhere", env=env)
    assert (refused.exit_code, "no state 'nowhere'" in refused.output) == (1, True)
    end = run("quarantine", "retry", "--blueprint", "picture", "--state", "done", env=env)
    assert (end.exit_code, end.output.splitlines()) == (0, [f"{left[1]} retry_accepted", "1 done, 0 refused"])
    put = run("quarantine", "put", left[0], "--reason", "odd", env=env)
    assert (put.exit_code, put.output) == (0, f"{left[0]} quarantined\n")
    assert engine.job(left[0]).error_message == "quarantined by default: odd"
    both = run("quarantine", "discard", left[0], *gone, env=env)
    assert (both.exit_code, f"{left[0]} discarded" in both.output) == (1, True)  # the others are done already


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retry"], "say which"),
        (["discard", "a", "--code", "X"], "say which"),
        (["discard", "--all", "--older-than", "1h"], "say which"),
        (["retry", "a", "--dry-run"], "belong to --all"),
        (["ls", "--older-than", "a week"], "no length of time"),
        (["retry", "a", "--initial-data", "{"], "not JSON"),
        (["retry", "a", "--state-history", "[]"], "must be a JSON object"),
    ],
)
def test_an_order_to_the_quarantine_that_is_not_clear_is_refused(
    run: Run, engine: Engine, arguments: list[str], said: str
) -> None:
    done = run("quarantine", *arguments, env=engine.env)

    assert (done.exit_code, said in done.output) == (2, True)


def test_the_commands_of_the_page_on_retries(run: Run, engine: Engine) -> None:
    page = (REPOSITORY / "docs" / "retries.md").read_text(encoding="utf-8")
    lines = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("avtomatika quarantine ")]
    assert {words[1] for words in lines} == {"list", "show", "retry", "put", "discard"}
    job_id = _submit(run, engine)
    engine.pump()
    for words in lines:
        done = run(*(word.replace("$JOB", job_id) for word in words), env=engine.env)
        assert done.exit_code == 0, (words, done.output)
    job = engine.job(job_id)
    assert (job.status, job.initial_data["url"]) == (JobStatus.CANCELLED, "https://example.com/the-right-one")
    assert job.error_message.startswith(
        "discarded by default: not needed any more (quarantined: quarantined by default: looks odd"
    )
