"""``POST /api/v1/queue/{command}``: answers, refusals and their codes, held against the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from avtomatika.api.app import create_app
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Client, JobStatus
from avtomatika.operations.hosts import split
from avtomatika.operations.registry import registry
from avtomatika.queue import (
    ErrorResult,
    QueueCancelCommand,
    QueueManageCommand,
    QueuePushCommand,
    QueueStatusCommand,
    QueueTaskStatusCommand,
    SCPClientCommand,
    SSHClientCommand,
    SuccessResult,
)
from tests.support.fetching import QueueFetcher
from tests.support.openapi import Document
from tests.support.queue import ACME, HOST, QueueMachine, failing
from tests.unit.api.conftest import TOKEN, Server

TOKENS = {"acme": "token-of-acme-0000000", "other": "token-of-other-000000", "reader": "token-of-reader-00000"}
CLIENTS = f"""
[acme]
token = "{TOKENS["acme"]}"
[other]
token = "{TOKENS["other"]}"
monthly_attempts = 2
[reader]
token = "{TOKENS["reader"]}"
role = "reader"
"""
PUSH = {"task_type": "network_test", "params": HOST}


@dataclass
class Facade:
    client: TestClient[Any, Any]
    machine: QueueMachine
    document: Document

    async def ask(self, command: str, body: Any, expect: int = 200, who: str = "acme", **headers: str) -> Any:
        path = f"/api/v1/queue/{command}"
        sent = {"X-Avtomatika-Token": TOKENS.get(who, TOKEN), **headers}
        async with self.client.post(path, json=body, headers=sent) as response:
            found = await response.json()
            assert response.status == expect, found
            self.document.check("POST", path, expect, response.content_type, found)
            if expect >= 400 and expect not in (401, 429, 503):
                assert set(found) == {"error", "code", "details"}
            return found


@pytest.fixture
async def facade(tmp_path: Path) -> AsyncIterator[Facade]:
    (tmp_path / "clients.toml").write_text(CLIENTS)
    machine = QueueMachine(
        tmp_path,
        lambda **params: machine.answer(**params),
        client_token=TOKEN,
        clients_config_path=tmp_path / "clients.toml",
        redis_url="redis://127.0.0.1:1/0",
    )
    await machine.start()
    service = machine.service
    service.make_hub = lambda *args: type(service).make_hub(service, *args, fetcher=QueueFetcher([]))  # type: ignore[method-assign]
    async with TestClient(Server(create_app(service, machine.settings))) as client:
        async with client.get("/_public/openapi.json") as response:
            document = Document(await response.json())
        yield Facade(client, machine, document)


async def test_a_task_is_pushed_looked_at_and_ended(facade: Facade) -> None:
    pushed = await facade.ask("queue_push", {**PUSH, "priority": 3, "category": "checks", "tags": ["a"]})
    assert pushed["status"] == "success"
    assert (pushed["queue_position"], pushed["note"]) == (1, None)
    assert pushed["timestamp"].endswith("Z")
    task_id = pushed["task_id"]

    await facade.machine.drive()
    shown = await facade.ask("queue_task_status", {"task_id": task_id})
    assert shown["task"]["status"] == "completed"
    assert (shown["task"]["category"], shown["task"]["tags"], shown["task"]["priority"]) == ("checks", ["a"], 3.0)
    assert shown["task_summary"]["status"]["current"] == "completed"
    assert (shown["error_info"], shown["queue_position"]) == (None, None)
    assert shown["logs"][0].endswith("queued")
    short = await facade.ask("queue_task_status", {"task_id": task_id, "include_logs": False, "detailed": False})
    assert (short["logs"], short["task_summary"]) == (None, None)

    status = (await facade.ask("queue_status", {}))["queue_status"]
    assert status["summary"]["total_tasks"] == 1
    assert {"statistics", "recent_tasks", "running_tasks", "status_descriptions"} <= set(status)
    plain = await facade.ask("queue_status", {"detailed": False, "include_logs": True, "status": "completed", "category": "none"})
    assert "status_descriptions" not in plain["queue_status"]
    assert plain["queue_status"]["all_tasks_with_logs"][0]["logs"]
    assert plain["queue_status"]["tasks"] == []


async def test_nobody_who_runs_it_is_there(facade: Facade) -> None:
    await facade.machine.end_worker("worker")
    pushed = await facade.ask("queue_push", PUSH)
    assert "no live worker offers network_test now" in pushed["note"]


async def test_orders_and_why_they_are_refused(facade: Facade) -> None:
    task_id = (await facade.ask("queue_push", PUSH))["task_id"]
    managed = await facade.ask("queue_manage", {"action": "pause", "task_id": task_id})
    assert (managed["action"], managed["task_status"]["status"]) == ("pause", "paused")
    refused = await facade.ask("queue_manage", {"action": "retry", "task_id": task_id}, 409)
    assert refused["code"] == "ACTION_FAILED"
    assert refused["details"] == {
        "action": "retry",
        "task_id": task_id,
        "current_status": "paused",
        "reason": "Task is paused",
    }
    await facade.ask("queue_manage", {"action": "resume", "task_id": task_id})
    assert (await facade.ask("queue_cancel", {"task_id": task_id}))["cancelled"] is True
    again = await facade.ask("queue_cancel", {"task_id": task_id})
    assert (again["status"], again["cancelled"]) == ("warning", False)
    await facade.ask("queue_manage", {"action": "remove", "task_id": task_id})
    await facade.ask("queue_manage", {"action": "remove", "task_id": task_id}, 404)


async def test_a_failed_task_says_what_its_error_means(facade: Facade) -> None:
    facade.machine.answer = lambda **_: failing("NETWORK_DNS_ERROR")
    task_id = (await facade.ask("queue_push", PUSH))["task_id"]
    await facade.machine.drive()

    info = (await facade.ask("queue_task_status", {"task_id": task_id}))["error_info"]
    assert info["code"] == "NETWORK_DNS_ERROR"
    assert info["description"]
    assert info["suggestions"]
    assert (await facade.ask("queue_manage", {"action": "retry", "task_id": task_id}))["task_status"]["status"] == "pending"


@pytest.mark.parametrize(
    ("command", "body", "code"),
    [
        ("queue_push", {"task_type": "network_scan", "params": {"ports": [1]}}, "VALIDATION_MISSING_REQUIRED"),
        ("queue_push", {"task_type": "network_test", "params": {**HOST, "port": 0}}, "VALIDATION_OUT_OF_RANGE"),
        ("queue_push", {**PUSH, "priority": 11}, "QUEUE_PRIORITY_INVALID"),
        ("queue_push", {**PUSH, "params": {**HOST, "password": "hunter2"}}, "VALIDATION_CONSTRAINT_VIOLATION"),
        ("queue_push", {**PUSH, "user_roles": ["root"]}, "VALIDATION_INVALID_PARAMS"),
        ("queue_push", {**PUSH, "image_name": "app"}, "VALIDATION_INVALID_PARAMS"),
        ("queue_push", {**PUSH, "webhook_url": "ftp://example.com"}, "VALIDATION_INVALID_PARAMS"),
        ("queue_push", {}, "VALIDATION_INVALID_PARAMS"),
        ("queue_cancel", {"task_id": " "}, "VALIDATION_INVALID_PARAMS"),
        ("queue_task_status", {}, "VALIDATION_MISSING_REQUIRED"),
        ("queue_manage", {"action": "explode", "task_id": "x"}, "VALIDATION_INVALID_PARAMS"),
        ("queue_status", {"limit": 0}, "VALIDATION_OUT_OF_RANGE"),
        ("scp_client", {"action": "upload", "host": "h0", "local_path": "/a"}, "VALIDATION_INVALID_PARAMS"),
        ("ssh_client", {"action": "execute", "host": "h0"}, "VALIDATION_INVALID_PARAMS"),
        ("ssh_client", {"action": "connect", "host": "h0", "password": "hunter2"}, "VALIDATION_INVALID_PARAMS"),
        ("ssh_client", {"action": "tunnel", "host": "h0", "port": 22}, "VALIDATION_INVALID_PARAMS"),
    ],
)
async def test_what_does_not_fit(facade: Facade, command: str, body: dict[str, Any], code: str) -> None:
    refused = await facade.ask(command, body, 400)
    assert (refused["code"], refused["details"]["code"]) == ("VALIDATION_ERROR", code)
    assert "hunter2" not in str(refused)


async def test_what_is_no_command_and_no_json(facade: Facade) -> None:
    async with facade.client.post("/api/v1/queue/queue_explode", json={}, headers={"X-Avtomatika-Token": TOKEN}) as response:
        found = await response.json()
        assert (response.status, found["code"]) == (404, "COMMAND_NOT_FOUND")
        assert "queue_push" in found["details"]["commands"]
    assert (await facade.ask("queue_push", [], 400))["code"] == "VALIDATION_ERROR"
    await facade.ask("queue_status", {}, 401, **{"X-Avtomatika-Token": "wrong"})


async def test_each_client_has_its_own_tasks(facade: Facade) -> None:
    task_id = (await facade.ask("queue_push", PUSH))["task_id"]

    for command in ("queue_task_status", "queue_cancel"):
        refused = await facade.ask(command, {"task_id": task_id}, 404, who="other")
        assert (refused["code"], refused["details"]) == ("TASK_NOT_FOUND", {"task_id": task_id})
    assert (await facade.ask("queue_status", {}, who="other"))["queue_status"]["summary"]["total_tasks"] == 0
    for command, body in (("queue_push", PUSH), ("queue_cancel", {"task_id": task_id})):
        assert (await facade.ask(command, body, 403, who="reader"))["code"] == "FORBIDDEN"
    assert (await facade.ask("queue_cancel", {"task_id": task_id}, who="the admin"))["cancelled"] is True


async def test_logs_are_a_right_of_their_own(facade: Facade) -> None:
    task = await facade.machine.queue_of(ACME).push("network_test", HOST)
    reader = facade.machine.queue_of(type(ACME)("acme", role="reader"))
    shown = await QueueTaskStatusCommand(reader).execute(task_id=task.id)
    assert isinstance(shown, SuccessResult)
    assert (shown.data["logs"], shown.data["task"]["logs"]) == (None, [])


async def test_the_same_key_is_the_same_task_and_the_quota_counts_tasks(facade: Facade) -> None:
    key = {"Idempotency-Key": "one"}
    first = await facade.ask("queue_push", PUSH, who="other", **key)
    assert (await facade.ask("queue_push", PUSH, who="other", **key))["task_id"] == first["task_id"]
    refused = await facade.ask("queue_push", {**PUSH, "priority": 1}, 409, who="other", **key)
    assert (refused["code"], refused["details"]["code"]) == ("ACTION_FAILED", "QUEUE_TASK_DUPLICATE")
    await facade.ask("queue_push", {"task_type": "network_test"}, 400, who="other")
    await facade.ask("queue_push", PUSH, who="other")
    await facade.ask("queue_push", PUSH, 429, who="other")


async def test_a_store_that_is_away_is_503_and_a_fault_500(facade: Facade, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr(facade.machine.store, "listed", fails)
    fault: Exception = StoreUnavailableError("away")
    await facade.ask("queue_status", {}, 503)
    said = await QueueStatusCommand(facade.machine.queue_of()).execute()
    assert isinstance(said, ErrorResult)
    assert (said.code, said.details) == ("QUEUE_STATUS_ERROR", {"transient": True})
    fault = RuntimeError("oh")
    assert (await facade.ask("queue_status", {}, 500))["code"] == "QUEUE_STATUS_ERROR"
    said = await QueueStatusCommand(facade.machine.queue_of()).execute()
    assert isinstance(said, ErrorResult)
    assert said.message == "queue_status failed: RuntimeError"


@pytest.mark.parametrize(
    ("kind", "name", "other"),
    [
        (QueuePushCommand, "queue_push", "QUEUE_ERROR"),
        (QueueStatusCommand, "queue_status", "QUEUE_STATUS_ERROR"),
        (QueueCancelCommand, "queue_cancel", "CANCEL_ERROR"),
        (QueueTaskStatusCommand, "queue_task_status", "TASK_STATUS_ERROR"),
        (QueueManageCommand, "queue_manage", "MANAGEMENT_ERROR"),
        (SCPClientCommand, "scp_client", "QUEUE_ERROR"),
        (SSHClientCommand, "ssh_client", "QUEUE_ERROR"),
    ],
)
async def test_a_command_has_a_name_and_a_schema(kind: Any, name: str, other: str) -> None:
    command = kind()
    assert (command.name, command.other_error) == (name, other)
    assert command.schema["additionalProperties"] is False
    refused = await command.execute(strange=1)
    assert isinstance(refused, ErrorResult)
    assert refused.to_dict()["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    ("kind", "body", "task_type", "params"),
    [
        (SCPClientCommand, {"action": "upload", "host": "b", "local_path": "/l", "remote_path": "/r", "port": 22,
                            "preserve_attributes": True, "recursive": False, "username": "me"}, "scp_upload",
         {"host": "b", "source_path": "/l", "destination_path": "/r", "port": 22, "preserve": True, "recursive": False,
          "username": "me"}),
        (SCPClientCommand, {"action": "download", "host": "b", "local_path": "/l", "remote_path": "/r"}, "scp_download",
         {"host": "b", "source_path": "/r", "destination_path": "/l"}),
        (SCPClientCommand, {"action": "sync", "host": "b", "local_path": "/l", "remote_path": "/r", "direction": "down",
                            "options": {"delete": True}}, "scp_sync",
         {"host": "b", "source_path": "/r", "destination_path": "/l", "direction": "down", "delete": True}),
        (SCPClientCommand, {"action": "list", "host": "b", "remote_path": "/r"}, "scp_list", {"host": "b", "path": "/r"}),
        (SSHClientCommand, {"action": "execute", "group": "gpu", "serial": "30%", "command": "uptime", "credential": "deploy"},
         "ssh_execute", {"group": "gpu", "serial": "30%", "command": "uptime", "credential": "deploy"}),
        (SSHClientCommand, {"action": "connect", "host": "b"}, "ssh_execute", {"host": "b", "command": ["true"]}),
        (SSHClientCommand, {"action": "tunnel", "host": "b", "options": {"kind": "local", "target_port": 80}}, "ssh_tunnel",
         {"host": "b", "kind": "local", "target_port": 80}),
        (QueuePushCommand, {"image_name": "app", "tag": "1", "quiet": True}, "docker_push",
         {"image_name": "app", "tag": "1", "quiet": True}),
    ],
)  # fmt: skip
async def test_what_the_clients_commands_make(kind: Any, body: dict[str, Any], task_type: str, params: dict[str, Any]) -> None:
    asked: dict[str, Any] = {}

    class Asked:
        async def push(self, task_type: str, params: Any, **options: Any) -> Any:
            asked.update(task_type=task_type, params=params, options=options)
            return type("Added", (), {"id": "t", "command": "c"})

        async def get_place(self, task_id: str) -> int:
            return 1

        async def note_for(self, task_type: str) -> None:
            return None

    if "scp_client" in kind.name or "ssh_client" in kind.name:
        body["timeout"] = 90
    done = await kind(Asked()).execute(**body, priority=2)
    assert isinstance(done, SuccessResult), done
    assert (asked["task_type"], asked["options"]["priority"]) == (task_type, 2)
    assert {"status", "message", "task_id", "queue_position", "timestamp", "note"} <= set(done.data)
    if task_type in registry():  # what is made fits the operation
        own, about = split(registry().get(task_type), asked["params"])
        if task_type != "ssh_tunnel":
            registry().get(task_type).parse({**own, **({"host": "b"} if about else {})})
    if task_type == "ssh_execute" and task_type in registry():
        assert (asked["params"].pop("timeout"), asked["options"]["timeout_seconds"]) == (90, 150)
    elif "timeout" in body:
        assert asked["options"]["timeout_seconds"] == 90
    assert asked["params"] == params


@pytest.mark.parametrize("order", ["cancel", "pause", "resume", "retry", "discard", "quarantine"])
async def test_orders_on_its_job_ask_the_policy_as_well(facade: Facade, order: str) -> None:
    """The reader's role may only look; what it may not do by `queue_manage`, it may not do by another path."""
    job = await facade.machine.service.create("operation", PUSH, client=Client("reader"))
    path = f"/api/v1/jobs/{job.id}/{order}"
    async with facade.client.post(path, headers={"X-Avtomatika-Token": TOKENS["reader"]}) as response:
        found = await response.json()
        assert response.status == 403, found
        facade.document.check("POST", path, 403, response.content_type, found)
    assert "queue of [policy.reader]" in found["error"]
    assert (await facade.machine.job(job.id)).status is job.status


