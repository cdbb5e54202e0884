"""Workers over HTTP and the real facade, in real processes: the same file as under Celery, from a job to its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.polling import eventually_async
from tests.support.processes import CapabilityWorker, Facade, ManagedProcess, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(300)

BLUEPRINT = """
from avtomatika import Blueprint

one = Blueprint("one")

@one.handler_for("start", is_start=True)
async def start(actions, task, params):
    actions.dispatch_task(task, params, {"success": "end", "cancelled": "cleaned"})

@one.handler_for("end", is_end=True)
async def end(state_history):
    return state_history

@one.handler_for("cleaned", is_end=True)
async def cleaned():
    return "cleaned"
"""

WORKERS = """
import asyncio, os, time
from pydantic import BaseModel
from avtomatika import PermanentError, Worker

worker = Worker("both", max_concurrent_tasks=3, task_type_limits={"gpu": 1})

class Numbers(BaseModel):
    left: int
    right: int = 1

@worker.task("add", task_type="cpu")
async def add(params: Numbers, attempt, priority, tracing_context):
    return {"sum": params.left + params.right, "attempt": attempt}

@worker.task("sleep", task_type="gpu")
async def sleep(params, task_id, job_id, send_progress, attempt):
    await send_progress(task_id, job_id, 0.5, "asleep")
    await asyncio.sleep(params["seconds"] if attempt == 1 else 0)
    return {"slept": True}

@worker.task("square", task_type="cpu", process=True)
def square(params):
    return {"square": params["n"] ** 2, "pid": os.getpid()}

@worker.task("refuse", task_type="cpu")
def refuse(params):
    raise PermanentError("never")
