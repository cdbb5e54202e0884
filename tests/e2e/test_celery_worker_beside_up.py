"""An ordinary `celery worker -Q gpu` beside `avtomatika up --no-workers`, and Flower on both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.engine import APPS, Api
from tests.support.polling import eventually, eventually_async
from tests.support.processes import (
    REPOSITORY,
    CapabilityWorker,
    ManagedProcess,
    Processes,
    Up,
    clean_environment,
    free_port,
    port_is_open,
)

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("up")]

APP = APPS / "gpu_and_cpu"


@pytest.fixture
def up(processes: Processes) -> Up:
    return processes.make(Up, blueprints=APP / "blueprints", workers=APP / "workers", options=("--no-workers",))


@pytest.fixture
def env(up: Up) -> dict[str, str]:
    """What a worker of one's own needs to know, out of `avtomatika doctor --json`."""
    command = [sys.executable, "-m", "avtomatika", "doctor", "--data-dir", str(up.data_dir), "--json"]
    done = subprocess.run(command, env=clean_environment(), cwd=up.cwd, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    return {
        "REDIS_URL": found["state_url"],
        "BROKER_URL": found["broker_url"],
        "BLUEPRINTS_DIR": str(APP / "blueprints"),
        "WORKERS_DIR": str(APP / "workers"),
    }


async def test_a_gpu_worker_takes_gpu_tasks_alone(up: Up, env: dict[str, str], processes: Processes) -> None:
    async with Api(up.url, up.token) as api:
        shrink = await api.create("shrink", {"picture": "early.png"})
        early = await api.create("render", {"picture": "early.png"})
        worker = processes.make(CapabilityWorker, env=env, capabilities=("gpu",), cwd=REPOSITORY)
        late = await api.create("render", {"picture": "late.png"})

        ended = await api.ended([early, late])

        assert {(job["status"], job["result"]) for job in ended.values()} == {("finished", worker.node)}
        assert (await api.job(shrink))["status"] == "waiting_for_worker"
        processes.make(CapabilityWorker, env=env, capabilities=("cpu",), cwd=REPOSITORY)
        assert (await api.ended([shrink]))[shrink]["status"] == "finished"


async def test_inspect_shows_the_worker(env: dict[str, str], processes: Processes) -> None:
    worker = processes.make(CapabilityWorker, env=env, capabilities=("gpu",), cwd=REPOSITORY)
    command = [sys.executable, "-m", "celery", "-A", "avtomatika", "inspect", "registered", "--json", "-d", worker.node]

    def registered() -> list[str]:
        done = subprocess.run(
            command, env={**clean_environment(), **env}, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        tasks: list[str] = json.loads(done.stdout)[worker.node]
        return tasks

    assert eventually(registered)


async def test_flower_lists_worker_and_task(up: Up, env: dict[str, str], processes: Processes, tmp_path: Path) -> None:
    worker = processes.make(CapabilityWorker, env=env, capabilities=("gpu",), cwd=REPOSITORY)
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "avtomatika", "flower", "--address=127.0.0.1", f"--port={port}"]
    flower = ManagedProcess(
        "flower", command, directory=tmp_path, env={**env, "FLOWER_UNAUTHENTICATED_API": "true"}, cwd=REPOSITORY
    )
    processes.start(flower)
    eventually(lambda: port_is_open(port), what="Flower's port")

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", raise_for_status=True) as session, Api(up.url, up.token) as api:

        async def get(path: str) -> Any:
            async with session.get(path) as response:
                return await response.json()

        async def worker_is_listed() -> bool:
            return worker.node in await get("/api/workers?refresh=1")

        async def task_is_listed() -> bool:
            # Flower may have begun to listen after the first job: each look gives it another one to see.
            job_id = await api.create("render", {"picture": "seen.png"})
            await api.ended([job_id])
            tasks = await get("/api/tasks")
            return any(task["worker"] == worker.node and task["state"] == "SUCCESS" for task in tasks.values())

        retry = (AssertionError, OSError, aiohttp.ClientError)
        await eventually_async(worker_is_listed, deadline=120, retry=retry)
        await eventually_async(task_is_listed, deadline=120, interval=0.25, retry=retry)
