"""Webhooks and approvals with real processes: an orchestrator that is killed, a facade, and a server that receives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.engine import Api
from tests.support.polling import eventually_async
from tests.support.processes import Facade, Orchestrator, Processes
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(300)

BLUEPRINTS = Path(__file__).parent / "apps" / "asking" / "blueprints"


@dataclass
class Bench:
    """
    Attributes:
        hooks: gets the ends of jobs.
        people: gets the questions of the integration `webhook`.
        paper: what the application's own integration has written.
    """

    orchestrator: Orchestrator
    api: Api
    facade: Facade
    hooks: Receiver
    people: Receiver
    paper: Path

    async def submit(self, **initial_data: Any) -> str:
        body = {"blueprint": "asking", "initial_data": initial_data, "webhook_url": f"{self.hooks.url}/hook"}
        job_id: str = (await self.api.post("/api/v1/jobs", body))["job_id"]
        return job_id

    async def start_again(self) -> None:
        """Another start of the killed orchestrator; the receivers go on answering meanwhile."""
        self.orchestrator.start()
        await asyncio.to_thread(self.orchestrator.wait_ready)

    async def until(self, receiver: Receiver, requests: int) -> None:
        async def got() -> bool:
            return len(receiver.got) >= requests

        await eventually_async(got, what=f"{requests} requests")

    async def told(self, job_id: str) -> dict[str, Any]:
        """The job once its end was told."""

        async def look() -> dict[str, Any] | None:
            job = await self.api.job(job_id)
            return job if job["webhook"]["status"] == "delivered" else None

        job = await eventually_async(look)
        assert job is not None
        return job

    async def decide(self, url: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """As a person's tool does: no client's token."""
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            return response.status, await response.json()


@pytest.fixture
async def bench(redis_broker: Broker, processes: Processes, tmp_path: Path) -> AsyncIterator[Bench]:
    paper = tmp_path / "paper"
    async with receiving() as hooks, receiving() as people:
        env = {
            **redis_broker.env,
            "BLUEPRINTS_DIR": str(BLUEPRINTS),
            "WORKERS_DIR": str(tmp_path / "none"),
            "WEBHOOK_SECRET": SECRET,
            "WEBHOOK_ALLOW_PRIVATE": "true",
            "APPROVAL_WEBHOOK_URL": f"{people.url}/questions",
            "PAPER": str(paper),
        }
        facade = Facade(directory=processes.directory, env=env)
        orchestrator = processes.make(Orchestrator, env={**env, "PUBLIC_URL": facade.url}, wait=False)
        processes.start(facade, wait=False)
        await asyncio.to_thread(processes.wait_ready)
        async with Api(facade.url, facade.token) as api:
            yield Bench(orchestrator, api, facade, hooks, people, paper)


async def test_an_end_is_told_once_however_often_the_orchestrator_dies_between_attempts(bench: Bench) -> None:
    bench.hooks.answers = [500] * 1000
    job_id = await bench.submit()
    await bench.until(bench.hooks, 1)
    for _ in range(2):
        bench.orchestrator.kill_all()
        before = len(bench.hooks.got)
        await bench.start_again()
        await bench.until(bench.hooks, before + 1)
    bench.orchestrator.kill_all()
    bench.hooks.answers.clear()
    await bench.start_again()

    job = await bench.told(job_id)

    assert bench.hooks.statuses.count(200) == 1
    assert len({(got.delivery, got.body) for got in bench.hooks.got}) == 1
    assert all(got.is_signed() for got in bench.hooks.got)
    assert bench.hooks.got[0].json["job"]["result"] == {"answer": "yes"}
    assert job["webhook"]["attempts"][-1]["status_code"] == 200
    assert SECRET not in bench.orchestrator.log(whole=True) + bench.facade.log(whole=True)


async def test_an_attempt_that_a_death_cut_off_is_made_again(bench: Bench) -> None:
    bench.hooks.answers = [0]
    job_id = await bench.submit()
    await bench.until(bench.hooks, 1)
    bench.orchestrator.kill_all()
    await bench.start_again()

    job = await bench.told(job_id)

    assert bench.hooks.statuses == [0, 200]
    assert [attempt["status_code"] for attempt in job["webhook"]["attempts"]] == [200]


async def test_a_redirect_is_an_attempt_that_failed(bench: Bench) -> None:
    bench.hooks.answers = [307]
    job = await bench.told(await bench.submit())
    assert [(got.path, got.status) for got in bench.hooks.got] == [("/hook", 307), ("/hook", 200)]
    assert [attempt["status_code"] for attempt in job["webhook"]["attempts"]] == [307, 200]


async def test_a_question_survives_a_death_and_its_token_answers_once(bench: Bench) -> None:
    bench.people.answers = [503] * 1000
    job_id = await bench.submit(integration="webhook")
    await bench.until(bench.people, 1)
    bench.orchestrator.kill_all()
    bench.people.answers.clear()
    await bench.start_again()

    async def passed_on() -> bool:
        return 200 in bench.people.statuses

    await eventually_async(passed_on)
    first, *_, last = bench.people.got
    assert (first.json, last.is_signed(), last.path) == (last.json, True, "/questions")
    question = last.json["approval"]
    wrong = await bench.decide(question["links"]["decide"], decision="approved", token="x" + question["token"])
    right = await bench.decide(question["links"]["decide"], decision="approved", token=question["token"], comment="fine")
    again = await bench.decide(question["links"]["decide"], decision="rejected", token=question["token"])
    assert (wrong[0], right, again) == (403, (200, {"status": "approval_received", "job_id": job_id}), wrong)

    job = await bench.told(job_id)
    assert (job["status"], job["result"]) == ("finished", {"answer": "yes"})
    history = await bench.api.get(f"/api/v1/jobs/{job_id}/history")
    (decided,) = [event["details"] for event in history if event["event_type"] == "approval_decided"]
    assert decided == {"decision": "approved", "by": "webhook:webhook", "comment": "fine"}
    logs = bench.orchestrator.log(whole=True) + bench.facade.log(whole=True)
    assert question["token"] not in logs + str(job) + str(history)


async def test_an_integration_of_the_application_and_a_clients_decision(bench: Bench) -> None:
    job_id = await bench.submit(integration="paper")

    async def written() -> str | None:
        return bench.paper.read_text() or None

    line = await eventually_async(written)
    assert line is not None
    assert line.split()[0] == job_id
    await bench.api.post(f"/api/v1/jobs/{job_id}/decide", {"decision": "rejected", "comment": "no"})

    job = await bench.told(job_id)
    assert job["result"] == {"answer": "no"}
    status, _ = await bench.decide(
        f"{bench.facade.url}/_public/webhooks/approval/{job_id}", decision="approved", token=line.split()[1]
    )
    assert status == 403


async def test_a_question_that_nobody_answers_ends_at_its_time(bench: Bench) -> None:
    job_id = await bench.submit(integration="log", seconds=5)
    job = await bench.told(job_id)
    assert (job["status"], job["result"]) == ("finished", {"answer": "none"})
    assert f"avtomatika job decide {job_id} approved|rejected" in bench.orchestrator.log(whole=True)