"""


class HTTPWorkerProcess(ManagedProcess):
    """`avtomatika worker run` for a facade."""

    def __init__(self, facade: Facade, *, directory: Path, name: str = "box-1", **env: str) -> None:
        argv = [sys.executable, "-m", "avtomatika", "worker", "run", "--workers", str(directory / "workers")]
        env = {
            "ORCHESTRATOR_URL": facade.url,
            "WORKER_TOKEN": f"worker-{facade.token}",
            "WORKER_ID": name,
            "WORKER_SPOOL_DIR": str(directory / "spool"),
            "HEARTBEAT_INTERVAL_SECONDS": "1",
            **env,
        }
        super().__init__(name, argv, directory=directory, env=env)


class Site:
    """An orchestrator, a facade, and its client."""

    def __init__(self, processes: Processes, env: dict[str, str], session: aiohttp.ClientSession) -> None:
        self.processes = processes
        self.env = env
        self.facade = processes.make(Facade, env=env, wait=False)
        processes.make(Orchestrator, env=env, wait=False)
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"X-Avtomatika-Token": self.facade.token}
        async with self._session.request(method, self.facade.url + path, json=body, headers=headers) as response:
            return await response.json()

    async def submit(self, task: str, **params: Any) -> str:
        accepted = await self.ask("POST", "/api/v1/jobs", {"blueprint": "one", "initial_data": {"task": task, "params": params}})
        return str(accepted["job_id"])

    async def job(self, job_id: str, *statuses: str) -> Any:
        """The job once it has one of these statuses."""

        async def look() -> Any:
            found = await self.ask("GET", f"/api/v1/jobs/{job_id}")
            assert found["status"] in statuses, found
            return found

        return await eventually_async(look, deadline=90)

    async def result(self, task: str, **params: Any) -> Any:
        return (await self.job(await self.submit(task, **params), "finished"))["result"]

    async def worker(self, worker_id: str) -> Any:
        async def look() -> Any:
            return next((item for item in await self.ask("GET", "/api/v1/workers") if item["worker_id"] == worker_id), None)

        return await eventually_async(look)

    async def progress(self, job_id: str) -> Any:
        async def look() -> Any:
            return (await self.ask("GET", f"/api/v1/jobs/{job_id}"))["progress"]

        return await eventually_async(look)


@pytest.fixture
async def site(processes: Processes, redis_broker: Broker, tmp_path: Path) -> AsyncIterator[Site]:
    for folder, text in (("blueprints", BLUEPRINT), ("workers", WORKERS)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.py").write_text(text)
    env = {**redis_broker.env, "BLUEPRINTS_DIR": str(tmp_path / "blueprints"), "WORKERS_DIR": str(tmp_path / "workers")}
    async with aiohttp.ClientSession() as session:
        site = Site(processes, env, session)
        processes.wait_ready()
        yield site


async def test_jobs_run_over_http_as_they_do_under_celery(site: Site, processes: Processes) -> None:
    box = processes.make(HTTPWorkerProcess, site.facade)
    said = await site.worker("box-1")
    assert sorted(said["supported_tasks"]) == ["add", "refuse", "sleep", "square"]
    assert (said["limits"], said["status"]) == ({"cpu": 3, "gpu": 1}, "idle")

    assert await site.result("add", left=2, right=3) == {"sum": 5, "attempt": 1}
    squared = await site.result("square", n=7)
    assert squared["square"] == 49
    assert squared["pid"] != box.pid
    assert "never" in (await site.job(await site.submit("refuse"), "quarantined"))["error_message"]
    assert (await site.job(await site.submit("add", left="x"), "failed"))["error_message"]

    box.signal(signal.SIGTERM)
    assert await asyncio.to_thread(box.wait) == 0
    celery = processes.make(CapabilityWorker, env=site.env, wait=False)
    assert await site.result("add", left=2, right=3) == {"sum": 5, "attempt": 1}
    assert celery.running


async def test_progress_and_a_cancel(site: Site, processes: Processes) -> None:
    processes.make(HTTPWorkerProcess, site.facade)
    job = await site.submit("sleep", seconds=600)
    await site.progress(job)

    await site.ask("POST", f"/api/v1/jobs/{job}/cancel")

    ended = await site.job(job, "finished", "cancelled")
    assert (ended["status"], ended["result"]) in (("finished", "cleaned"), ("cancelled", None))
    assert (await site.result("add", left=1))["sum"] == 2


async def test_a_capability_that_is_free_again_gets_its_next_task(site: Site, processes: Processes) -> None:
    processes.make(HTTPWorkerProcess, site.facade)
    first = await site.submit("sleep", seconds=1.5)
    await site.progress(first)
    second = await site.submit("sleep", seconds=0)
    assert (await site.result("add", left=1))["sum"] == 2
    await site.job(first, "finished")
    ended = asyncio.get_running_loop().time()
    await site.job(second, "finished")
    assert asyncio.get_running_loop().time() - ended < 10, "the parked poll did not hear of the free slot"


async def test_a_worker_that_stops_hands_its_task_to_another(site: Site, processes: Processes) -> None:
    first = processes.make(HTTPWorkerProcess, site.facade, SHUTDOWN_GRACE_SECONDS="0.2")
    job = await site.submit("sleep", seconds=600)
    await site.progress(job)
    processes.make(HTTPWorkerProcess, site.facade, name="box-2")
    await site.worker("box-2")

    first.signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.wait) == 0
    ended = await site.job(job, "finished")
    assert ended["retry_count"] == 1


async def test_a_facade_that_is_killed_meanwhile_costs_nothing(site: Site, processes: Processes) -> None:
    processes.make(HTTPWorkerProcess, site.facade)
    job = await site.submit("sleep", seconds=3)
    await site.progress(job)
    await asyncio.to_thread(site.facade.kill)
    await asyncio.sleep(4)  # the task ends while nobody can take its result
    await asyncio.to_thread(site.facade.restart)

    ended = await site.job(job, "finished")
    assert ended["retry_count"] == 0
    assert await site.result("add", left=1) == {"sum": 2, "attempt": 1}


async def test_a_worker_that_is_killed_with_a_result_delivers_it_when_it_starts_again(
    site: Site, processes: Processes, tmp_path: Path
) -> None:
    box = processes.make(HTTPWorkerProcess, site.facade)
    job = await site.submit("sleep", seconds=2)
    await site.progress(job)
    await asyncio.to_thread(site.facade.kill)

    async def spooled() -> list[Path]:
        return list((tmp_path / "spool" / "box-1").glob("*.json"))

    await eventually_async(spooled)
    await asyncio.to_thread(box.kill_all)
    await asyncio.to_thread(site.facade.restart)
    await asyncio.to_thread(box.restart)

    ended = await site.job(job, "finished")
    assert (ended["retry_count"], ended["result"]) == (0, {"slept": True})
    events = await site.ask("GET", f"/api/v1/jobs/{job}/history")
    assert {event["attempt"] for event in events if event.get("attempt")} == {1}