async def test_many_in_quarantine_too(facade: Facade) -> None:
    service = facade.machine.service
    job = await service.create("operation", PUSH, client=Client("reader"))
    await service.orders.quarantine(job.id)
    for order in ("retry", "discard"):
        path, sent = f"/api/v1/jobs/quarantined/{order}", {"X-Avtomatika-Token": TOKENS["reader"]}
        async with facade.client.post(path, json={"filter": {}}, headers=sent) as response:
            found = await response.json()
            assert response.status == 200, found
        assert (found["count"], [row["job_id"] for row in found["refused"]]) == (0, [job.id])
    assert (await facade.machine.job(job.id)).status is JobStatus.QUARANTINED


async def test_a_queue_task_is_tried_again_as_it_was_admitted(facade: Facade) -> None:
    service = facade.machine.service
    job = await service.create("operation", PUSH, client=ACME)
    await service.orders.quarantine(job.id)
    sent = {"X-Avtomatika-Token": TOKENS["acme"]}
    for body in ({"initial_data": {"params": {"host": "forbidden"}}}, {"state_history": {"task": {}}}, {"state": "completed"}):
        async with facade.client.post(f"/api/v1/jobs/{job.id}/retry", json=body, headers=sent) as response:
            assert (response.status, "push another one" in (await response.json())["error"]) == (409, True)
    async with facade.client.post(f"/api/v1/jobs/{job.id}/retry", headers=sent) as response:
        assert response.status == 200
    await facade.machine.drive()
    assert (await facade.machine.job(job.id)).status is JobStatus.FINISHED
