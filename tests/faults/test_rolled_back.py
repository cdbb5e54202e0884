"""A Redis that comes back without its latest writes, as with `appendfsync everysec`: no live process's claim stands for ever."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from avtomatika.jobs import Job, JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.polling import eventually, eventually_async
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker, RedisServer

pytestmark = pytest.mark.timeout(600)

APP = Path(__file__).parent / "apps" / "held"


@dataclass
class Place:
    redis: RedisServer
    processes: Processes
    env: dict[str, str]
    directory: Path

    def log(self) -> Path:
        """The append-only file that is being written."""
        return max(self.redis.directory.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)

    def roll_back(self, size: int) -> None:
        """Kills Redis, and starts it again with as much of its log as there was."""
        log = self.log()
        self.redis.kill()
        os.truncate(log, size)
        self.redis.start()

    def orchestrator(self) -> Orchestrator:
        return self.processes.make(Orchestrator, env=self.env, node=f"orchestrator@{self.env['NAMESPACE']}", wait=False)

    def worker(self) -> CapabilityWorker:
        return self.processes.make(CapabilityWorker, env=self.env, node=f"worker@{self.env['NAMESPACE']}", wait=False)

    async def create(self, engine: Engine, at: str) -> Job:
        return await engine.create("held", {"directory": str(self.directory), "at": at})

    def runs(self, what: str) -> list[str]:
        path = self.directory / what
        return path.read_text().split() if path.exists() else []

    def go(self) -> None:
        (self.directory / "go").touch()


@pytest.fixture
def place(own_redis: RedisServer, namespace: str, processes: Processes, tmp_path: Path) -> Place:
    env = {
        **Broker("redis", own_redis, own_redis.url, "", namespace).env,
        "BLUEPRINTS_DIR": str(APP / "blueprints"),
        "WORKERS_DIR": str(APP / "workers"),
        "WATCHER_INTERVAL_SECONDS": "1",
        "CLAIM_GRACE_SECONDS": "1",
        "HEARTBEAT_INTERVAL_SECONDS": "1",
        "WORKER_TIMEOUT_SECONDS": "3600",
    }
    (tmp_path / "job").mkdir()
    return Place(own_redis, processes, env, tmp_path / "job")


async def _ends_well(engine: Engine, job: Job) -> None:
    async def ended() -> Job | None:
        found = await engine.service.store.load(job.id)
        return found if found is not None and found.status.is_terminal else None

    found = await eventually_async(ended, deadline=60, retry=(Exception,))
    assert found is not None
    assert (found.status, found.result) == (JobStatus.FINISHED, ["success"] * 2)


async def test_what_was_done_stands_as_claimed_again(place: Place) -> None:
    """The store says that a live process works on it, and that one has ended it long ago."""
    place.orchestrator()
    place.worker()
    place.processes.wait_ready()
    async with opened_engine(place.env) as engine:
        jobs = {at: await place.create(engine, at) for at in ("handler", "task")}
        eventually(lambda: len(place.runs("handler")) == 2)  # the one that is held there, and the one that has gone on
        eventually(lambda: len(place.runs("task")) == 1)

        async def claimed() -> bool:
            return await engine.service.store.is_claimed(jobs["handler"].id, 0.0)

        await eventually_async(claimed)
        size = place.log().stat().st_size
        place.go()
        for job in jobs.values():
            await _ends_well(engine, job)

        place.roll_back(size)

        for job in jobs.values():
            await _ends_well(engine, job)
    logs = [(name, log.count("of which it knows nothing: they are given out again")) for name, log in place.processes.logs()]
    assert {name.partition("@")[0] for name, count in logs if count} == {"orchestrator", "worker"}


async def test_what_goes_on_is_claimed_again_and_runs_once(place: Place) -> None:
    """The store has lost the claim of an attempt that runs."""
    place.orchestrator().wait_ready()
    async with opened_engine(place.env) as engine:
        await engine.service.store.pin_tasks({"hold": "cpu"})
        job = await place.create(engine, "task")
        await engine.reaches(job.id, JobStatus.WAITING_FOR_WORKER)
        size = place.log().stat().st_size
        worker = place.worker()
        eventually(lambda: place.runs("task") == ["1"])

        place.roll_back(size)

        async def claimed_again() -> bool:
            found = [await engine.service.store.get_task(task) for task in await _tasks_of(engine, job)]
            return any(record is not None and record.boot_id is not None for record in found)

        await eventually_async(claimed_again, retry=(Exception,))
        place.go()
        await _ends_well(engine, job)
    assert place.runs("task") == ["1", "1", "1"]  # and the two of the fan-out that follows
    assert worker.running


async def _tasks_of(engine: Engine, job: Job) -> list[str]:
    found = await engine.service.store.load(job.id)
    return [found.waiting.id] if found is not None and found.waiting is not None and hasattr(found.waiting, "id") else []
