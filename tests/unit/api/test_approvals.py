"""Deciding with a question's token, and webhooks at submit: the facade over a real engine and the store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app
from avtomatika.api.describe import operation_of
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.approvals import token_of
from avtomatika.engine.service import Service
from avtomatika.jobs import Approval, Job
from avtomatika.settings import read_settings
from tests.support.machine import Machine

from .conftest import HEADERS, TOKEN


def _asking() -> Blueprint:
    blueprint = Blueprint("asks", api_version="v1", api_endpoint="/asks")

    @blueprint.handler_for("ask", is_start=True)
    async def ask(actions: Any) -> None:
        actions.await_human_approval("log", "Shall we?", {"approved": "yes", "rejected": "no"})

    for state in ("yes", "no"):

        @blueprint.handler_for(state, is_end=True)
        async def end() -> None: ...

    return blueprint


@dataclass
class Bench:
    machine: Machine
    client: TestClient[Any, Any]

    async def ask(self) -> tuple[Job, str]:
        """A job that waits with a question, and the question's token."""
        job = await self.machine.job(await self.machine.create("asks"))
        await self.machine.pump()
        job = await self.machine.job(job.id)
        assert isinstance(job.waiting, Approval)
        return job, await token_of(self.machine.store, job.id, job.waiting.id)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        async with self.client.post(path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def decide(self, job_id: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Without any client's token."""
        return await self.post(f"/_public/webhooks/approval/{job_id}", body)


async def _bench(**settings: Any) -> AsyncIterator[Bench]:
    machine = await Machine(_asking()).start()
    app = create_app(Service(machine.engine), read_settings(client_token=TOKEN, **settings))  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        yield Bench(machine, client)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async for bench in _bench(webhook_secret="s"):
        yield bench


@pytest.fixture
async def without_secret() -> AsyncIterator[Bench]:
    async for bench in _bench():
        yield bench


async def test_a_decision_with_the_token(bench: Bench) -> None:
    job, token = await bench.ask()
    answer = await bench.decide(job.id, decision="approved", token=token, comment="fine")
    assert answer == (200, {"status": "approval_received", "job_id": job.id})
    await bench.machine.drive()
    assert (await bench.machine.job(job.id)).current_state == "yes"
    (event,) = await bench.machine.events(job.id, "approval_decided")
    assert event.details == {"decision": "approved", "by": "webhook:log", "comment": "fine"}


async def test_wrong_tokens_are_all_answered_alike(bench: Bench) -> None:
    job, token = await bench.ask()
    other, others = await bench.ask()
    assert (await bench.decide(other.id, decision="approved", token=others))[0] == 200
    answers = [
        await bench.decide(job.id, decision="approved", token="wrong"),
        await bench.decide(job.id, decision="nonsense", token="wrong"),
        await bench.decide(job.id, decision="approved", token=others),
        await bench.decide(other.id, decision="approved", token=others),  # used
        await bench.decide("nobody", decision="approved", token=token),
    ]
    assert {status for status, _ in answers} == {403}
    assert len({body["error"] for _, body in answers}) == 1
    assert (await bench.machine.job(job.id)).waiting is not None


async def test_a_decision_that_leads_nowhere_names_those_that_do(bench: Bench) -> None:
    job, token = await bench.ask()
    status, body = await bench.decide(job.id, decision="perhaps", token=token)
    assert (status, body["error"]) == (422, "decision 'perhaps' is none of: approved, rejected")
    status, body = await bench.post(f"/api/v1/jobs/{job.id}/decide", {"decision": "perhaps"}, **HEADERS)
    assert (status, body["error"]) == (422, "decision 'perhaps' is none of: approved, rejected")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "'decision' is missing"),
        ([], 400, "JSON object"),
        ({"decision": "approved"}, 422, "token"),
        ({"decision": "approved", "token": 5}, 422, "token"),
        ({"decision": "approved", "token": "x" * 201}, 422, "token"),
        ({"decision": "approved", "token": "x", "more": 1}, 422, "more"),
    ],
)
async def test_bodies_that_are_refused(bench: Bench, body: Any, status: int, words: str) -> None:
    answer = await bench.post("/_public/webhooks/approval/some-id", body)
    assert answer[0] == status
    assert words in answer[1]["error"]


async def test_a_client_decides_by_its_name_and_once(bench: Bench) -> None:
    job, token = await bench.ask()
    path = f"/api/v1/jobs/{job.id}/decide"
    assert (await bench.post(path, {"decision": "rejected", "comment": "no"}, **HEADERS))[0] == 200
    assert (await bench.post(path, {"decision": "rejected"}, **HEADERS))[0] == 409
    assert (await bench.decide(job.id, decision="approved", token=token))[0] == 403
    (event,) = await bench.machine.events(job.id, "approval_decided")
    assert event.details == {"decision": "rejected", "by": "default", "comment": "no"}


async def test_the_call_says_what_it_takes(bench: Bench) -> None:
    route = next(r for r in bench.client.app.router.routes() if r.resource and "webhooks/approval" in r.resource.canonical)
    operation = operation_of(route.handler)
    assert operation is not None
    assert operation.body.model_json_schema()["required"] == ["decision", "token"]


async def test_a_webhook_is_kept_with_the_job(bench: Bench) -> None:
    body = {"blueprint": "asks", "webhook_url": "https://example.com/hook"}
    status, accepted = await bench.post("/api/v1/jobs", body, **HEADERS)
    assert status == 202
    assert (await bench.machine.job(accepted["job_id"])).webhook_url == "https://example.com/hook"
    async with bench.client.get(f"/api/v1/jobs/{accepted['job_id']}", headers=HEADERS) as response:
        shown = (await response.json())["webhook"]
    assert shown == {"url": "https://example.com/hook", "status": "pending", "attempts": [], "next_attempt_at": None}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com", "https://"),
        ("http://", "no host"),
        ("http://127.0.0.1:6379/", "WEBHOOK_ALLOW_PRIVATE"),
        ("http://[::ffff:127.0.0.1]/", "WEBHOOK_ALLOW_PRIVATE"),
        ("https://u:p@example.com/", "user or a password"),
        ("", "https://"),
        (5, "webhook_url"),
    ],
)
async def test_webhooks_that_are_refused(bench: Bench, url: Any, words: str) -> None:
    status, body = await bench.post("/api/v1/jobs", {"blueprint": "asks", "webhook_url": url}, **HEADERS)
    assert status == 422
    assert words in body["error"]
    assert "webhook_url" in body["error"]
    assert await bench.machine.store.list_jobs() == []


async def test_without_a_secret_a_webhook_is_refused(without_secret: Bench) -> None:
    body = {"blueprint": "asks", "webhook_url": "https://example.com/hook"}
    status, answer = await without_secret.post("/api/v1/jobs", body, **HEADERS)
    assert status == 422
    assert "WEBHOOK_SECRET" in answer["error"]
    assert (await without_secret.post("/api/v1/jobs", {"blueprint": "asks"}, **HEADERS))[0] == 202
