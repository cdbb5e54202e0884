"""`avtomatika up`, as a user starts it: a process, its output, its signals, and what it leaves behind (nothing)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from avtomatika.embedded import running_url
from avtomatika.processes import alive, wait_until

BLUEPRINT = """
from avtomatika import Blueprint

blueprint = Blueprint("double")


@blueprint.handler_for("start", is_start=True)
async def start(number, actions, seconds=0):
    actions.dispatch_task("double", {"number": number, "seconds": seconds}, {"success": "end"})


@blueprint.handler_for("end", is_end=True)
async def end(doubled):
    return doubled
"""

WORKER = """
import time
from avtomatika import Worker

worker = Worker()


@worker.task("double", task_type="cpu")
def double(params, **kwargs):
    time.sleep(params["seconds"])
    return {"doubled": 2 * params["number"]}
"""


@dataclass
class Project:
    """A user's folder with one blueprint and one worker, and the `up` that runs on it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    family: set[int] = field(default_factory=set)
    url: str = ""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def up(self, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "avtomatika", "up", "--port", "0", "--data-dir", str(self.data), *options],
            cwd=self.folder,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def ready(self, process: subprocess.Popen[str]) -> str:
        """What it printed up to `ready`; its children are remembered."""
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"ready (http://\S+)", line):
                self.url = found[1]
                self.remember(process)
                return "".join(lines)
        raise AssertionError(f"it ended with {process.wait()}:\n{''.join(lines)}")

    def remember(self, process: subprocess.Popen[str]) -> None:
        self.family |= {child.pid for child in psutil.Process(process.pid).children(recursive=True)}

    def stop(self, process: subprocess.Popen[str], sig: int = signal.SIGINT) -> int:
        process.send_signal(sig)
        return process.wait(30)

    def call(self, path: str, body: Any = None) -> Any:
        headers = {"X-Avtomatika-Token": (self.data / "client-token").read_text().strip()}
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def worker_status(self, token: str) -> int:
        """How a worker with this token is answered where nothing is served."""
        request = urllib.request.Request(f"{self.url}/_worker/nothing", headers={"X-Worker-Token": token})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        return refused.value.code

    def submit(self, **data: Any) -> str:
        job_id: str = self.call("/api/v1/jobs", {"blueprint": "double", "initial_data": data})["job_id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call(f"/api/v1/jobs/{job_id}")
        return found

    def finished(self, job_id: str) -> bool:
        return wait_until(lambda: self.job(job_id)["status"] == "finished", 30, step=0.1)

    def pids(self, name: str) -> list[int]:
        return [pid for pid in self.family if alive(pid) and name in " ".join(psutil.Process(pid).cmdline())]

    def left_over(self) -> list[int]:
        wait_until(lambda: not any(alive(pid) for pid in self.family), 5)
        return [pid for pid in self.family if alive(pid)]


def clean_environment() -> dict[str, str]:
    theirs = (
        "REDIS_",
        "BROKER_URL",
        "CLIENT_TOKEN",
        "BLUEPRINTS_DIR",
        "WORKERS_DIR",
        "API_",
        "AVTOMATIKA_",
        "HISTORY_",
        "CELERY",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(theirs)}


def assert_doctor_finds(project: Project) -> None:
    argv = [sys.executable, "-m", "avtomatika", "doctor", "--data-dir", str(project.data), "--json"]
    done = subprocess.run(argv, cwd=project.folder, env=clean_environment(), capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert (done.returncode, report["problems"]) == (0, [])
    assert report["state_url"] == report["broker_url"] == running_url(project.data / "redis")
    assert report["api_url"] == project.url
    assert report["tasks"] == {"double": "cpu"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    for folder, text in (("blueprints", BLUEPRINT), ("workers", WORKER)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text(text)
    project = Project(tmp_path)
    yield project
    for process in project.started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert project.left_over() == []


def test_it_serves_stops_and_finds_its_jobs_again(project: Project) -> None:
    first = project.up()
    output = project.ready(first)
    token = project.data / "client-token"
    assert f"token {token.read_text().strip()} " in output
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    worker_token = project.data / "worker-token"
    assert f"worker-token {worker_token.read_text().strip()} " in output
    assert stat.S_IMODE(worker_token.stat().st_mode) == 0o600
    assert project.worker_status(worker_token.read_text().strip()) == 404
    assert project.worker_status(token.read_text().strip()) == 401
    job_id = project.submit(number=21)
    assert project.finished(job_id)
    assert project.job(job_id)["result"] == 42
    [worker] = project.call("/api/v1/workers")
    dashboard = project.call("/api/v1/dashboard")
    assert dashboard["workers"] == {"total": 1}
    assert dashboard["jobs"]["finished"] == 1
    assert {"orchestrator", "cpu.double"} <= set(dashboard["queues"])
    assert_doctor_finds(project)
    assert project.stop(first, signal.SIGINT) == 0
    assert project.left_over() == []
    assert running_url(project.data / "redis") is None

    second = project.up()
    assert "token " not in project.ready(second)
    assert project.job(job_id)["result"] == 42
    assert [again["worker_id"] for again in project.call("/api/v1/workers")] == [worker["worker_id"]]
    assert project.stop(second, signal.SIGTERM) == 0


def test_a_stop_does_not_wait_for_a_long_task_and_loses_nothing(project: Project) -> None:
    first = project.up()
    project.ready(first)
    job_id = project.submit(number=1, seconds=25)
    assert wait_until(lambda: (project.job(job_id)["current_task"] or {}).get("state") == "claimed", 20, step=0.1)
    assert project.stop(first) == 0
    assert project.left_over() == []
    (project.folder / "workers" / "one.py").write_text(WORKER.replace('params["seconds"]', "0"))
    project.ready(project.up())
    assert project.finished(job_id)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_kill_takes_everything_down(project: Project) -> None:
    worker = project.folder / "workers" / "one.py"
    worker.write_text(WORKER.replace('task_type="cpu"', 'task_type="cpu", process=True'))
    first = project.up()
    project.ready(first)
    job_id = project.submit(number=21, seconds=60)
    assert wait_until(lambda: (project.job(job_id)["current_task"] or {}).get("state") == "claimed", 20, step=0.1)
    project.remember(first)  # the task's process is among its family now
    assert project.stop(first, signal.SIGKILL) == -signal.SIGKILL
    assert project.left_over() == []
    worker.write_text(WORKER.replace('params["seconds"]', "0"))
    project.ready(project.up())
    assert project.finished(job_id)


def test_what_dies_is_started_again(project: Project) -> None:
    process = project.up()
    project.ready(process)
    for name in ("worker-1@", "orchestrator@", "avtomatika server", "redis-server"):
        [pid] = project.pids(name)
        os.kill(pid, signal.SIGKILL)

        def again(pid: int = pid, name: str = name) -> bool:
            project.remember(process)
            return not alive(pid) and bool(project.pids(name))

        assert wait_until(again, 20), name

    def serves() -> bool:
        try:
            return bool(project.call("/api/v1/workers"))
        except OSError:
            return False

    assert wait_until(serves, 20, step=0.1)
    job_id = project.submit(number=21)
    assert project.finished(job_id)


def test_a_second_up_on_the_same_data_is_refused(project: Project) -> None:
    first = project.up()
    project.ready(first)
    second = project.up()
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in output
    assert project.call("/api/v1/workers")


def test_a_worker_that_cannot_start_ends_it_with_the_reason(project: Project) -> None:
    (project.folder / "workers" / "one.py").write_text("raise RuntimeError('no such camera')\n")
    process = project.up()
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "worker-1@" in output
    assert "no such camera" in output


def test_a_bad_blueprint_is_refused_before_anything_runs(project: Project) -> None:
    (project.folder / "blueprints" / "bad.py").write_text(
        textwrap.dedent(
            """
            from avtomatika import Blueprint
            bad = Blueprint("bad")

            @bad.handler_for("start", is_start=True)
            async def start(actions):
                actions.transition_to("nowhere")
            """
        )
    )
    process = project.up()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.search(r"bad\.py:\d+: .*nowhere", output)
    assert not (project.data / "logs").exists()


def test_a_taken_port_is_named(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = project.up("--port", str(port))
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"port {port}" in output
    assert "--port" in output


def test_no_workers_and_verbose(project: Project) -> None:
    process = project.up("--no-workers", "--verbose")
    output = project.ready(process)
    assert "facade | " in output
    assert project.pids("worker-1@") == []
    assert "the facade serves" in (project.data / "logs" / "facade.log").read_text()
    assert project.stop(process) == 0
