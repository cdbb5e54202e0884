"""Streams of events from a real facade over a real Redis: many listeners, a Redis and a facade that are started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from httpx_sse import aconnect_sse

from avtomatika.client import AsyncClient, Client, EventView
from avtomatika.jobs import Job, JobStatus
from avtomatika.state.redis import RedisStore, connect
from tests.support.polling import eventually_async
from tests.support.processes import Facade, Processes
from tests.support.records import a_job, an_event, change, creation
from tests.support.servers import RedisServer

pytestmark = pytest.mark.timeout(180)


@dataclass
class Kit:
    """A facade, and the store that its jobs go on in: there is no orchestrator, the test writes the events."""

    facade: Facade
    store: RedisStore

    async def created(self) -> Job:
        job = a_job()
        await self.store.commit(creation(job, events=(an_event(job, event_type="job_created"),)))
        return job

    async def goes_on(self, job: Job, name: str, **fields: object) -> Job:
        event = an_event(job, event_type=name, id=f"{job.id}:{job.version + 1}:0")
        commit = change(job, {"events": (event,)}, **fields)
        assert (await self.store.commit(commit)).applied
        return commit.job

    async def ends(self, job: Job) -> Job:
        return await self.goes_on(job, "job_finished", status=JobStatus.FINISHED)


@pytest.fixture
async def kit(processes: Processes, own_redis: RedisServer, namespace: str, tmp_path: Path) -> AsyncIterator[Kit]:
    (tmp_path / "blueprints").mkdir()
    env = {
        "REDIS_URL": own_redis.url,
        "NAMESPACE": namespace,
        "BLUEPRINTS_DIR": str(tmp_path / "blueprints"),
        "RATE_LIMITING_ENABLED": "false",  # hundreds come at once
    }
    store = RedisStore(connect(own_redis.url), namespace)
    yield Kit(processes.make(Facade, env=env), store)
    await store.close()


class Heard(list[str]):
    """The event types that one connection told, to its orderly end."""

    def __init__(self, kit: Kit, job: Job, client: httpx.AsyncClient) -> None:
        super().__init__()
        self._url = f"{kit.facade.url}/api/v1/jobs/{job.id}/events"
        self._client = client

    async def all(self) -> list[str]:
        async with aconnect_sse(self._client, "GET", self._url, timeout=60) as source:
            source.response.raise_for_status()
            async for message in source.aiter_sse():
                if message.data:
                    self.append(message.event)
        return list(self)


@pytest.fixture
async def http(kit: Kit) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers={"X-Avtomatika-Token": kit.facade.token}, limits=limits, trust_env=False) as client:
        yield client


async def _have(heard: list[Heard], count: int) -> None:
    async def look() -> bool:
        return all(len(one) >= count for one in heard)

    await eventually_async(look, what=f"{count} events at every listener")


async def test_listeners_outlast_a_restart_of_redis(kit: Kit, http: httpx.AsyncClient, own_redis: RedisServer) -> None:
    jobs = [await kit.created() for _ in range(5)]
    heard = [Heard(kit, job, http) for job in jobs for _ in range(3)]
    listening = [asyncio.ensure_future(one.all()) for one in heard]
    await _have(heard, 1)
    jobs = [await kit.goes_on(job, "before") for job in jobs]
    await _have(heard, 2)

    own_redis.kill()
    await asyncio.sleep(1)  # the facade meets the closed port
    own_redis.start()
    jobs = [await kit.goes_on(job, "after") for job in jobs]
    for job in jobs:
        await kit.ends(job)

    told = await asyncio.gather(*listening)
    assert told == [["job_created", "before", "after", "job_finished"]] * len(heard)


async def test_a_watch_outlasts_a_restart_of_the_facade(kit: Kit) -> None:
    job = await kit.created()
    seen: list[str] = []

    async def watch() -> None:
        async with AsyncClient(kit.facade.url, kit.facade.token) as client:
            async for said in client.watch(job.id):
                assert isinstance(said, EventView)
                seen.append(said.event_type)

    watching = asyncio.ensure_future(watch())

    async def begun() -> bool:
        return bool(seen)

    await eventually_async(begun)
    for name, force in (("one", False), ("two", True)):
        await asyncio.to_thread(kit.facade.restart, force=force)
        job = await kit.goes_on(job, name)
    await kit.ends(job)
    await watching
    assert seen == ["job_created", "one", "two", "job_finished"]


async def test_many_listeners_share_a_few_connections(kit: Kit, http: httpx.AsyncClient, own_redis: RedisServer) -> None:
    jobs = [await kit.created() for _ in range(100)]
    heard = [Heard(kit, job, http) for job in jobs for _ in range(4)]
    listening = [asyncio.ensure_future(one.all()) for one in heard]
    await _have(heard, 1)
    for n in range(3):
        jobs = [await kit.goes_on(job, f"e{n}") for job in jobs]
    await _have(heard, 4)
    with own_redis.client() as client:
        connections = len(client.client_list())
        # The handlers' first look at their jobs is a request like any other; what stays is one connection that reads.
        reading = [one for one in client.client_list() if one["cmd"].lower() == "xread"]
    assert len(reading) == 1
    for job in jobs:
        await kit.ends(job)
    assert await asyncio.gather(*listening) == [["job_created", "e0", "e1", "e2", "job_finished"]] * len(heard)
    with own_redis.client() as client:
        assert len(client.client_list()) <= connections + 8


async def test_nobody_listens_nobody_reads(kit: Kit, own_redis: RedisServer) -> None:
    job = await kit.created()
    with Client(kit.facade.url, kit.facade.token) as client:
        watching = client.watch(job.id)
        await asyncio.to_thread(next, watching)
        await kit.ends(job)
        assert [said.event_type for said in await asyncio.to_thread(list, watching)] == ["job_finished"]

    async def nobody() -> bool:
        with own_redis.client() as client:
            return not [one for one in client.client_list() if one["cmd"].lower() == "xread" and "b" in one["flags"]]

    await eventually_async(nobody)
