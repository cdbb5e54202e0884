"""The calls on schedules: who may, what is shown, what they do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from avtomatika.api.app import create_app
from avtomatika.jobs import Client
from avtomatika.schedules.records import Firing, Pause, Schedule, ScheduleRecord
from avtomatika.settings import read_settings
from tests.unit.api.conftest import HEADERS, TOKEN, Server, StoringService

ACME = "token-of-acme-0000000"
CALLS = [
    ("GET", "/api/v1/schedules"),
    ("GET", "/api/v1/schedules/nightly"),
    ("POST", "/api/v1/schedules/nightly/pause"),
    ("POST", "/api/v1/schedules/nightly/resume"),
    ("POST", "/api/v1/schedules/nightly/trigger"),
]


@pytest.fixture
async def facade(service: StoringService, tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    """With an admin's token and a client that is none, and two schedules."""
    clients = tmp_path / "clients.toml"
    clients.write_text(f'[acme]\ntoken = "{ACME}"\n')
    settings = read_settings(client_token=TOKEN, clients_config_path=clients, redis_url="redis://127.0.0.1:1/0")
    nightly = Schedule(
        "nightly",
        "hello",
        cron="30 2 * * *",
        timezone="Europe/Berlin",
        initial_data={"x": 1},
        tags=("t",),
        priority=3.0,
        client=Client("acme"),
        origin="schedules.toml:1",
    )
    for schedule in (nightly, Schedule("beat", "inner", every=60.0)):
        now = time.time()
        record = ScheduleRecord(schedule, now, schedule.timing.next_after(now, now))
        await service.store.put_schedule(record, "", retimed=True)
    async with TestClient(Server(create_app(service, settings)), headers=HEADERS) as client:
        yield client


async def ask(facade: TestClient[Any, Any], method: str, path: str, expect: int = 200, **headers: str) -> Any:
    async with facade.request(method, path, headers=headers or None) as response:
        assert response.status == expect, await response.text()
        return await response.json()


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_who_may(facade: TestClient[Any, Any], service: StoringService, method: str, path: str) -> None:
    refused = await ask(facade, method, path, 403, **{"X-Avtomatika-Token": ACME})
    assert refused["error"] == "only an admin may do this: set admin = true in clients.toml"
    await ask(facade, method, path, 401, **{"X-Avtomatika-Token": "wrong"})
    assert await service.store.list_jobs() == []
    assert all(record.pause is None for record in await service.store.schedules())


@pytest.mark.parametrize(("method", "path"), CALLS[1:])
async def test_one_that_is_not_there(facade: TestClient[Any, Any], method: str, path: str) -> None:
    refused = await ask(facade, method, path.replace("nightly", "none"), 404)
    assert refused["error"].startswith("unknown schedule 'none'; ")


async def test_lists_and_shows(facade: TestClient[Any, Any], service: StoringService) -> None:
    listed = await ask(facade, "GET", "/api/v1/schedules")
    assert [item["name"] for item in listed] == ["beat", "nightly"]
    assert [item["name"] for item in await ask(facade, "GET", "/api/v1/schedules?limit=1&offset=1")] == ["nightly"]
    assert (listed[0]["every_seconds"], listed[0]["cron"], listed[0]["last"]) == (60.0, None, None)

    shown = await ask(facade, "GET", "/api/v1/schedules/nightly?count=2")
    coming = shown.pop("next_firings")
    assert shown == listed[1]
    assert len(coming) == 2
    assert coming[0]["utc"] == shown["next_due_at"]
    assert coming[0]["local"][10:19] in ("T02:30:00", "T03:00:00")
    assert (shown["client"], shown["tags"], shown["origin"], shown["initial_data"]) == (
        "acme",
        ["t"],
        "schedules.toml:1",
        {"x": 1},
    )
    for query in ("count=101", "count=many"):
        await ask(facade, "GET", f"/api/v1/schedules/nightly?{query}", 422)
    await ask(facade, "GET", "/api/v1/schedules?limit=0", 422)

    record = await service.store.schedule("nightly")
    assert record is not None
    await service.store.fire_schedule(record, None, None, Firing(1_700_000_000.0, 1_700_000_001.5, "the-job", 3))
    shown = await ask(facade, "GET", "/api/v1/schedules/nightly?count=0")
    assert shown["last"] == {
        "due_at": "2023-11-14T22:13:20.000Z",
        "fired_at": "2023-11-14T22:13:21.500Z",
        "job_id": "the-job",
        "missed": 3,
    }
    assert (shown["next_due_at"], shown["next_firings"]) == (None, [])


async def test_pause_and_resume(facade: TestClient[Any, Any], service: StoringService) -> None:
    for _ in range(2):  # a second one changes nothing
        paused = await ask(facade, "POST", "/api/v1/schedules/nightly/pause")
        assert (paused["paused"], paused["paused_by"], paused["next_due_at"]) == (True, "default", None)
        assert len(paused["next_firings"]) == 5  # if it were resumed
    record = await service.store.schedule("nightly")
    assert record is not None
    assert isinstance(record.pause, Pause)

    for _ in range(2):
        resumed = await ask(facade, "POST", "/api/v1/schedules/nightly/resume")
        assert (resumed["paused"], resumed["paused_at"], resumed["paused_by"]) == (False, None, None)
        assert resumed["next_due_at"] == resumed["next_firings"][0]["utc"]


async def test_trigger(facade: TestClient[Any, Any], service: StoringService) -> None:
    await ask(facade, "POST", "/api/v1/schedules/nightly/pause")
    before = await service.store.schedule("nightly")

    answer = await ask(facade, "POST", "/api/v1/schedules/nightly/trigger", 202)

    job = await service.store.load(answer["job_id"])
    assert job is not None
    assert (job.blueprint_name, job.priority, job.tags, job.client.name) == ("hello", 3.0, ("t", "schedule:nightly"), "acme")
    made = job.initial_data.pop("schedule")
    assert (made["name"], made["triggered_by"], job.initial_data) == ("nightly", "default", {"x": 1})
    assert await service.store.schedule("nightly") == before
    listed = await ask(facade, "GET", "/api/v1/jobs?tag=schedule:nightly")
    assert [item["id"] for item in listed["jobs"]] == [job.id]
