"""The client API's bodies, answers and refusals."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app, endpoint_path
from avtomatika.api.auth import ClientTokens
from avtomatika.api.middleware import authentication
from avtomatika.errors import ConfigurationError
from avtomatika.jobs import Client, Job, WorkerRecord
from avtomatika.settings import Settings
from avtomatika.state.base import Commit

from .conftest import StoringService, make_blueprint

Facade = TestClient[Any, Any]


async def test_a_blueprints_endpoint_creates_a_job(facade: Facade, service: StoringService) -> None:
    async with facade.post("/api/v1/hello", json={"name": "Ada"}) as response:
        assert response.status == 202
        body = await response.json()
    assert body == {"status": "accepted", "job_id": body["job_id"]}
    job = await service.store.load(body["job_id"])
    assert job is not None
    assert (job.blueprint_name, job.initial_data, job.client.admin) == ("hello", {"name": "Ada"}, True)


async def test_any_blueprint_by_name(facade: Facade, service: StoringService) -> None:
    body = {"blueprint": "inner", "initial_data": {"n": 1}, "priority": 7, "tags": ["a", "b"]}
    async with facade.post("/api/v1/jobs", json=body) as response:
        assert response.status == 202
        job = await service.store.load((await response.json())["job_id"])
    assert job is not None
    assert (job.blueprint_name, job.initial_data, job.priority, job.tags) == ("inner", {"n": 1}, 7, ("a", "b"))


@pytest.mark.parametrize(
    ("path", "raw", "status", "words"),
    [
        ("/api/v1/hello", b"", 400, "empty"),
        ("/api/v1/hello", b"{", 400, "not JSON"),
        ("/api/v1/hello", b'{"a": NaN}', 400, "NaN"),
        ("/api/v1/hello", b"\xff\xfe{}", 400, "not JSON"),
        ("/api/v1/hello", b"[" * 9000, 400, "not JSON"),
        ("/api/v1/hello", b"[1]", 400, "not an array"),
        ("/api/v1/hello", b"null", 400, "not null"),
        ("/api/v1/hello", b'{"a": "' + b"x" * 20_000 + b'"}', 413, "BODY_LIMIT_MB"),
        ("/api/v1/jobs", b"{}", 400, "'blueprint' is missing"),
        ("/api/v1/jobs", b'{"blueprint": 5}', 422, "blueprint"),
        ("/api/v1/jobs", b'{"blueprint": "nope"}', 404, "unknown blueprint 'nope'"),
        ("/api/v1/jobs", b'{"blueprint": "hello", "initial_data": []}', 422, "initial_data"),
        ("/api/v1/jobs", b'{"blueprint": "hello", "priority": 11}', 422, "priority"),
        ("/api/v1/jobs", b'{"blueprint": "hello", "priority": "high"}', 422, "priority"),
        ("/api/v1/jobs", b'{"blueprint": "hello", "tags": "red"}', 422, "tags"),
        ("/api/v1/jobs", b'{"blueprint": "hello", "colour": "red"}', 422, "colour"),
        ("/api/v1/jobs/some-id/decide", b'{"comment": "yes"}', 400, "'decision' is missing"),
        ("/api/v1/jobs/some-id/decide", b'{"decision": "approved"}', 404, "unknown job 'some-id'"),
        ("/api/v1/nowhere", b"{}", 404, "/api/v1/nowhere"),
        ("/api/v1/workers", b"{}", 405, "GET"),
    ],
)
async def test_bodies_that_are_refused(facade: Facade, path: str, raw: bytes, status: int, words: str) -> None:
    async with facade.post(path, data=raw) as response:
        assert response.status == status
        body = await response.json()
    assert set(body) == {"error"}
    assert words in body["error"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("status=nope", "status"),
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("limit=1001", "limit"),
        ("offset=-1", "offset"),
        ("cursor=nope", "cursor"),
        ("cursor=nan~1", "cursor"),
        ("since=yesterday", "since"),
    ],
)
async def test_queries_that_are_refused(facade: Facade, query: str, words: str) -> None:
    async with facade.get(f"/api/v1/jobs?{query}") as response:
        assert response.status == 422
        assert words in (await response.json())["error"]


async def test_the_same_idempotency_key(facade: Facade) -> None:
    async def create(name: str) -> tuple[int, dict[str, Any]]:
        async with facade.post("/api/v1/hello", json={"name": name}, headers={"Idempotency-Key": "k1"}) as response:
            return response.status, await response.json()

    first, again, other = await create("Ada"), await create("Ada"), await create("Bob")
    assert first == again
    assert other[0] == 409
    async with facade.post("/api/v1/hello", json={}, headers={"Idempotency-Key": "x" * 201}) as response:
        assert response.status == 400


async def test_history_is_an_array(facade: Facade) -> None:
    async with facade.post("/api/v1/hello", json={}) as response:
        job_id = (await response.json())["job_id"]
    async with facade.get(f"/api/v1/jobs/{job_id}/history") as response:
        events = await response.json()
    assert [(event["event_type"], event["state"]) for event in events] == [("job_created", "start")]
    async with facade.get("/api/v1/jobs/nope/history") as response:
        assert response.status == 404


async def test_a_decision(facade: Facade, service: StoringService) -> None:
    async with facade.post("/api/v1/hello", json={}) as response:
        job_id = (await response.json())["job_id"]
    async with facade.post(f"/api/v1/jobs/{job_id}/decide", json={"decision": "approved", "comment": "fine"}) as response:
        assert (response.status, await response.json()) == (200, {"status": "approval_received", "job_id": job_id})
    assert service.decisions == [(job_id, "approved", "fine", "default")]


async def test_blueprints_and_graphs(facade: Facade) -> None:
    async with facade.get("/api/v1/blueprints") as response:
        assert {item["name"] for item in await response.json()} == {"hello", "inner"}
    for fmt, kind in (("", "text/vnd.graphviz"), ("?format=json", "application/json"), ("?format=mermaid", "text/vnd.mermaid")):
        async with facade.get(f"/api/v1/blueprints/hello/graph{fmt}") as response:
            assert (response.status, response.content_type) == (200, kind)
            assert "start" in await response.text()
    async with facade.get("/api/v1/blueprints/hello/graph?format=png") as response:
        assert response.status == 422
    async with facade.get("/api/v1/blueprints/nope/graph") as response:
        assert response.status == 404


async def test_workers(facade: Facade, service: StoringService) -> None:
    record = WorkerRecord(
        "worker-1@here",
        "boot",
        supported_tasks=("draw",),
        capabilities={"gpu": 1},
        load={"gpu": 1},
        hot_cache=("m1",),
        skill_dependencies={"draw": ["m1"], "paint": ["m1", "m2"]},
    )
    await service.store.register(record, time.time(), 60)
    await service.store.register(replace(record, id="orchestrator@here", type="orchestrator"), time.time(), 60)
    async with facade.get("/api/v1/workers") as response:
        [worker] = await response.json()
    assert (worker["worker_id"], worker["limits"], worker["load"]) == ("worker-1@here", {"gpu": 1}, {"gpu": 1})
    assert (worker["hot_cache"], worker["hot_skills"]) == (["m1"], ["draw"])


async def test_every_job_is_on_one_page(facade: Facade, service: StoringService) -> None:
    # Three of them share a creation time, so that a page ends in the midst of them.
    times = [1.0, 2.0, 2.0, 2.0, 3.0, 4.0]
    for number, at in enumerate(times):
        job = Job(f"job-{number}", "hello" if number else "inner", "start", created_at=at, tags=("odd",) if number % 2 else ())
        await service.store.commit(Commit(job, None))

    async def pages(**query: str) -> list[list[str]]:
        out, cursor = [], None
        while True:
            params = {**query, **({"cursor": cursor} if cursor else {})}
            async with facade.get("/api/v1/jobs", params=params) as response:
                assert response.status == 200
                body = await response.json()
            out.append([job["id"] for job in body["jobs"]])
            cursor = body["next_cursor"]
            if cursor is None:
                return out

    assert await pages(limit="2") == [["job-5", "job-4"], ["job-3", "job-2"], ["job-1", "job-0"]]
    assert await pages(limit="2", tag="odd") == [["job-5", "job-3"], ["job-1"]]
    assert await pages(limit="4", blueprint="inner") == [["job-0"]]
    assert await pages(since="3") == [["job-5", "job-4"]]
    assert await pages(since="1970-01-01T00:00:04Z") == [["job-5"]]
    assert await pages(offset="4") == [["job-1", "job-0"]]


async def test_a_client_sees_its_own_jobs_only(service: StoringService, settings: Settings) -> None:
    mine, theirs = Client(name="mine"), Client(name="theirs")
    for client in (mine, theirs):
        await service.store.commit(Commit(Job(f"of-{client.name}", "hello", "start", client=client, created_at=1.0), None))
    app = create_app(service, settings)
    app.middlewares[1] = authentication(ClientTokens([("mine", mine)]))
    async with TestClient(TestServer(app), headers={"X-Client-Token": "mine"}) as facade:
        async with facade.get("/api/v1/jobs") as response:
            assert [job["id"] for job in (await response.json())["jobs"]] == ["of-mine"]
        for path, status in (("of-mine", 200), ("of-theirs", 404)):
            async with facade.get(f"/api/v1/jobs/{path}/history") as response:
                assert response.status == status


def test_endpoints() -> None:
    assert endpoint_path("v1", "/jobs/video") == "/api/v1/jobs/video"
    assert endpoint_path(None, "video/") == "/api/video"


@pytest.mark.parametrize("endpoint", ["/jobs", "/jobs/"])
def test_an_endpoint_that_is_taken_is_refused(service: StoringService, settings: Settings, endpoint: str) -> None:
    service.blueprints.register(make_blueprint("clash", "v1", endpoint))
    with pytest.raises(ConfigurationError, match="'clash' wants /api/v1/jobs, which is taken"):
        create_app(service, settings)
