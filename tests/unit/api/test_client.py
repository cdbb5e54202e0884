"""The client API's bodies, answers and refusals."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app, endpoint_path
from avtomatika.api.clients import Account, Accounts
from avtomatika.api.keys import ACCOUNTS
from avtomatika.errors import ConfigurationError
from avtomatika.jobs import Client, Event, Job, JobStatus, Message, Result, TaskInfo, WorkerRecord
from avtomatika.settings import Settings
from avtomatika.state.base import Commit, Entry, NewTask, Reputation
from avtomatika.tokens import digest_of
from tests.support.records import a_job, a_task, change, creation, fanned_out

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
        ("/api/v1/hello", b"[" * 2000 + b"]" * 2000, 400, "deeper than 100 levels"),
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
        ("since=1e300", "since"),
        ("since=-1", "since"),
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
        tasks=("draw", "paint"),
        supported_tasks=("draw",),
        installed_models=("m1", "m2"),
        load_times={"m1": 4.5},
        cost_per_second=0.5,
        cost_per_skill={"paint": 2.0},
        capabilities={"gpu": 1},
        load={"gpu": 1},
        hot_cache=("m1",),
        skill_dependencies={"draw": ["m1"], "paint": ["m1", "m2"]},
    )
    await service.store.register(record, time.time(), 60)
    await service.store.register(replace(record, id="orchestrator@here", boot_id="other", type="orchestrator"), time.time(), 60)
    async with facade.get("/api/v1/workers") as response:
        [worker] = await response.json()
    assert (worker["reputation"], worker["reputation_made_of"]) == (1.0, {})
    made_of = {"lost": 10, "success": 10}
    await service.store.set_reputation("worker-1@here", Reputation(0.6667, 20, made_of))
    async with facade.get("/api/v1/workers") as response:
        [worker] = await response.json()
    assert (worker["reputation"], worker["reputation_made_of"]) == (0.6667, made_of)
    assert (worker["tasks"], worker["supported_tasks"], worker["installed_models"]) == (["draw", "paint"], ["draw"], ["m1", "m2"])
    assert (worker["cost_per_second"], worker["cost_per_skill"], worker["load_times"]) == (0.5, {"paint": 2.0}, {"m1": 4.5})
    assert (worker["worker_id"], worker["limits"], worker["load"]) == ("worker-1@here", {"gpu": 1}, {"gpu": 1})
    assert (worker["hot_cache"], worker["hot_skills"]) == (["m1"], ["draw"])


async def _waiting(service: StoringService, **fields: Any) -> tuple[Job, TaskInfo]:
    """A job whose task waits for a pick."""
    job = a_job(created_at=time.time())
    info = a_task(job, type="draw", **fields)
    await service.store.commit(creation(job))
    new = NewTask(info, entry=Entry(signature="s"))
    await service.store.commit(change(job, {"tasks": (new,)}, status=JobStatus.WAITING_FOR_WORKER, waiting=info))
    return job, info


async def _shown(facade: Facade, job_id: str) -> dict[str, Any]:
    async with facade.get(f"/api/v1/jobs/{job_id}") as response:
        assert response.status == 200
        shown: dict[str, Any] = await response.json()
        return shown


def _gpu(name: str, vram: float, **fields: Any) -> WorkerRecord:
    tasks = {"tasks": ("draw",), "supported_tasks": ("draw",), "capabilities": {"gpu": 1}}
    return WorkerRecord(name, f"boot-{name}", resources={"gpu_info": {"vram_gb": vram}}, **{**tasks, **fields})


async def test_a_job_says_why_its_task_waits_and_why_its_worker_was_chosen(facade: Facade, service: StoringService) -> None:
    await service.store.pin_tasks({"draw": "gpu"})
    wanted = {"resource_requirements": {"gpu_info": {"vram_gb": 24}}, "max_cost": 0.01}
    job, info = await _waiting(service, **wanted)
    task = (await _shown(facade, job.id))["current_task"]
    assert (task["state"], task["why"]) == ("waiting", "no live worker knows draw; start one that declares it")

    for name, vram in (("a", 8), ("b", 24), ("c", 48)):
        await service.store.register(_gpu(name, vram, cost_per_second=0.5), time.time(), 60)
    task = (await _shown(facade, job.id))["current_task"]
    assert task["why"] == "3 workers know draw, 2 have 24 GB VRAM, 0 are within max_cost 0.01"
    assert (task["funnel"]["known"], task["funnel"]["resources"], task["funnel"]["cost"]) == (3, 2, 0)
    assert (task["decision"], task["worker_id"]) == (None, None)

    worker, message = _gpu("d", 24), Message("worker.d.gpu", "[]", {"id": info.id}, {}, declare="direct")
    await service.store.register(worker, time.time(), 60)
    decision = {"strategy": "default", "chosen": "d", "reason": "it was there"}
    await service.store.assign(info.id, worker, "gpu", message, time.time(), decision)
    task = (await _shown(facade, job.id))["current_task"]
    assert (task["decision"], task["worker_id"], task["funnel"]) == (decision, "d", None)
    assert task["why"] == "it was given to d, which has not begun it"

    await service.store.claim_task(info.id, "d", "boot-d", time.time(), 60, "gpu")
    task = (await _shown(facade, job.id))["current_task"]
    assert (task["state"], task["why"], task["decision"]) == ("claimed", None, decision)


async def test_a_fan_out_says_how_its_branches_stand(facade: Facade, service: StoringService) -> None:
    job = a_job(created_at=time.time())
    await service.store.commit(creation(job))
    commit, fanout, infos = fanned_out(job, 5, type="draw")
    entries = tuple(NewTask(info, entry=Entry(signature="s")) for info in infos)
    await service.store.commit(replace(commit, tasks=entries, messages=()))
    await service.store.pin_tasks({"draw": "gpu"})
    worker = _gpu("w", 24, capabilities={"gpu": 3}, max_concurrent_tasks=3)
    await service.store.register(worker, time.time(), 60)
    for info in infos[:3]:
        message = Message("worker.w.gpu", "[]", {"id": info.id}, {}, declare="direct")
        await service.store.assign(info.id, worker, "gpu", message, time.time(), {})
        await service.store.claim_task(info.id, "w", "boot-w", time.time(), 60, "gpu")
    for info, result in zip(infos[:2], (Result.success(), Result.failure("X", "broken")), strict=True):
        event = Event(f"{info.id}:done", job.id, "branch_finished", time.time())
        aggregate = Message("orchestrator", "[]", {"id": "a"}, {})
        await service.store.finish_task(info.id, "boot-w", result, aggregate, time.time())
        await service.store.branch_done(job.id, fanout.id, info.id, result, event, [], aggregate)

    shown = await _shown(facade, job.id)

    found = shown["waiting_for"]
    assert (found["kind"], found["total"], found["done"], found["failed"]) == ("parallel_tasks", 5, 2, 1)
    assert (found["running"], found["waiting"], shown["progress"]) == (1, 2, 0.4)
    first = found["first_waiting"]
    assert (first["task_id"], first["type"], first["branch"]) == (infos[3].id, "draw", 3)
    assert first["why"] == "it is about to start"


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
    app[ACCOUNTS].current = Accounts([Account(mine, digest_of("mine"))])
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
