"""Workers that are killed at bad moments: what they had is done elsewhere, and nothing that was cancelled begins."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet
from tests.support.polling import eventually
from tests.support.processes import CapabilityWorker, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)


async def _create(engine: Engine, numbers: range, seconds: float = 0.05) -> list[str]:
    return [(await engine.create("one", {"params": {"n": n, "seconds": seconds}})).id for n in numbers]


async def _finished(engine: Engine, jobs: list[str]) -> Counter[str]:
    """Who has done the jobs."""
    done: Counter[str] = Counter()
    for job_id in jobs:
        job = await engine.ended(job_id, deadline=60)  # a third of the visibility timeout, which is not waited for
        assert job.status is JobStatus.FINISHED, job
        done[job.result] += 1
    return done


def _ends(fleet: Fleet) -> list[int]:
    return sorted(line["n"] for line in fleet.lines("end"))


@pytest.mark.parametrize("broker", ["redis-newer", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
async def test_workers_are_killed_one_after_another(broker: Broker, processes: Processes, tmp_path: Path) -> None:
    """In mid-task; with messages fetched and not recorded; while it drains under a burst; with tasks that are cancelled then."""
    fleet = make_fleet(broker, processes, tmp_path, SHUTDOWN_GRACE_SECONDS="30")
    fleet.orchestrator(wait=False)
    first = _worker(fleet, "first")
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        jobs = await _create(engine, range(4), seconds=6)
        eventually(lambda: len(fleet.lines("begin")) == 4)
        first.kill()
        second = _worker(fleet, "second")
        assert await _finished(engine, jobs) == {second.node: 4}  # once its heartbeat has expired
        assert _ends(fleet) == list(range(4))

        # Redis pops a message for a fetch in flight, whether its worker still reads or not; RabbitMQ sends up to the prefetch.
        second.signal(signal.SIGSTOP)
        jobs = await _create(engine, range(4, 14))
        for job_id in jobs:
            await engine.reaches(job_id, JobStatus.WAITING_FOR_WORKER)
        second.kill()
        third = _worker(fleet, "third")
        assert await _finished(engine, jobs) == {third.node: 10}
        assert _ends(fleet) == list(range(14))

        long = await _create(engine, range(100, 104), seconds=600)
        eventually(lambda: len(_begun(fleet, 100)) == 4)
        third.signal(signal.SIGTERM)
        third.wait_for_log("Warm shutdown")
        burst = await _create(engine, range(14, 50))
        third.kill()
        for job_id in long:
            await engine.service.orders.cancel(job_id, who="the test")
        fourth = _worker(fleet, "fourth")
        assert await _finished(engine, burst) == {fourth.node: 36}
        for job_id in long:
            assert (await engine.ended(job_id)).status is JobStatus.CANCELLED
    assert _ends(fleet) == list(range(50))
    assert len(_begun(fleet, 100)) == 4  # none of them began again


def _worker(fleet: Fleet, name: str) -> CapabilityWorker:
    return fleet.worker(name, {"FLEET_LIMIT": "4"})


def _begun(fleet: Fleet, n: int) -> list[int]:
    """Begun runs from this number on."""
    return [line["n"] for line in fleet.lines("begin") if line["n"] >= n]


async def test_one_branch_of_a_hundred_is_lost(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path)
    fleet.orchestrator()
    async with opened_engine(fleet.env) as engine:
        await engine.service.store.pin_tasks({"draw": "gpu"})
        job = await engine.create("many", {"branches": [{"n": n} for n in range(100)]})
        await engine.reaches(job.id, JobStatus.WAITING_FOR_PARALLEL_TASKS)
        with redis_broker.redis.client() as client:
            (queue,) = client.scan_iter(match="gpu.draw*", _type="list")
            assert client.rpop(queue) is not None

        fleet.worker("painter", {"FLEET_LIMIT": "8"})

        assert (await engine.ended(job.id)).status is JobStatus.FINISHED
        events = [event.event_type for event in await engine.service.store.events(job.id)]
    assert events.count("branch_finished") == 100
    assert _ends(fleet) == list(range(100))
