"""A job's events as a stream: stored ones first, then live ones, to its end; progress; going on after an interruption."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api import events as api_events
from avtomatika.api.app import create_app
from avtomatika.api.keys import LISTENERS
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Client, Job, JobStatus
from avtomatika.settings import Settings
from avtomatika.state.base import ClaimOutcome
from tests.support.polling import eventually_async
from tests.support.records import a_job, a_task, an_event, change, creation, dispatched

from .conftest import HEADERS, StoringService

Facade = TestClient[Any, Any]
Said = dict[str, str]


class Stream:
    """What comes over one connection, message by message."""

    def __init__(self, response: Any) -> None:
        self.response = response

    async def next(self) -> Said:
        """The next message: its fields, and `:` for a comment."""
        said: Said = {}
        async with asyncio.timeout(30):
            while True:
                line = (await self.response.content.readline()).decode()
                if not line:
                    raise EOFError
                if line == "\n" and said:
                    return said
                name, _, value = line.rstrip("\n").partition(":")
                said[name or ":"] = value.removeprefix(" ")

    async def rest(self) -> list[Said]:
        found = []
        while True:
            try:
                found.append(await self.next())
            except EOFError:
                return found


@asynccontextmanager
async def listening(facade: Facade, job: Job, **headers: str) -> AsyncIterator[Stream]:
    async with facade.get(f"/api/v1/jobs/{job.id}/events", headers=headers) as response:
        assert response.status == 200
        yield Stream(response)


async def _stored(service: StoringService, **fields: Any) -> Job:
    job = a_job(**fields)
    await service.store.commit(creation(job, events=(an_event(job, event_type="job_created"),)))
    return job


async def _next(service: StoringService, job: Job, *types: str, **fields: Any) -> Job:
    """A change of the job with events."""
    after = replace(job, version=job.version + 1)
    happened = tuple(an_event(after, n, event_type=name) for n, name in enumerate(types))
    commit = change(job, {"events": happened}, **fields)
    assert (await service.store.commit(commit)).applied
    return commit.job


async def test_stored_events_then_live_ones_to_the_end(facade: Facade, service: StoringService) -> None:
    job = await _stored(service)
    async with listening(facade, job) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "Content-Encoding" not in stream.response.headers
        first = await stream.next()
        assert (first["id"], first["event"]) == (f"{job.id}:0:0", "job_created")

        job = await _next(service, job, "transition", "task_dispatched", current_state="next")
        assert [(await stream.next())["event"] for _ in range(2)] == ["transition", "task_dispatched"]

        await _next(service, job, "job_finished", status=JobStatus.FINISHED)
        assert [said["event"] for said in await stream.rest()] == ["job_finished"]


async def test_the_data_is_what_the_history_shows(facade: Facade, service: StoringService) -> None:
    job = await _stored(service)
    awkward = an_event(job, 7, event_type="odd", details={"text": "line\nbreak \u2028 ü", "n": [1, None]})
    await service.store.commit(change(job, {"events": (awkward,)}, status=JobStatus.FAILED))
    async with facade.get(f"/api/v1/jobs/{job.id}/history") as response:
        history = await response.json()

    async with listening(facade, job) as stream:
        assert [json.loads(said["data"]) for said in await stream.rest()] == history


async def test_going_on_after_an_event(facade: Facade, service: StoringService) -> None:
    job = await _stored(service)
    job = await _next(service, job, "one", "two", "three", status=JobStatus.FINISHED)
    last = f"{job.id}:1:1"
    for header, expected in (
        (last, ["three"]),
        (f"{job.id}:1:2", []),
        ("unknown", ["job_created", "one", "two", "three"]),
    ):
        async with listening(facade, job, **{"Last-Event-ID": header}) as stream:
            assert [said["event"] for said in await stream.rest()] == expected


async def test_what_nobody_may_see_is_not_there(facade: Facade, service: StoringService, settings: Settings) -> None:
    async with facade.get("/api/v1/jobs/nope/events") as response:
        assert response.status == 404
        assert "unknown job" in (await response.json())["error"]
    async with TestClient(TestServer(create_app(service, settings))) as stranger:
        job = await _stored(service, client=Client("somebody"))
        async with stranger.get(f"/api/v1/jobs/{job.id}/events") as response:
            assert response.status == 401


async def test_progress_of_the_current_task(facade: Facade, service: StoringService) -> None:
    job = await _stored(service)
    info = a_task(job)
    commit = change(job, {"tasks": (dispatched(info),)}, status=JobStatus.WAITING_FOR_WORKER, waiting=info)
    await service.store.commit(commit)
    assert (await service.store.claim_task(info.id, "w", "boot", 0, 60)).outcome is ClaimOutcome.OK
    async with listening(facade, job) as stream:
        await stream.next()
        for value, message in ((0.25, "a quarter"), (0.5, "half")):
            await service.store.task_progress(info.id, "boot", value, message)
            said = await stream.next()
            assert (said["event"], "id" in said) == ("progress", False)
            assert json.loads(said["data"]) == {
                "progress": value,
                "message": message,
                "task_id": info.id,
                "status": "waiting_for_worker",
            }
        await _next(service, commit.job, "job_finished", status=JobStatus.FINISHED, waiting=None)
        assert [said["event"] for said in await stream.rest()] == ["job_finished"]


async def test_silence_is_filled(facade: Facade, service: StoringService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "KEEP_ALIVE", 0.01)
    job = await _stored(service)

    async def away(job_id: str) -> Job | None:
        raise StoreUnavailableError("away")

    async with listening(facade, job) as stream:
        await stream.next()
        assert [await stream.next() for _ in range(3)] == [{":": "keep-alive"}] * 3
        monkeypatch.setattr(service.store, "load", away)
        assert [await stream.next() for _ in range(3)] == [{":": "keep-alive"}] * 3


async def test_the_reader_runs_only_while_somebody_listens(facade: Facade, service: StoringService) -> None:
    assert facade.app is not None
    listeners = facade.app[LISTENERS]
    jobs = [await _stored(service) for _ in range(3)]
    assert not listeners.running
    async with listening(facade, jobs[0]) as one, listening(facade, jobs[0]) as two, listening(facade, jobs[1]):
        for stream in (one, two):
            await stream.next()
        assert (len(listeners), listeners.running, len(service.store._followers)) == (3, True, 1)
        await _next(service, jobs[0], "job_finished", status=JobStatus.FINISHED)
        for stream in (one, two):
            assert [said["event"] for said in await stream.rest()] == ["job_finished"]
        assert listeners.running
        await _next(service, jobs[1], "job_finished", status=JobStatus.FINISHED)

        async def nobody() -> bool:
            return len(listeners) == 0

        await eventually_async(nobody)
    assert not listeners.running


async def test_a_hundred_listeners_hear_all(facade: Facade, service: StoringService) -> None:
    jobs = [await _stored(service) for _ in range(10)]

    async def hear(job: Job) -> list[str]:
        async with listening(facade, job) as stream:
            return [said["event"] for said in await stream.rest()]

    heard = asyncio.gather(*(hear(job) for job in jobs * 10))
    for n in range(5):
        jobs = [await _next(service, job, f"e{n}") for job in jobs]
        await asyncio.sleep(0)
    for job in jobs:
        await _next(service, job, "end", status=JobStatus.CANCELLED)
    assert await heard == [["job_created", "e0", "e1", "e2", "e3", "e4", "end"]] * 100


async def test_a_store_that_is_away_is_waited_for(
    facade: Facade, service: StoringService, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _stored(service)
    load, away = service.store.load, True

    async def load_or_not(job_id: str) -> Job | None:
        if away:
            raise StoreUnavailableError("away")
        return await load(job_id)

    async with listening(facade, job) as stream:
        await stream.next()
        monkeypatch.setattr(service.store, "load", load_or_not)
        await _next(service, job, "job_finished", status=JobStatus.FINISHED)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await stream.response.content.readline()
        away = False
        assert [said["event"] for said in await stream.rest()] == ["job_finished"]


async def test_a_reader_that_fails_begins_again(facade: Facade, service: StoringService, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, calls = service.store.changes, 0

    async def fail_once() -> AsyncGenerator[Collection[str]]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a fault of ours")
        async for job_ids in changes():
            yield job_ids

    monkeypatch.setattr(service.store, "changes", fail_once)
    job = await _stored(service)
    async with listening(facade, job) as stream:
        await stream.next()
        await _next(service, job, "job_finished", status=JobStatus.FINISHED)
        assert [said["event"] for said in await stream.rest()] == ["job_finished"]
    assert calls == 2


async def test_a_stopping_facade_sends_listeners_away(service: StoringService, settings: Settings) -> None:
    job = await _stored(service)
    facade = TestClient(TestServer(create_app(service, settings)), headers=HEADERS)
    await facade.start_server()
    async with listening(facade, job) as stream:
        await stream.next()
        closing = asyncio.ensure_future(facade.server.close())
        with pytest.raises(ClientPayloadError):  # no orderly end: the job goes on
            await stream.rest()
        async with asyncio.timeout(30):
            await closing
    await facade.session.close()
