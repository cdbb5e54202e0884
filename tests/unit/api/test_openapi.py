"""The document says what the handlers do: every route is in it, and real answers fit its models to the field."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import validate
from pydantic import TypeAdapter

from avtomatika.api.app import create_app
from avtomatika.api.describe import operation_of
from avtomatika.api.models import (
    Accepted,
    BlueprintView,
    Error,
    EventView,
    JobsPage,
    JobView,
    QuarantinedJob,
    WaitingForApproval,
    WaitingForJob,
    WaitingForTasks,
    WorkerView,
)
from avtomatika.api.openapi import document
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import Approval, JobStatus, Message, SubJob, WorkerRecord
from avtomatika.settings import Settings
from avtomatika.state.base import Entry, NewTask
from tests.support.records import a_job, a_task, change, creation, fanned_out

from .conftest import StoringService

Facade = TestClient[Any, Any]


@pytest.fixture
def shown(service: StoringService, settings: Settings) -> dict[str, Any]:
    return document(create_app(service, settings.model_copy(update={"debug": True})))


def test_every_route_is_described(service: StoringService, settings: Settings) -> None:
    app = create_app(service, settings.model_copy(update={"debug": True}))
    bare = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and operation_of(route.handler) is None
    }
    assert bare == set(), "put @describe on their handlers"


def test_the_document_is_openapi_3_1(shown: dict[str, Any]) -> None:
    validate(shown)
    assert shown["openapi"].startswith("3.1.")
    ids = [operation["operationId"] for path in shown["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] and operation["tags"] for path in shown["paths"].values() for operation in path.values())


def test_every_reference_leads_somewhere_and_every_schema_is_used(shown: dict[str, Any]) -> None:
    used: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                used.add(value["$ref"])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(shown)
    made = {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in shown["components"][kind]}
    # What a discriminator names is referred to beside it, too.
    assert used == made


def test_what_calls_share(shown: dict[str, Any]) -> None:
    create, show, status = (
        shown["paths"][path][method]
        for path, method in (("/api/v1/jobs", "post"), ("/api/v1/jobs/{job_id}", "get"), ("/_public/status", "get"))
    )
    assert set(create["responses"]) == {"202", "400", "401", "404", "408", "409", "413", "415", "422", "429", "503"}
    assert set(show["responses"]) == {"200", "401", "404", "429", "503"}
    assert (set(status["responses"]), status["security"]) == ({"200"}, [])
    assert create["security"] == [{"clientToken": []}, {"bearer": []}]
    assert [(p["name"], p["in"], p["required"]) for p in show["parameters"]] == [("job_id", "path", True)]
    assert [(p["name"], p["in"], p["required"]) for p in create["parameters"]] == [("Idempotency-Key", "header", False)]
    assert "Retry-After" in shown["components"]["responses"]["Error503"]["headers"]
    assert "/_public/debug/flush_db" in shown["paths"]


def test_a_blueprints_endpoint(service: StoringService, settings: Settings) -> None:
    blueprint = Blueprint("video", api_version="v1", api_endpoint="/jobs/video")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions, url: str, quality: str = "low", sizes: list[int] = [480]):  # noqa: B006
        """Cuts a video into pieces."""
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end():
        return {}

    service.blueprints.register(blueprint)
    paths = document(create_app(service, settings))["paths"]
    operation = paths["/api/v1/jobs/video"]["post"]
    assert operation["description"] == "Cuts a video into pieces.\n\nIts first step reads `url`, `quality`, `sizes`."
    content = operation["requestBody"]["content"]["application/json"]
    assert content["example"] == {"url": "text", "quality": "low", "sizes": [480]}
    assert (content["schema"]["type"], content["schema"]["additionalProperties"]) == ("object", True)
    assert "/api/v1/hello" in paths
    assert not any("inner" in path for path in paths), "it has no endpoint"


async def test_it_is_served_with_a_tag(service: StoringService, settings: Settings) -> None:
    async with TestClient(TestServer(create_app(service, settings))) as facade:
        async with facade.get("/_public/openapi.json") as response:
            assert (response.status, response.content_type) == (200, "application/json")
            tag = response.headers["ETag"].removeprefix("W/")  # weak where the answer is packed
            assert "/api/v1/hello" in (await response.json())["paths"]
        for header, status in ((tag, 304), ('"another"', 200)):
            async with facade.get("/_public/openapi.json", headers={"If-None-Match": header}) as response:
                assert (response.status, response.headers["ETag"].removeprefix("W/")) == (status, tag)


async def _fits(facade: Facade, path: str, kind: Any, method: str = "GET", status: int = 200, **options: Any) -> Any:
    """The answer, which has every field of the model and no other."""
    async with facade.request(method, path, **options) as response:
        assert response.status == status
        raw = await response.read()
    return TypeAdapter(kind).validate_json(raw, strict=True, extra="forbid")


async def test_answers_fit_their_models(facade: Facade, service: StoringService) -> None:
    accepted = await _fits(facade, "/api/v1/hello", Accepted, "POST", 202, json={"a": 1})
    await _fits(facade, f"/api/v1/jobs/{accepted.job_id}", JobView)
    [event] = await _fits(facade, f"/api/v1/jobs/{accepted.job_id}/history", list[EventView])
    assert event.event_type == "job_created"
    await _fits(facade, "/api/v1/jobs", JobsPage)
    assert len(await _fits(facade, "/api/v1/blueprints", list[BlueprintView])) == 2
    worker = WorkerRecord("w@here", "b", tasks=("draw",), load={"gpu": 1}, resources={"cpu_cores": 4}, registered_at=1.5)
    await service.store.register(worker, time.time(), 60)
    assert len(await _fits(facade, "/api/v1/workers", list[WorkerView])) == 1
    await _fits(facade, "/api/v1/jobs/nope", Error, status=404)


async def test_what_a_job_waits_for_fits_its_model(facade: Facade, service: StoringService) -> None:
    store, now = service.store, time.time()
    await store.pin_tasks({"draw": "gpu"})
    tasks, fan_out, child, person, ended = (a_job(created_at=now) for _ in range(5))
    for job in (tasks, fan_out, child, person, ended):
        await store.commit(creation(job))

    info = a_task(tasks, type="draw", max_cost=1.0)
    new = NewTask(info, entry=Entry(signature="s"))
    await store.commit(change(tasks, {"tasks": (new,)}, status=JobStatus.WAITING_FOR_WORKER, waiting=info))
    view = await _fits(facade, f"/api/v1/jobs/{tasks.id}", JobView)
    assert view.current_task.funnel.known == 0
    worker = WorkerRecord("w", "b", tasks=("draw",), supported_tasks=("draw",), capabilities={"gpu": 1})
    await store.register(worker, now, 60)
    await store.assign(info.id, worker, "gpu", Message("q", "[]", {}, {}, declare="direct"), now, {"strategy": "default"})
    await store.claim_task(info.id, "w", "b", now, 60, "gpu")
    await store.task_progress(info.id, "b", 0.5, "half")
    view = await _fits(facade, f"/api/v1/jobs/{tasks.id}", JobView)
    assert (view.current_task.progress, view.current_task.decision) == (0.5, {"strategy": "default"})

    commit, _, infos = fanned_out(fan_out, 2, type="draw")
    await store.commit(replace(commit, tasks=tuple(NewTask(i, entry=Entry(signature="s")) for i in infos), messages=()))
    waiting = (await _fits(facade, f"/api/v1/jobs/{fan_out.id}", JobView)).waiting_for
    assert isinstance(waiting, WaitingForTasks)
    assert waiting.first_waiting.type == "draw"

    await store.commit(change(child, status=JobStatus.WAITING_FOR_SUB_JOB, waiting=SubJob("c", "inner", {})))
    assert isinstance((await _fits(facade, f"/api/v1/jobs/{child.id}", JobView)).waiting_for, WaitingForJob)
    question = Approval("q", "mail", "May I?", {"yes": "go"}, "hash", now)
    await store.commit(change(person, status=JobStatus.WAITING_FOR_HUMAN, waiting=question))
    assert isinstance((await _fits(facade, f"/api/v1/jobs/{person.id}", JobView)).waiting_for, WaitingForApproval)

    await store.commit(change(ended, status=JobStatus.QUARANTINED, error_message="broken"))
    [quarantined] = await _fits(facade, "/api/v1/jobs/quarantined", list[QuarantinedJob])
    assert (quarantined.id, quarantined.error_message) == (ended.id, "broken")
