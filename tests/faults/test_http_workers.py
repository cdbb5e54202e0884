"""Facades that die, stores that are away: what HTTP workers hold is neither lost nor counted twice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet
from tests.support.http_worker import http_workers
from tests.support.polling import eventually_async
from tests.support.processes import Facade, Processes
from tests.support.servers import Broker, RedisServer

pytestmark = pytest.mark.timeout(600)


@dataclass
class Place:
    fleet: Fleet
    first: Facade
    second: Facade
    engine: Engine

    async def jobs(self, count: int) -> list[str]:
        jobs = await asyncio.gather(*(self.engine.create("one", {"params": {"n": n}}) for n in range(count)))
        return [job.id for job in jobs]

    async def effects(self, job_ids: list[str]) -> Counter[str]:
        """Who has done the jobs. Each has taken one result."""
        done: Counter[str] = Counter()
        for job_id in job_ids:
            job = await self.engine.ended(job_id)
            assert job.status is JobStatus.FINISHED, job
            done[job.result] += 1
            events = await self.engine.service.store.events(job_id)
            assert [event.event_type for event in events].count("task_finished") == 1
        return done


@pytest.fixture
async def place(broker: Broker, processes: Processes, tmp_path: Path) -> AsyncIterator[Place]:
    fleet = make_fleet(broker, processes, tmp_path, WORKER_POLL_TIMEOUT_SECONDS="5", RATE_LIMITING_ENABLED="false")
    fleet.orchestrator()
    first, second = (processes.make(Facade, env=fleet.env) for _ in range(2))
    async with opened_engine(fleet.env) as engine:
        yield Place(fleet, first, second, engine)


async def test_a_facade_is_killed_with_50_leases_and_the_results_go_to_another(place: Place) -> None:
    async with http_workers(place.first.url, f"worker-{place.first.token}", *(f"w{n}" for n in range(50))) as workers:
        for worker in workers:
            await worker.register()
        jobs = await place.jobs(50)
        tasks = await asyncio.gather(*(worker.next() for worker in workers))

        place.first.kill()
        answers: Counter[str] = Counter()
        for number, (worker, task) in enumerate(zip(workers, tasks, strict=True)):
            worker.url = place.second.url
            answers[await worker.report(task)] += 1
            if number < 10:
                answers[await worker.report(task)] += 1

        assert answers == Counter({"result_accepted_success": 50, "result_ignored": 10})
        assert await place.effects(jobs) == Counter({worker.id: 1 for worker in workers})


async def test_a_facade_is_killed_while_it_hands_tasks_out(place: Place) -> None:
    async with http_workers(place.first.url, f"worker-{place.first.token}", *(f"w{n}" for n in range(20))) as workers:
        for worker in workers:
            await worker.register(max_concurrent_tasks=4)
        working = [asyncio.create_task(worker.work()) for worker in workers]
        jobs = []
        for turn in range(4):
            creating = asyncio.create_task(place.jobs(40))
            await asyncio.sleep(0.05)
            victim, other = (place.first, place.second) if turn % 2 == 0 else (place.second, place.first)
            victim.kill()
            for worker in workers:
                worker.url = other.url
            jobs += await creating
            await asyncio.sleep(0.5)
            victim.restart()
        done = await place.effects(jobs)
        for task in working:
            task.cancel()

    assert sum(done.values()) == 160


async def test_a_store_that_is_away_is_said_within_two_seconds(
    own_redis: RedisServer, processes: Processes, tmp_path: Path
) -> None:
    broker = Broker("redis", own_redis, own_redis.url, "", "away")
    fleet = make_fleet(broker, processes, tmp_path, RATE_LIMITING_ENABLED="false", WORKER_POLL_TIMEOUT_SECONDS="3")
    fleet.orchestrator()
    facade = processes.make(Facade, env=fleet.env)
    headers = {"X-Client-Token": facade.token, "X-Worker-Token": f"worker-{facade.token}"}
    async with (
        aiohttp.ClientSession(facade.url, headers=headers) as session,
        http_workers(facade.url, f"worker-{facade.token}", "w") as (worker,),
    ):
        assert await _submit(session) == 202
        await worker.register()
        await worker.report(await worker.next())
        working = asyncio.create_task(worker.work())
        for stop, start in ((signal.SIGKILL, None), (signal.SIGSTOP, signal.SIGCONT)):
            own_redis.signal(stop)
            await asyncio.sleep(0.2)
            for ask in (_submit, _list, _register):
                assert await _asked(session, ask) == 503
            if start is None:
                own_redis.wait()
                own_redis.restart()
            else:
                own_redis.signal(start)

            async def accepted() -> bool:
                return await _submit(session) == 202

            await eventually_async(accepted, deadline=30)
        async with opened_engine(fleet.env) as engine:
            jobs = await engine.service.store.list_jobs(limit=100)
            for job in jobs:  # whatever was answered 202 is there, and done
                assert (await engine.ended(job.id)).status is JobStatus.FINISHED
        assert len(jobs) >= 3
        working.cancel()


async def _asked(session: aiohttp.ClientSession, ask: Any) -> int:
    """The answer, which comes within about two seconds, as often as the machine lets it: the best of three is judged."""
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        status = await ask(session)
        seconds.append(time.monotonic() - began)
        assert status == 503
    assert min(seconds) < 2.0
    return 503


async def _submit(session: aiohttp.ClientSession) -> int:
    async with session.post("/api/v1/jobs", json={"blueprint": "one", "initial_data": {"params": {}}}) as response:
        assert response.status != 503 or response.headers["Retry-After"]
        return response.status


async def _list(session: aiohttp.ClientSession) -> int:
    async with session.get("/api/v1/jobs") as response:
        return response.status


async def _register(session: aiohttp.ClientSession) -> int:
    async with session.post("/_worker/workers/register", json={"worker_id": "x"}) as response:
        return response.status


async def test_a_broker_that_restarts_loses_no_parked_poll(own_redis: RedisServer, processes: Processes, tmp_path: Path) -> None:
    broker = Broker("redis", own_redis, own_redis.url, "", "again")
    fleet = make_fleet(broker, processes, tmp_path, RATE_LIMITING_ENABLED="false", WORKER_POLL_TIMEOUT_SECONDS="30")
    fleet.orchestrator()
    facade = processes.make(Facade, env=fleet.env)
    async with (
        http_workers(facade.url, f"worker-{facade.token}", "w") as (worker,),
        opened_engine(fleet.env) as engine,
    ):
        await worker.register()
        polling = asyncio.create_task(worker.poll())
        await asyncio.sleep(0.5)
        own_redis.restart(force=True)
        job = await engine.create("one", {"params": {}})

        task = await polling

        assert task is not None
        assert task["job_id"] == job.id
        assert await worker.report(task) == "result_accepted_success"
        assert (await engine.ended(job.id)).status is JobStatus.FINISHED
