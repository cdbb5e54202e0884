"""What the files of deploy/ start: it does a job, tells whether it is alive, and stops in time."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.deployment import (
    COMPOSE,
    HTTP_WORKER,
    Part,
    by_compose,
    by_systemd,
    compose_command,
    filled_env,
    health_command,
    read_compose,
)
from tests.support.engine import APPS, Api
from tests.support.polling import eventually
from tests.support.processes import REPOSITORY, ManagedProcess, Processes, free_port
from tests.support.requirements import missing
from tests.support.servers import RedisServer, redis_of_the_wheel, redis_on_path

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("deploy")]


class ComposeRedis(RedisServer):
    """A Redis with the configuration that the compose file writes for it."""

    def __init__(self, binary: Path, directory: Path, content: str) -> None:
        found = re.search(r"^requirepass (.+)$", content, re.MULTILINE)
        assert found is not None
        super().__init__(binary, directory, password=found[1])
        self._content = content

    def _command(self) -> list[str]:
        path = self.directory / "redis.conf"
        path.write_text(self._content)
        return [str(self.binary), str(path), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]


class Running:
    """A deployment of one test, as one of the two ways starts it: `parts` by their names."""

    def __init__(self, directory: Path, processes: Processes, redis: ComposeRedis, filled: Mapping[str, str], way: str) -> None:
        self.port = free_port()
        self.token = filled["CLIENT_TOKEN"]
        self.login = filled["FLOWER_BASIC_AUTH"]
        self._directory = directory
        self._processes = processes
        # What differs since no container and no second machine is here: addresses and ports.
        here = {
            "REDIS_URL": redis.url, "API_HOST": "127.0.0.1", "API_PORT": str(self.port),
            "FLOWER_PORT": str(free_port()), "FLOWER_ADDRESS": "127.0.0.1",
        }  # fmt: skip
        self.flower = f"http://127.0.0.1:{here['FLOWER_PORT']}"
        parts = by_systemd(filled, redis.url) if way == "systemd" else by_compose(filled)
        self.parts = {part.name: Part(part.name, part.argv, {**part.env, **here}, part.stop_seconds) for part in parts}

    def start(self, name: str, **env: str) -> ManagedProcess:
        part = self.parts[name]
        process = ManagedProcess(
            name, part.argv, directory=self._directory / "logs", env={**part.env, **env}, cwd=self._directory / "project"
        )
        return self._processes.start(process, wait=False)


@pytest.fixture
def filled() -> dict[str, str]:
    """deploy/.env of this test alone."""
    return filled_env()


@pytest.fixture
def redis(tmp_path: Path, filled: dict[str, str]) -> Iterator[ComposeRedis]:
    binary = redis_on_path() or redis_of_the_wheel() or missing("redis", "there is no redis-server")
    server = ComposeRedis(binary, tmp_path / "redis", read_compose(filled)["configs"]["redis"]["content"])
    server.start()
    yield server
    server.close()


@pytest.fixture(params=["systemd", "compose"])
def running(
    request: pytest.FixtureRequest, tmp_path: Path, processes: Processes, redis: ComposeRedis, filled: dict[str, str]
) -> Running:
    project = tmp_path / "project"
    project.mkdir()
    for folder in ("blueprints", "workers"):
        (project / folder).symlink_to(APPS / "gpu_and_cpu" / folder)
    return Running(tmp_path, processes, redis, filled, request.param)


def _health(process: ManagedProcess) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        health_command(process.pid),
        env=process.env, cwd=process.cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def _becomes(process: ManagedProcess, code: int) -> None:
    eventually(lambda: _health(process).returncode == code, what=f"health code {code} of {process.name}")


# --- What the commands do ------------------------------------------------------------------------------------------------------


def test_a_job_goes_through_and_everything_stops_in_time(running: Running) -> None:
    started = {name: running.start(name) for name in running.parts if name != HTTP_WORKER}
    for process in started.values():
        _becomes(process, 0)

    async def work() -> list[Any]:
        async with Api(f"http://127.0.0.1:{running.port}", running.token) as api:
            job_ids = [await api.create(blueprint, {"picture": "a.png"}) for blueprint in ("render", "shrink")]
            jobs = await api.ended(job_ids)
            return [jobs[job_id]["result"].partition("@")[0] for job_id in job_ids]

    assert asyncio.run(work()) == ["gpu", "cpu"]
    assert asyncio.run(_flower_lets_in(running)) == [401, 200]

    for process in started.values():
        process.signal(signal.SIGTERM)
    for name, process in started.items():
        assert process.wait(running.parts[name].stop_seconds) == 0, name
        assert _health(process).returncode == 1, name


@pytest.mark.parametrize("running", ["systemd"], indirect=True)
def test_a_restart_in_the_middle_of_a_task_loses_nothing(running: Running, tmp_path: Path) -> None:
    names = ("avtomatika-server.service", "avtomatika-orchestrator.service", "cpu")
    app = REPOSITORY / "tests" / "faults" / "apps" / "held"
    env = {"BLUEPRINTS_DIR": str(app / "blueprints"), "WORKERS_DIR": str(app / "workers")}
    started = [running.start(name, **env) for name in names]
    for process in started:
        _becomes(process, 0)

    async def create() -> str:
        async with Api(f"http://127.0.0.1:{running.port}", running.token) as api:
            return await api.create("held", {"directory": str(tmp_path), "at": "task"})

    async def ended(job_id: str) -> str:
        async with Api(f"http://127.0.0.1:{running.port}", running.token) as api:
            status: str = (await api.ended([job_id]))[job_id]["status"]
            return status

    job_id = asyncio.run(create())
    eventually((tmp_path / "task").exists, what="the task's begin")
    for process in started:
        process.signal(signal.SIGTERM)
    for process in started:
        assert process.wait(running.parts[process.name].stop_seconds) == 0, process.name

    (tmp_path / "go").touch()
    for process in started:
        process.start()
        _becomes(process, 0)
    assert asyncio.run(ended(job_id)) == "finished"


@pytest.mark.parametrize("running", ["systemd"], indirect=True)
def test_a_worker_over_http_does_a_job_and_stops_in_time(running: Running, tmp_path: Path) -> None:
    others = [running.start(name) for name in ("avtomatika-server.service", "avtomatika-orchestrator.service")]
    for process in others:
        _becomes(process, 0)
    here = {"WORKER_HEALTH_PORT": str(free_port()), "WORKER_SPOOL_DIR": str(tmp_path / "spool")}
    worker = running.start(HTTP_WORKER, **here, ORCHESTRATOR_URL=f"http://127.0.0.1:{running.port}")
    _becomes(worker, 0)

    async def work() -> str:
        async with Api(f"http://127.0.0.1:{running.port}", running.token) as api:
            job_id = await api.create("render", {"picture": "a.png"})
            result: str = (await api.ended([job_id]))[job_id]["result"]
            return result

    assert asyncio.run(work()) == "far-away"
    worker.signal(signal.SIGSTOP)
    _becomes(worker, 1)
    worker.signal(signal.SIGCONT)
    assert worker.terminate(running.parts[HTTP_WORKER].stop_seconds) == 0


async def _flower_lets_in(running: Running) -> list[int]:
    """What Flower answers to a stranger, and to its operator."""
    async with aiohttp.ClientSession(running.flower) as session:
        codes = []
        for headers in ({}, {"Authorization": aiohttp.encode_basic_auth(*running.login.split(":"))}):
            async with session.get("/workers", headers=headers) as answer:
                codes.append(answer.status)
        return codes


@pytest.mark.parametrize("running", ["compose"], indirect=True)
@pytest.mark.parametrize("name", ["facade", "orchestrator", "flower"])
def test_the_health_check_sees_that_a_process_hangs(running: Running, name: str) -> None:
    process = running.start(name, WORKER_HEALTH_CHECK_INTERVAL_SECONDS="2")
    _becomes(process, 0)

    process.signal(signal.SIGSTOP)
    _becomes(process, 1)

    process.signal(signal.SIGCONT)
    _becomes(process, 0)


@pytest.mark.parametrize("running", ["compose"], indirect=True)
def test_the_health_check_sees_that_the_store_does_not_know_a_worker(running: Running, redis: ComposeRedis) -> None:
    process = running.start("orchestrator")
    _becomes(process, 0)

    redis.kill()
    assert "the store does not say" in _health(process).stderr

    redis.start()
    _becomes(process, 0)


def test_the_health_check_refuses_what_it_does_not_know(processes: Processes) -> None:
    process = processes.make(ManagedProcess, "other", ["sleep", "600"], wait=False)

    done = _health(process)

    assert done.returncode == 1
    assert "neither the facade nor a worker nor Flower" in done.stderr


def test_the_health_check_of_redis(redis: ComposeRedis, filled: dict[str, str]) -> None:
    service = read_compose(filled)["services"]["redis"]
    kind, command = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    if shutil.which("redis-cli") is None:
        missing("redis", "there is no redis-cli on PATH")
    command = command.replace("redis-cli", f"redis-cli -p {redis.port}")

    def code(**env: str) -> int:
        return subprocess.run(["sh", "-c", command], env={**os.environ, **env}, capture_output=True, check=False).returncode

    assert code(**service["environment"]) == 0
    assert code(REDISCLI_AUTH="wrong") == 1
    redis.kill()
    assert code(**service["environment"]) == 1


def test_redis_keeps_what_it_was_given(redis: ComposeRedis) -> None:
    with redis.client() as client:
        client.set("kept", "yes")
    redis.restart(force=True)
    with redis.client() as client:
        assert client.get("kept") == "yes"


@pytest.mark.docker
def test_the_image_runs_a_job(filled: dict[str, str], tmp_path: Path) -> None:
    env = {**os.environ, **filled, "IMAGE": "avtomatika:test", "COMPOSE_PROJECT_NAME": f"avtomatika-{secrets.token_hex(4)}"}
    port = free_port()
    env |= {"FACADE_PORT": f"127.0.0.1:{port}", "FLOWER_PUBLISHED_PORT": f"127.0.0.1:{free_port()}"}
    env |= {"PROJECT_DIR": str(APPS / "gpu_and_cpu")}
    compose = [*compose_command(), "-f", str(COMPOSE)]

    async def work() -> str:
        async with Api(f"http://127.0.0.1:{port}", filled["CLIENT_TOKEN"]) as api:
            job_id = await api.create("shrink", {"picture": "a.png"})
            result: str = (await api.ended([job_id]))[job_id]["result"]
            return result

    try:
        subprocess.run([*compose, "up", "--build", "--detach", "--wait"], env=env, check=True, timeout=550)
        assert asyncio.run(work()).startswith("cpu@")
    finally:
        subprocess.run([*compose, "down", "--volumes", "--timeout", "30"], env=env, check=True, timeout=120)
