"""HTTP workers on every broker: they share queues with Celery workers, are picked like them, and are stopped over WebSocket."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Api, Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet, registered
from tests.support.http_worker import http_workers
from tests.support.polling import eventually_async
from tests.support.processes import REPOSITORY, Facade, ManagedProcess, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

EXAMPLE = REPOSITORY / "examples" / "http_worker.py"
COUNTING = """
from avtomatika import Blueprint

blueprint = Blueprint("counting", api_version="v1", api_endpoint="/counting")


@blueprint.handler_for("count", is_start=True)
async def count(actions, to):
    actions.dispatch_task("count", {"to": to}, {"success": "done", "cancelled": "tidy"})


@blueprint.handler_for("tidy")
async def tidy(actions):
    actions.transition_to("tidied")


@blueprint.handler_for("tidied", is_end=True)
async def tidied():
    return "tidied"


@blueprint.handler_for("done", is_end=True)
async def done(counted):
    return counted
"""


@dataclass
class Place:
    fleet: Fleet
    facade: Facade
    engine: Engine

    async def jobs(self, count: int, **data: Any) -> list[str]:
        jobs = await asyncio.gather(*(self.engine.create("one", {"params": {"n": n}, **data}) for n in range(count)))
        return [job.id for job in jobs]

    async def finished(self, job_ids: list[str]) -> Counter[str]:
        """Who has done them; each was done once."""
        done: Counter[str] = Counter()
        for job_id in job_ids:
            job = await self.engine.ended(job_id)
            assert job.status is JobStatus.FINISHED, job
            done[job.result] += 1
            events = [event for event in await self.engine.service.store.events(job_id) if event.event_type == "task_finished"]
            assert len(events) == 1
        return done


@pytest.fixture
async def place(broker: Broker, processes: Processes, tmp_path: Path) -> AsyncIterator[Place]:
    fleet = make_fleet(broker, processes, tmp_path, WORKER_POLL_TIMEOUT_SECONDS="5")
    fleet.orchestrator()
    facade = processes.make(Facade, env=fleet.env)
    async with opened_engine(fleet.env) as engine:
        yield Place(fleet, facade, engine)


def _workers(facade: Facade, *names: str) -> Any:
    return http_workers(facade.url, f"worker-{facade.token}", *names)


async def test_http_workers_take_from_the_same_queue_as_celery_workers(place: Place) -> None:
    place.fleet.worker("celery", {"FLEET_LIMIT": "1"})
    async with _workers(place.facade, *(f"http-{n}" for n in range(5))) as workers:
        for worker in workers:
            await worker.register()
        working = [asyncio.create_task(worker.work()) for worker in workers]
        jobs = await place.jobs(60)
        done = await place.finished(jobs)
        for task in working:
            task.cancel()

    assert sum(done.values()) == 60
    assert len(done) > 1


async def test_a_pick_goes_to_the_http_worker_that_it_was_made_for(place: Place) -> None:
    async with _workers(place.facade, "dear", "cheap") as (dear, cheap):
        await dear.register(cost=9, max_concurrent_tasks=5)
        await cheap.register(cost_per_skill={"draw": 1}, max_concurrent_tasks=5)
        working = [asyncio.create_task(worker.work()) for worker in (dear, cheap)]
        done = await place.finished(await place.jobs(4, options={"dispatch_strategy": "cheapest"}))
        for task in working:
            task.cancel()

    assert done == Counter({"cheap": 4})


async def test_a_silent_http_worker_is_dead_and_its_task_is_given_to_another(place: Place) -> None:
    async with _workers(place.facade, "silent", "other") as (silent, other):
        await silent.register(heartbeat_interval=1)
        (job,) = await place.jobs(1)
        lost = await silent.next()
        await other.register()
        working = asyncio.create_task(other.work())

        async def beat() -> None:
            while True:
                await other.heartbeat()
                await asyncio.sleep(0.5)

        beating = asyncio.create_task(beat())
        assert await place.finished([job]) == Counter({"other": 1})
        assert await silent.report(lost) == "result_ignored"
        assert await silent.heartbeat() == 404
        working.cancel()
        beating.cancel()


async def test_a_cancel_reaches_the_worker_within_half_a_second(place: Place) -> None:
    seconds = []
    async with _workers(place.facade, "w") as (worker,), Api(place.facade.url, place.facade.token) as api:
        await worker.register()
        async with worker.socket() as socket:
            for _ in range(3):
                (job_id,) = await place.jobs(1)
                task = await worker.next()
                began = time.monotonic()
                answer = await api.post(f"/api/v1/jobs/{job_id}/cancel", {})
                command = await socket.receive_json(timeout=10)
                seconds.append(time.monotonic() - began)
                assert answer["status"] == "cancellation_request_sent"
                assert command == {
                    "command": "cancel_task",
                    "type": "cancel_task",
                    "task_id": task["task_id"],
                    "job_id": job_id,
                }
                assert await worker.report(task, status="cancelled") == "result_accepted_cancelled"
                job = await place.engine.ended(job_id)
                assert (job.status, job.cancel_requested) == (JobStatus.CANCELLED, True)

    assert min(seconds) < 0.5


async def test_a_celery_task_is_cancelled_within_half_a_second(place: Place) -> None:
    place.fleet.worker("celery")
    seconds = []
    async with Api(place.facade.url, place.facade.token) as api:
        for number in range(3):
            (job_id,) = await place.jobs(1, params={"n": number, "seconds": 100})

            async def begun(number: int = number) -> bool:
                return any(line["n"] == number for line in place.fleet.lines("begin"))

            await eventually_async(begun, deadline=60)
            began = time.time()
            answer = await api.post(f"/api/v1/jobs/{job_id}/cancel", {})
            assert answer["status"] == "cancellation_request_accepted"
            job = await place.engine.ended(job_id)
            assert (job.status, job.cancel_requested) == (JobStatus.CANCELLED, True)
            (line,) = [line for line in place.fleet.lines("stopped") if line["n"] == number]
            seconds.append(line["at"] - began)

    assert min(seconds) < 0.5


async def test_the_example_worker_does_all_that_the_api_says(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "blueprints").mkdir()
    (tmp_path / "blueprints" / "counting.py").write_text(COUNTING)
    fleet = make_fleet(redis_broker, processes, tmp_path, BLUEPRINTS_DIR=str(tmp_path / "blueprints"))
    fleet.orchestrator()
    facade = processes.make(Facade, env=fleet.env)
    env = {"WORKER_TOKEN": f"worker-{facade.token}"}
    example = ManagedProcess("example", [sys.executable, str(EXAMPLE), facade.url], directory=tmp_path, env=env)
    processes.start(example)
    async with opened_engine(fleet.env) as engine, Api(facade.url, facade.token) as api:
        record = await registered(engine, "example-worker")
        assert (record.http, record.type) == (True, "cpu_worker")
        ended = await engine.ended((await api.post("/api/v1/counting", {"to": 3}))["job_id"])
        assert (ended.status, ended.result) == (JobStatus.FINISHED, 3)

        job_id = (await api.post("/api/v1/counting", {"to": 1000}))["job_id"]

        async def counts() -> bool:
            task = (await api.job(job_id))["current_task"]
            return bool(task and task["message"] and task["message"].startswith("at ") and 0 < task["progress"] < 1)

        await eventually_async(counts, deadline=60)
        assert (await api.post(f"/api/v1/jobs/{job_id}/cancel", {}))["status"] == "cancellation_request_sent"
        job = await engine.ended(job_id)
        assert (job.status, job.current_state, job.cancel_requested) == (JobStatus.FINISHED, "tidied", True)
    assert example.running


async def test_many_polls_park_on_few_connections(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path, WORKER_POLL_TIMEOUT_SECONDS="60")
    facade = processes.make(Facade, env=fleet.env)
    fleet.orchestrator()
    server = redis_broker.redis

    def connections() -> int:
        with server.client() as client:
            return len(client.client_list())

    async with (
        http_workers(facade.url, f"worker-{facade.token}", *(f"w{n}" for n in range(200))) as workers,
        opened_engine(fleet.env) as engine,
    ):
        place = Place(fleet, facade, engine)
        for worker in workers:
            await worker.register()
        await asyncio.gather(*(worker.heartbeat() for worker in workers))  # the pool has all that it takes by now
        polls = [asyncio.create_task(worker.poll()) for worker in workers[:20]]
        await asyncio.sleep(1)
        few = connections()
        polls += [asyncio.create_task(worker.poll()) for worker in workers[20:]]
        await asyncio.sleep(2)
        assert connections() <= few + 5
        jobs = await place.jobs(200)
        for worker, task in zip(workers, await asyncio.gather(*polls), strict=True):
            assert task is not None
            assert await worker.report(task) == "result_accepted_success"
        assert len(await place.finished(jobs)) == 200


async def test_a_wrong_token_and_another_workers_name_get_nothing(place: Place) -> None:
    async with aiohttp.ClientSession(place.facade.url) as session:
        async with session.get("/_worker/workers/w/tasks/next") as response:
            assert response.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect("/_worker/ws/w", headers={"X-Worker-Token": "wrong"})
