"""A worker that is killed and comes back under its old name: what it held runs again at once, and a task that kills it stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from avtomatika.jobs import Job, JobStatus, TaskInfo
from tests.support.engine import ENDED, opened_engine
from tests.support.polling import eventually_async
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

BLUEPRINTS = """
from avtomatika import Blueprint

work = Blueprint("work")


@work.handler_for("start", is_start=True)
async def start(actions, n, kind="hold"):
    actions.dispatch_task(kind, {"n": n}, {"success": "done"})


@work.handler_for("done", is_end=True)
async def done(attempt):
    return attempt
"""
WORKERS = """
import asyncio
import os
import signal
from pathlib import Path

from avtomatika import Worker

worker = Worker(max_concurrent_tasks=10)


@worker.task("hold", task_type="cpu")
async def hold(params, attempt):
    place = Path(os.environ["PLACE"])
    (place / f"began-{params['n']}-{attempt}").touch()
    while not (place / f"go-{params['n']}").exists():
        await asyncio.sleep(0.02)
    return {"attempt": attempt}


@worker.task("kill", task_type="cpu")
async def kill(params):
    os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_worker_that_comes_back_runs_again_what_it_held_until_a_task_keeps_killing_it(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    for name, text in (("blueprints", BLUEPRINTS), ("workers", WORKERS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "work.py").write_text(text, encoding="utf-8")
    env = {
        **redis_broker.env,
        "BLUEPRINTS_DIR": str(tmp_path / "blueprints"),
        "WORKERS_DIR": str(tmp_path / "workers"),
        "PLACE": str(tmp_path),
        "WORKER_HEALTH_CHECK_INTERVAL_SECONDS": "3600",  # its silence alone would tell in two hours
        "JOB_MAX_RETRIES": "2",
    }
    processes.make(Orchestrator, env=env, node=f"orchestrator@{redis_broker.namespace}", wait=False)
    worker = processes.make(CapabilityWorker, env=env, node=f"worker@{redis_broker.namespace}", wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        held = [await engine.create("work", {"n": n}) for n in range(3)]

        async def began(attempt: int) -> bool:
            return all((tmp_path / f"began-{n}-{attempt}").exists() for n in range(3))

        await eventually_async(lambda: began(1))
        worker.restart(force=True)
        await eventually_async(lambda: began(2))
        (tmp_path / "go-0").touch()
        assert (await engine.ended(held[0].id)).result == 2

        poison = await engine.create("work", {"n": 9, "kind": "kill"})

        async def ended() -> Job | None:
            if not worker.running:
                worker.start()
            job = await engine.service.store.load(poison.id)
            if job is not None and isinstance(job.waiting, TaskInfo) and job.waiting.deaths == 2:
                for n in (1, 2):  # what was beside it so far ends now
                    (tmp_path / f"go-{n}").touch()
            return job if job is not None and job.status.is_terminal else None

        job = await eventually_async(ended, deadline=ENDED)
        assert job is not None
        assert job.status is JobStatus.QUARANTINED
        assert f"worker {worker.node} ended, 3 times: does the task kill its worker?" in str(job.error_message)
        assert job.failure is not None
        assert (job.failure.code, (job.failure.task or {})["params"]) == ("WORKER_LOST", {"n": 9})
        for n in (1, 2):
            assert (await engine.ended(held[n].id)).status is JobStatus.FINISHED
