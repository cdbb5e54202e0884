"""A thousand jobs of three steps through one orchestrator and one worker: all finish, and nothing but the records is left."""

from __future__ import annotations

import asyncio
import re

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Engine, app_environment, opened_engine
from tests.support.polling import eventually, eventually_async
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(900)

JOBS = 1000
AT_ONCE = 8


def _allowed(namespace: str) -> re.Pattern[str]:
    """The keys that may stay: records, their events and indexes, the event stream, the fleet, Kombu's own bookkeeping."""
    records = r"job:[^:]+(:events)?|jobs|jobs:status:finished|jobs:client:.*|idempotency:.*|events|expiring"
    registrations = r"worker:.*|workers|boots(:workers)?|pins|lock:.*"
    fleet = r"known:add_one|idle:\w+:add_one|outcomes:.*|reputation:.*|sequence|call:.*"  # marks of calls go by themselves
    return re.compile(rf"{re.escape(namespace)}:({records}|{registrations}|{fleet})|_kombu\..*|unacked_mutex")


def _leftovers(broker: Broker) -> list[str]:
    allowed = _allowed(broker.namespace)
    with broker.redis.client() as client:
        return sorted(key for key in client.scan_iter(count=1000) if not allowed.fullmatch(key))


async def _create_all(engine: Engine) -> dict[str, int]:
    """Job ids with the number each one starts from."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def create(number: int) -> tuple[str, int]:
        async with gate:
            return (await engine.create("three_steps", {"number": number})).id, number

    return dict(await asyncio.gather(*(create(number) for number in range(JOBS))))


async def test_a_thousand_jobs_leave_nothing_but_their_records(redis_broker: Broker, processes: Processes) -> None:
    env = {**redis_broker.env, **app_environment("three_steps")}
    processes.make(Orchestrator, env=env, wait=False)
    processes.make(CapabilityWorker, env=env, wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        started = await _create_all(engine)

        async def finished() -> bool:
            counts = await engine.service.store.count_by_status()
            assert not counts.get(JobStatus.FAILED)
            return counts.get(JobStatus.FINISHED) == JOBS

        await eventually_async(finished, deadline=600, interval=0.25)
        results = {job_id: job.result for job_id in started if (job := await engine.service.store.load(job_id))}

    assert results == {job_id: number + 3 for job_id, number in started.items()}
    eventually(lambda: not _leftovers(redis_broker), retry=(), what=f"an empty list of leftovers {_leftovers(redis_broker)[:20]}")
