"""What is lost on its way, and who dies on the way: nothing that was accepted stays undone, and nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from avtomatika.jobs import Job, JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.polling import eventually, eventually_async
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker, RedisServer

pytestmark = pytest.mark.timeout(600)

APP = Path(__file__).parent / "apps" / "held"


def _environment(broker: Broker) -> dict[str, str]:
    return {
        **broker.env,
        "BLUEPRINTS_DIR": str(APP / "blueprints"),
        "WORKERS_DIR": str(APP / "workers"),
        "WATCHER_INTERVAL_SECONDS": "1",
        "CLAIM_GRACE_SECONDS": "1",
        "RETRY_BACKOFF_SECONDS": "0.1",
        "SHUTDOWN_GRACE_SECONDS": "1",
    }


def _orchestrator(processes: Processes, env: dict[str, str], *, wait: bool = True) -> Orchestrator:
    return processes.make(Orchestrator, env=env, node=f"orchestrator@{env['NAMESPACE']}", wait=wait)


def _worker(processes: Processes, env: dict[str, str], *, wait: bool = True) -> CapabilityWorker:
    return processes.make(CapabilityWorker, env=env, node=f"worker@{env['NAMESPACE']}", wait=wait)


async def _create(engine: Engine, directory: Path, at: str = "nowhere") -> Job:
    directory.mkdir(exist_ok=True)
    return await engine.create("held", {"directory": str(directory), "at": at})


def _lose(server: RedisServer, queue: str) -> int:
    """Takes every message out of a queue, whatever its priority, as a process does that dies while it fetches them."""
    lost = 0
    with server.client() as client:
        for key in list(client.scan_iter(match=f"{queue}*", _type="list")):
            while client.lpop(key) is not None:
                lost += 1
    return lost


async def _finished(engine: Engine, job: Job, lost: int = 0) -> None:
    """The job has ended as it should, and each of its steps was taken once."""
    ended = await engine.ended(job.id)
    assert (ended.status, ended.result, ended.error_message) == (JobStatus.FINISHED, ["success"] * 2, None)
    counts: dict[str, int] = {}
    for event in await engine.service.store.events(job.id):
        counts[event.event_type] = counts.get(event.event_type, 0) + 1
    assert counts == {
        "job_created": 1,
        "transition": 1,
        "task_dispatched": 1,
        "task_finished": 1,
        "tasks_dispatched": 1,
        "branch_finished": 2,
        "aggregated": 1,
        "job_finished": 1,
        **({"task_lost": lost} if lost else {}),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def test_a_lost_step_is_noticed_and_published_again(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    env = _environment(redis_broker)
    async with opened_engine(env) as engine:
        job = await _create(engine, tmp_path / "job")
        assert _lose(redis_broker.redis, "orchestrator") == 1

        _orchestrator(processes, env, wait=False)
        _worker(processes, env)

        await _finished(engine, job)
    assert _lines(tmp_path / "job" / "handler") == ["run"]


async def test_a_lost_task_is_noticed_and_published_again(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    env = _environment(redis_broker)
    _orchestrator(processes, env, wait=False)
    worker = _worker(processes, env)
    processes.wait_ready()
    worker.terminate()
    async with opened_engine(env) as engine:
        job = await _create(engine, tmp_path / "job")
        await engine.reaches(job.id, JobStatus.WAITING_FOR_WORKER)
        assert _lose(redis_broker.redis, "cpu.hold") == 1

        worker.start()

        await _finished(engine, job)
    assert _lines(tmp_path / "job" / "task") == ["1", "1", "1"]


async def test_an_orchestrator_killed_in_a_handler(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    env = _environment(redis_broker)
    orchestrator = _orchestrator(processes, env, wait=False)
    _worker(processes, env, wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        job = await _create(engine, tmp_path / "job", "handler")
        eventually(lambda: _lines(tmp_path / "job" / "handler") == ["run"])
        orchestrator.kill()
        (tmp_path / "job" / "go").touch()

        orchestrator.start()

        await _finished(engine, job)
    assert _lines(tmp_path / "job" / "handler") == ["run", "run"]
    assert _lines(tmp_path / "job" / "task") == ["1", "1", "1"]


async def test_an_orchestrator_stopped_in_a_handler(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    """The message that it hands back names the version before the handler's: another one must go on with the job."""
    env = _environment(redis_broker)
    orchestrator = _orchestrator(processes, env, wait=False)
    _worker(processes, env, wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        job = await _create(engine, tmp_path / "job", "handler")
        eventually(lambda: _lines(tmp_path / "job" / "handler") == ["run"])
        orchestrator.terminate()
        (tmp_path / "job" / "go").touch()

        orchestrator.start()

        await _finished(engine, job)
    assert _lines(tmp_path / "job" / "handler") == ["run", "run"]


async def test_a_worker_killed_in_a_task(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    env = _environment(redis_broker)
    _orchestrator(processes, env, wait=False)
    worker = _worker(processes, env, wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        job = await _create(engine, tmp_path / "job", "task")
        eventually(lambda: _lines(tmp_path / "job" / "task") == ["1"])
        worker.kill()
        (tmp_path / "job" / "go").touch()

        worker.start()

        await _finished(engine, job, lost=1)
    assert _lines(tmp_path / "job" / "task") == ["1", "2", "1", "1"]


async def test_a_worker_stopped_in_a_task(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    """It hands the attempt back: no worker died, and the attempt is the same."""
    env = _environment(redis_broker)
    _orchestrator(processes, env, wait=False)
    worker = _worker(processes, env, wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        job = await _create(engine, tmp_path / "job", "task")
        eventually(lambda: _lines(tmp_path / "job" / "task") == ["1"])
        worker.terminate()
        (tmp_path / "job" / "go").touch()

        worker.start()

        await _finished(engine, job)
    assert _lines(tmp_path / "job" / "task") == ["1", "1", "1", "1"]


@pytest.mark.parametrize("force", [False, True], ids=["stopped", "killed"])
async def test_redis_is_restarted_under_running_jobs(
    own_redis: RedisServer, namespace: str, processes: Processes, tmp_path: Path, force: bool
) -> None:
    broker = Broker("redis", own_redis, own_redis.url, "", namespace)
    env = _environment(broker)
    _orchestrator(processes, env, wait=False)
    _worker(processes, env, wait=False)
    processes.wait_ready()
    places = {"handler": 3, "task": 3, "nowhere": 10}
    async with opened_engine(env) as engine:
        jobs = [await _create(engine, tmp_path / f"{at}{n}", at) for at, count in places.items() for n in range(count)]
        waiting = [tmp_path / f"{at}{n}" / at for at in ("handler", "task") for n in range(3)]
        eventually(lambda: all(_lines(path) for path in waiting))

        own_redis.restart(force=force)
        for path in waiting:
            (path.parent / "go").touch()

        await asyncio.gather(*(_ended(engine, job) for job in jobs))
        for job in jobs:
            await _finished(engine, job)


async def _ended(engine: Engine, job: Job) -> Any:
    """Waits over the moments in which the store is away."""

    async def look() -> bool:
        found = await engine.service.store.load(job.id)
        return found is not None and found.status.is_terminal

    return await eventually_async(look, deadline=120, retry=(Exception,))
