"""Every call of the documented API against real processes: answered as written, in the shape that the OpenAPI document tells."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from avtomatika.operations.registry import registry
from tests.support.engine import Engine, app_environment, opened_engine
from tests.support.http_worker import HttpWorker
from tests.support.openapi import Document
from tests.support.polling import eventually_async
from tests.support.processes import Facade, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

ADMIN, ACME, OTHER = "token-of-the-admin-000", "token-of-acme-0000000", "token-of-other-000000"
SHARED, OWN = f"worker-{ADMIN}", "token-of-the-own-worker"
CLIENTS = f"""
[acme]
token = "{ACME}"
plan = "gold"

[other]
token = "{OTHER}"
monthly_attempts = 1
"""
OPERATIONS = """
[hosts.here]
address = "127.0.0.1"

[policy.default]
operations = ["network_test"]
hosts = ["here"]
"""
SCHEDULES = """
[yearly]
blueprint = "echo"
cron = "@yearly"
timezone = "Europe/Berlin"
"""


@dataclass
class Table:
    """Asks the facade, and holds each answer against the document."""

    session: aiohttp.ClientSession
    facade: Facade
    engine: Engine
    document: Document

    async def ask(
        self,
        method: str,
        path: str,
        expect: int,
        body: Any = None,
        /,
        *,
        token: str | None = ADMIN,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        **expected: Any,
    ) -> Any:
        """The answer, which has this status, these values, and the documented shape; an error says what is wrong."""
        name = "X-Worker-Token" if path.startswith("/_worker/") else "X-Avtomatika-Token"
        sent = {**({name: token} if token else {}), **(headers or {})}
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.facade.url + path, headers=sent, data=data) as response:
            text = await response.text()
            assert response.status == expect, (method, path, response.status, text)
            found = json.loads(text) if response.content_type == "application/json" and text else text
            self.document.check(method, path.partition("?")[0], expect, response.content_type, found)
            if expect >= 400:
                told = {"code", "details"} if path.startswith("/api/v1/queue/") and expect not in (401, 429, 503) else set()
                assert set(found) == {"error", *told}
                assert len(found["error"]) > 10
            if expect in (429, 503):
                assert int(response.headers["Retry-After"]) > 0
        for key, value in expected.items():
            assert found[key] == value, (method, path, key, found)
        return found

    async def create(self, blueprint: str, token: str = ADMIN, **data: Any) -> str:
        answer = await self.ask("POST", "/api/v1/jobs", 202, {"blueprint": blueprint, "initial_data": data}, token=token)
        assert answer["status"] == "accepted"
        return str(answer["job_id"])

    async def reaches(self, job_id: str, *statuses: str) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            job: dict[str, Any] = await self.ask("GET", f"/api/v1/jobs/{job_id}", 200)
            return job if job["status"] in statuses else None

        found = await eventually_async(look, deadline=60)
        assert found is not None
        return found

    def worker(self, name: str = "w1") -> HttpWorker:
        return HttpWorker(self.session, self.facade.url, name)


@pytest.fixture
async def table(redis_broker: Broker, processes: Processes, tmp_path: Path) -> AsyncIterator[Table]:
    (tmp_path / "clients.toml").write_text(CLIENTS)
    (tmp_path / "schedules.toml").write_text(SCHEDULES)  # found beside clients.toml
    (tmp_path / "operations.toml").write_text(OPERATIONS)
    (tmp_path / "workers.toml").write_text(f'[own]\ntoken = "{OWN}"\n')
    env = {
        **redis_broker.env,
        **app_environment("api"),
        "CLIENTS_CONFIG_PATH": str(tmp_path / "clients.toml"),
        "OPERATIONS_CONFIG_PATH": str(tmp_path / "operations.toml"),
        "WORKERS_CONFIG_PATH": str(tmp_path / "workers.toml"),
        "WORKER_POLL_TIMEOUT_SECONDS": "0.3",
        "BODY_LIMIT_MB": "0.1",
        "WEBHOOK_SECRET": "a-secret-for-signatures",
        "WATCHER_INTERVAL_SECONDS": "1",
        "HISTORY_DATABASE_URI": f"sqlite:///{tmp_path / 'history.sqlite3'}",
    }
    processes.make(Orchestrator, env=env, node=f"orchestrator@{env['NAMESPACE']}")
    facade = processes.make(Facade, env=env, token=ADMIN)
    async with (
        aiohttp.ClientSession(headers={"X-Worker-Token": SHARED}) as session,
        opened_engine(env) as engine,
    ):
        async with session.get(f"{facade.url}/_public/openapi.json") as response:
            document = Document(await response.json())
        yield Table(session, facade, engine, document)


async def test_the_client_api(table: Table) -> None:
    ask = table.ask
    # Creation, by an endpoint and by name.
    first = await ask("POST", "/api/v1/echo", 202, {"a": 1}, headers={"Idempotency-Key": "k"}, status="accepted")
    again = await ask("POST", "/api/v1/echo", 202, {"a": 1}, headers={"Idempotency-Key": "k"})
    assert first == again
    await ask("POST", "/api/v1/echo", 409, {"a": 2}, headers={"Idempotency-Key": "k"})
    await ask("POST", "/api/v1/echo", 400, raw=b"{")
    await ask("POST", "/api/v1/echo", 400, [])
    await ask("POST", "/api/v1/echo", 413, {"a": "x" * 200_000})
    await ask("POST", "/api/v1/echo", 415, {"a": 1}, headers={"Content-Encoding": "br"})
    await ask("POST", "/api/v1/jobs", 400, {"initial_data": {}})
    await ask("POST", "/api/v1/jobs", 404, {"blueprint": "nothing"})
    await ask("POST", "/api/v1/jobs", 422, {"blueprint": "echo", "priority": 11})
    await ask("POST", "/api/v1/jobs", 422, {"blueprint": "echo", "webhook_url": "ftp://example.com"})
    await ask("POST", "/api/v1/jobs", 401, {"blueprint": "echo"}, token=None)
    await ask("POST", "/api/v1/jobs", 401, {"blueprint": "echo"}, token="wrong")
    body = {"blueprint": "echo", "initial_data": {"b": 1}, "priority": 3, "tags": ["t"], "webhook_url": "https://example.com/x"}
    tagged = (await ask("POST", "/api/v1/jobs", 202, body, token=ACME))["job_id"]
    other = await table.create("echo", OTHER)
    await ask("POST", "/api/v1/jobs", 429, {"blueprint": "echo"}, token=OTHER)

    # Reading: a client sees its own jobs, an admin all.
    for job_id in (first["job_id"], other):
        await table.reaches(job_id, "finished")
    job = await table.reaches(tagged, "finished")
    assert (job["result"], job["tags"], job["priority"], job["client"]) == ({"b": 1}, ["t"], 3.0, "acme")
    assert job["webhook"]["url"] == "https://example.com/x"
    await ask("GET", f"/api/v1/jobs/{tagged}", 404, token=OTHER)
    await ask("GET", "/api/v1/jobs/nothing", 404)
    assert [item["id"] for item in (await ask("GET", "/api/v1/jobs?tag=t&limit=1", 200))["jobs"]] == [tagged]
    assert len((await ask("GET", "/api/v1/jobs", 200, token=OTHER))["jobs"]) == 1
    assert len((await ask("GET", "/api/v1/jobs?status=finished&blueprint=echo&since=2020-01-01&offset=1", 200))["jobs"]) == 2
    await ask("GET", "/api/v1/jobs?status=strange", 422)
    history = await ask("GET", f"/api/v1/jobs/{tagged}/history", 200, token=ACME)
    assert [event["event_type"] for event in history] == ["job_created", "job_finished"]
    await ask("GET", f"/api/v1/jobs/{tagged}/history", 404, token=OTHER)

    async with table.session.get(
        f"{table.facade.url}/api/v1/jobs/{tagged}/events", headers={"X-Avtomatika-Token": ACME}
    ) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        live = (await response.text()).splitlines()
    assert [line for line in live if line.startswith("event: ")] == ["event: job_created", "event: job_finished"]
    assert [json.loads(line[6:]) for line in live if line.startswith("data: ")] == history
    await ask("GET", f"/api/v1/jobs/{tagged}/events", 404, token=OTHER)

    # What ended, from the history, which is a moment behind.
    async def counted() -> Any:
        groups = (await ask("GET", "/api/v1/analytics", 200, by="blueprint"))["groups"]
        return next((group for group in groups if group["outcomes"] == {"finished": 3}), None)

    echoes = await eventually_async(counted)
    assert (echoes["key"], echoes["count"], echoes["success_rate"]) == ("echo", 3, 1.0)
    assert (await ask("GET", "/api/v1/analytics?since=2020-01-01", 200, token=ACME))["groups"][0]["count"] == 1
    for by in ("task", "worker"):
        assert (await ask("GET", f"/api/v1/analytics?by={by}&until=2020-01-01T00:00:00Z", 200, by=by))["groups"] == []
    await ask("GET", "/api/v1/analytics?by=moon", 422)

    # Orders.
    for order in ("cancel", "retry", "pause", "resume"):
        await ask("POST", f"/api/v1/jobs/{tagged}/{order}", 409)
        await ask("POST", f"/api/v1/jobs/{tagged}/{order}", 404, token=OTHER)
    waiting = (await ask("POST", "/api/v2/work", 202, {}))["job_id"]
    await table.reaches(waiting, "waiting_for_worker")
    await ask("POST", f"/api/v1/jobs/{waiting}/pause", 200, status="pause_requested")
    await ask("POST", f"/api/v1/jobs/{waiting}/resume", 200, status="resumed")
    await ask("POST", f"/api/v1/jobs/{waiting}/cancel", 422, {"strange": 1})
    await ask("POST", f"/api/v1/jobs/{waiting}/cancel", 200, status="cancellation_request_accepted")
    assert (await table.reaches(waiting, "finished"))["current_state"] == "tidied"

    # Questions.
    asked = await table.create("ask")
    view = await table.reaches(asked, "waiting_for_human")
    assert view["waiting_for"]["decisions"] == ["approved", "rejected"]
    await ask("POST", f"/api/v1/jobs/{asked}/decide", 400, {})
    await ask("POST", f"/api/v1/jobs/{asked}/decide", 422, {"decision": "perhaps"})
    await ask(
        "POST", f"/api/v1/jobs/{asked}/decide", 200, {"decision": "approved", "comment": "fine"}, status="approval_received"
    )
    decided = await table.reaches(asked, "finished")
    assert decided["result"] == {"decision": "approved", "comment": "fine", "by": "default"}
    await ask("POST", f"/api/v1/jobs/{asked}/decide", 409, {"decision": "approved"})
    await ask("POST", f"/_public/webhooks/approval/{asked}", 403, {"decision": "approved", "token": "wrong"})
    await ask("POST", f"/_public/webhooks/approval/{asked}", 400, {"token": "wrong"})

    # The fleet.
    names = [item["name"] for item in await ask("GET", "/api/v1/blueprints", 200)]
    assert sorted(names) == ["ask", "echo", "operation", "work"]
    for form in ("dot", "mermaid", "json", "svg"):
        assert await ask("GET", f"/api/v1/blueprints/work/graph?format={form}", 200)
    await ask("GET", "/api/v1/blueprints/work/graph", 200)
    await ask("GET", "/api/v1/blueprints/work/graph?format=png", 422)
    await ask("GET", "/api/v1/blueprints/nothing/graph", 404)
    await ask("POST", "/api/v1/admin/reload-workers", 200, status="worker_configs_reloaded")
    await ask("POST", "/api/v1/admin/reload-workers", 403, token=ACME)

    # Schedules.
    async def scheduled() -> bool:
        return [item["name"] for item in await ask("GET", "/api/v1/schedules", 200)] == ["yearly"]

    await eventually_async(scheduled, deadline=60)
    await ask("GET", "/api/v1/schedules?limit=0", 422)
    await ask("GET", "/api/v1/schedules", 403, token=ACME)
    shown = await ask("GET", "/api/v1/schedules/yearly?count=2", 200, paused=False, timezone="Europe/Berlin")
    assert [item["local"][4:] for item in shown["next_firings"]] == ["-01-01T00:00:00+01:00"] * 2
    await ask("POST", "/api/v1/schedules/yearly/pause", 200, paused=True, next_due_at=None)
    await ask("POST", "/api/v1/schedules/yearly/resume", 200, paused=False)
    triggered = (await ask("POST", "/api/v1/schedules/yearly/trigger", 202, status="accepted"))["job_id"]
    assert (await table.reaches(triggered, "finished"))["tags"] == ["schedule:yearly"]
    await ask("GET", "/api/v1/schedules/nothing", 404)
    for order in ("pause", "resume", "trigger"):
        await ask("POST", f"/api/v1/schedules/nothing/{order}", 404)
        await ask("POST", f"/api/v1/schedules/yearly/{order}", 403, token=ACME)

    await _queue(table)

    # Without a token.
    await ask("GET", "/_public/status", 200, token=None, status="ok")
    await ask("GET", "/_public/ready", 200, token=None, store="ok", broker="ok", history="ok")
    assert "avtomatika_jobs" in await ask("GET", "/_public/metrics", 200, token=None)
    assert "swagger" in (await ask("GET", "/_public/docs", 200, token=None)).lower()


async def _queue(table: Table) -> None:
    """A task that no worker is there for."""
    ask, queue = table.ask, "/api/v1/queue"
    task = {"task_type": "network_test", "params": {"host": "here", "port": 1}}
    key = {"Idempotency-Key": "q"}
    pushed = await ask("POST", f"{queue}/queue_push", 200, {**task, "priority": 3}, token=ACME, headers=key, status="success")
    again = await ask("POST", f"{queue}/queue_push", 200, {**task, "priority": 3}, token=ACME, headers=key)
    assert again["task_id"] == pushed["task_id"]
    assert "no live worker offers network_test" in pushed["note"]
    await ask("POST", f"{queue}/queue_push", 409, task, token=ACME, headers=key, code="ACTION_FAILED")
    await ask("POST", f"{queue}/queue_push", 400, {"task_type": "network_test"}, code="VALIDATION_ERROR")
    await ask("POST", f"{queue}/queue_push", 400, raw=b"{", code="VALIDATION_ERROR")
    await ask(
        "POST",
        f"{queue}/queue_push",
        403,
        {"task_type": "network_test", "params": {"host": "there", "port": 1}},
        code="FORBIDDEN",
    )
    await ask("POST", f"{queue}/queue_push", 401, task, token="wrong")
    await ask("POST", f"{queue}/queue_push", 429, task, token=OTHER)
    for client in ("scp_client", "ssh_client"):
        body = {"action": "list", "remote_path": "/"} if client == "scp_client" else {"action": "execute", "command": "true"}
        await ask("POST", f"{queue}/{client}", 400, {**body, "strange": 1}, code="VALIDATION_ERROR")
        # The policy does not name them; where this installation has none of them, they do not exist.
        refused = "FORBIDDEN" if "scp_list" in registry() else "VALIDATION_ERROR"
        await ask("POST", f"{queue}/{client}", 403 if refused == "FORBIDDEN" else 400, {**body, "host": "here"}, code=refused)

    one = {"task_id": pushed["task_id"]}
    status = (await ask("POST", f"{queue}/queue_status", 200, {"tag": "none"}, token=ACME))["queue_status"]
    assert (status["summary"]["unfinished_tasks"], status["tasks"]) == (1, [])
    assert (await ask("POST", f"{queue}/queue_status", 200, {}, token=OTHER))["queue_status"]["summary"]["total_tasks"] == 0
    shown = await ask("POST", f"{queue}/queue_task_status", 200, one, token=ACME, queue_position=1)
    assert shown["task"]["status"] == "pending"
    for command, body in (("queue_task_status", one), ("queue_cancel", one), ("queue_manage", {**one, "action": "pause"})):
        await ask("POST", f"{queue}/{command}", 404, body, token=OTHER, code="TASK_NOT_FOUND")
    await ask("POST", f"{queue}/queue_manage", 200, {**one, "action": "pause"}, token=ACME, action="pause")
    refused = await ask("POST", f"{queue}/queue_manage", 409, {**one, "action": "retry"}, token=ACME, code="ACTION_FAILED")
    assert refused["details"]["current_status"] == "paused"
    await ask("POST", f"{queue}/queue_cancel", 200, one, token=ACME, cancelled=True)
    await ask("POST", f"{queue}/queue_cancel", 200, one, token=ACME, cancelled=False, status="warning")
    await ask("POST", f"{queue}/queue_manage", 200, {**one, "action": "remove"}, token=ACME, task_status=None)
    await ask("POST", f"{queue}/queue_task_status", 404, one, token=ACME)


async def test_the_worker_api(table: Table) -> None:
    ask, worker = table.ask, table.worker()
    body = {"worker_id": "w1", "supported_tasks": ["draw"], "worker_type": "gpu", "max_concurrent_tasks": 2}
    register, own = "/_worker/workers/register", {"worker_id": "own", "supported_tasks": ["draw"]}
    await ask("POST", register, 200, body, token=SHARED, status="registered")
    await ask("POST", register, 400, {"supported_tasks": []}, token=SHARED)
    await ask("POST", register, 422, {**body, "max_concurrent_tasks": -1}, token=SHARED)
    await ask("POST", register, 401, body, token="wrong")
    await ask("POST", register, 403, own, token=SHARED)
    await ask("POST", register, 403, body, token=OWN)
    await ask("POST", register, 200, own, token=OWN)
    await ask("POST", register, 409, {"worker_id": "w2", "capabilities": {"cpu": ["draw"]}}, token=SHARED)
    await ask("PATCH", "/_worker/workers/w1", 200, token=SHARED, status="ttl_refreshed")
    beaten = await ask("PATCH", "/_worker/workers/w1", 200, {"load": {"gpu": 1}, "hot_cache": ["m"]}, token=SHARED)
    assert (beaten["worker_id"], beaten["load"], beaten["hot_cache"]) == ("w1", {"gpu": 1}, ["m"])
    await ask("PATCH", "/_worker/workers/w1", 422, {"load": "much"}, token=SHARED)
    await ask("PATCH", "/_worker/workers/own", 403, token=SHARED)
    await ask("PATCH", "/_worker/workers/nobody", 404, token=SHARED)
    await ask("GET", "/_worker/workers/w1/tasks/next", 204, token=SHARED)
    await ask("GET", "/_worker/workers/nobody/tasks/next", 404, token=SHARED)
    await ask("GET", "/_worker/workers/own/tasks/next", 403, token=SHARED)
    listed = await ask("GET", "/api/v1/workers", 200)
    assert {item["worker_id"] for item in listed} == {"own", "w1"}

    # One job to its end, one to quarantine and back, one that fails, one that is cancelled while it runs.
    done, bad, wrong, stopped = [await table.create("work") for _ in range(4)]
    dashboard = await ask("GET", "/api/v1/dashboard", 200)
    assert dashboard["workers"] == {"total": 2}
    answers = {
        done: {"status": "success", "data": {"x": 1}},
        bad: {"status": "failure", "error": {"code": "PERMANENT_ERROR", "message": "no"}},
        wrong: {"status": "failure", "error": {"code": "INVALID_INPUT_ERROR", "message": "no"}},
    }
    running: dict[str, Any] = {}
    for _ in range(4):
        task = await _next(table)
        running[task["job_id"]] = task
        if task["job_id"] in answers:
            status = "result_accepted_success" if task["job_id"] == done else "result_accepted_failure"
            await _report(table, task, answers[task["job_id"]], status)
    again = await _report(table, running[done], {"status": "success"}, "result_ignored")
    assert again["reason"]
    report = {**_ids(running[stopped]), "result": {"status": "success"}}
    await ask("POST", "/_worker/tasks/result", 403, {**report, "worker_id": "own"}, token=SHARED)
    await ask("POST", "/_worker/tasks/result", 403, {**report, "worker_id": "own"}, token=OWN)
    await ask("POST", "/_worker/tasks/result", 400, {"job_id": "j", "task_id": "t"}, token=SHARED)
    await ask("POST", "/_worker/tasks/result", 422, {**report, "result": "fine"}, token=SHARED)
    async with worker.socket() as socket:
        await ask("POST", f"/api/v1/jobs/{stopped}/cancel", 200, status="cancellation_request_sent")
        command = await socket.receive_json(timeout=20)
        assert (command["command"], command["type"], command["job_id"]) == ("cancel_task", "cancel_task", stopped)
        assert (await ask("GET", f"/api/v1/jobs/{stopped}", 200))["cancel_requested"] is True
    await _report(table, running[stopped], {"status": "cancelled"}, "result_accepted_cancelled")
    assert (await table.reaches(stopped, "finished"))["current_state"] == "tidied"
    assert (await table.reaches(done, "finished"))["result"] == {"x": 1}
    assert (await table.reaches(wrong, "failed"))["error_message"]
    quarantined = await table.reaches(bad, "quarantined")
    assert "no" in quarantined["error_message"]
    await _quarantine(table, bad, done)
    for job_id in (bad, wrong):
        await ask("POST", f"/api/v1/jobs/{job_id}/retry", 200, job_id=job_id)
        await _report(table, await _next(table), {"status": "success"}, "result_accepted_success")
        await table.reaches(job_id, "finished")

    assert {status for _, _, status in table.document.seen} >= {"200", "202", "204", "400", "401", "403", "404", "409", "422"}


async def _quarantine(table: Table, bad: str, done: str) -> None:
    """Everything about the job that is there, and about one that is put there, but for its way out."""
    ask, quarantined = table.ask, "/api/v1/jobs/quarantined"
    (listed_bad,) = await ask("GET", f"{quarantined}?blueprint=work&code=PERMANENT_ERROR&reason=NO&newer_than=3600&limit=1", 200)
    assert (listed_bad["id"], listed_bad["blueprint_name"], listed_bad["task"]) == (bad, "work", "draw")
    assert await ask("GET", f"{quarantined}?older_than=3600", 200) == []
    await ask("GET", f"{quarantined}?older_than=long", 422)
    assert await ask("GET", quarantined, 200, token=OTHER) == []
    assert await ask("GET", "/_public/jobs/quarantined", 200, token=None) == [bad]
    shown = await ask("GET", f"{quarantined}/{bad}", 200, code="PERMANENT_ERROR", attempts=1)
    assert (shown["last_attempt"]["params"], shown["last_attempt"]["worker_id"]) == ({"n": 1}, "w1")
    await ask("GET", f"{quarantined}/{bad}", 404, token=OTHER)
    await ask("GET", f"{quarantined}/{done}", 404)
    all_of_them = {"filter": {"code": "PERMANENT_ERROR"}, "dry_run": True}
    for order in ("retry", "discard"):
        assert (await ask("POST", f"{quarantined}/{order}", 200, all_of_them, count=1, dry_run=True))["job_ids"] == [bad]
        await ask("POST", f"{quarantined}/{order}", 200, all_of_them, token=OTHER, count=0)
        await ask("POST", f"{quarantined}/{order}", 400, {"dry_run": True})
        await ask("POST", f"{quarantined}/{order}", 422, {**all_of_them, "limit": 0})
    await ask("POST", f"/api/v1/jobs/{bad}/retry", 409, {"state": "nowhere"})
    await ask("POST", f"/api/v1/jobs/{bad}/retry", 422, {"params": {}})
    asked = await table.create("ask")
    await table.reaches(asked, "waiting_for_human")
    await ask("POST", f"/api/v1/jobs/{asked}/discard", 409)
    for order in ("quarantine", "discard"):
        await ask("POST", f"/api/v1/jobs/{asked}/{order}", 404, token=OTHER)
    await ask("POST", f"/api/v1/jobs/{asked}/quarantine", 200, {"reason": "look at it"}, status="quarantined")
    await ask("POST", f"/api/v1/jobs/{asked}/quarantine", 409)
    assert "look at it" in (await ask("GET", f"{quarantined}/{asked}", 200, code="BY_HAND"))["error_message"]
    await ask("POST", f"/api/v1/jobs/{asked}/discard", 200, {"reason": "seen"}, status="discarded")
    assert (await ask("GET", f"/api/v1/jobs/{asked}", 200))["status"] == "cancelled"


async def test_a_store_that_is_away(table: Table, redis_broker: Broker) -> None:
    redis_broker.redis.signal(signal.SIGSTOP)  # not killed: other tests of this process have connections to it
    try:
        await _says_503(table)
    finally:
        redis_broker.redis.signal(signal.SIGCONT)


async def _says_503(table: Table) -> None:
    for method, path, token in (
        ("POST", "/api/v1/jobs", ADMIN),
        ("GET", "/api/v1/jobs", ADMIN),
        ("POST", "/api/v1/queue/queue_status", ADMIN),
        ("GET", "/api/v1/workers", ADMIN),
        ("GET", "/api/v1/dashboard", ADMIN),
        ("PATCH", "/_worker/workers/w1", SHARED),
        ("GET", "/_worker/workers/w1/tasks/next", SHARED),
    ):
        body = {"blueprint": "echo"} if path == "/api/v1/jobs" and method == "POST" else {} if method == "POST" else None
        await table.ask(method, path, 503, body, token=token)
    async with table.session.get(f"{table.facade.url}/_public/ready") as response:
        assert (response.status, (await response.json())["store"]) == (503, "unavailable")
    await table.ask("GET", "/_public/status", 200, token=None)


def _ids(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"job_id": task["job_id"], "task_id": task["task_id"], "worker_id": "w1"}


async def _next(table: Table) -> Any:
    """The next task of the worker, from a poll that is answered as documented."""

    async def poll() -> Any:
        async with table.session.get(f"{table.facade.url}/_worker/workers/w1/tasks/next") as response:
            body = await response.json() if response.status == 200 else None
            table.document.check("GET", "/_worker/workers/w1/tasks/next", response.status, response.content_type, body)
            return body

    task = await eventually_async(poll, deadline=60, interval=0.01)
    assert task["type"] == "draw"
    assert task["params"] == {"n": 1}
    assert {"job_id", "task_id", "priority", "tracing_context", "attempt"} <= set(task)
    return task


async def _report(table: Table, task: Mapping[str, Any], result: Mapping[str, Any], status: str) -> Any:
    return await table.ask("POST", "/_worker/tasks/result", 200, {**_ids(task), "result": result}, token=SHARED, status=status)
