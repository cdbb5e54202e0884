"""`QueueManager`: a method for each type of task."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.hosts import split
from avtomatika.operations.registry import registry
from avtomatika.queue import QueueManager, Task, TaskQueue, TaskType, queue_manager
from tests.support.queue import ACME, HOST, QueueMachine


@pytest.fixture
async def machine(tmp_path: Path) -> QueueMachine:
    machine = QueueMachine(tmp_path, lambda **params: machine.answer(**params))
    await machine.start()
    return machine


async def test_every_type_has_its_method(machine: QueueMachine) -> None:
    for task_type in TaskType:
        assert inspect.iscoroutinefunction(getattr(queue_manager, f"add_{task_type}_task")), task_type
        assert f"add_{task_type}_task" in dir(queue_manager)
    with pytest.raises(AttributeError):
        queue_manager.add_moon_task  # noqa: B018
    assert list(inspect.signature(queue_manager.add_network_test_task).parameters)[:2] == ["host", "port"]
    assert inspect.getdoc(queue_manager.add_network_test_task) == registry().get("network_test").summary
    for name, parameters in {
        "add_scp_upload_task": ["source_path", "destination_path", "host", "username", "options"],
        "add_scp_download_task": ["source_path", "destination_path", "host", "username", "options"],
        "add_ssh_execute_task": ["command", "host", "username", "options"],
        "add_push_task": ["image_name", "tag", "options"],
        "add_build_task": ["dockerfile_path", "tag", "context_path", "options"],
        "add_pull_task": ["image_name", "tag", "options"],
        "add_ollama_pull_task": ["model_name", "options"],
        "add_ollama_run_task": ["model_name", "prompt", "max_tokens", "temperature", "options"],
    }.items():
        assert list(inspect.signature(getattr(queue_manager, name)).parameters) == parameters


async def test_the_manager_adds_tasks(machine: QueueMachine) -> None:
    manager = QueueManager(machine.service, ACME)
    one = await manager.add_network_test_task(host="h0", port=1, priority=2, tags=["mine"])
    two = await manager.add_generic_task("network_test", HOST)

    status = await manager.get_task_status(one)
    assert status is not None
    assert (status["category"], status["tags"], status["priority"]) == ("network", ["mine"], 2.0)
    assert ((await manager.get_task_status(two)) or {})["category"] == "general"
    assert await manager.get_task_status("nothing") is None
    await machine.drive()
    assert await manager.clear_completed_tasks() == 2


@pytest.mark.parametrize(
    ("call", "task_type", "params"),
    [
        (
            lambda m: m.add_scp_upload_task("/a", "/b", "box", "me"),
            "scp_upload",
            {"source_path": "/a", "destination_path": "/b", "host": "box", "username": "me"},
        ),
        (
            lambda m: m.add_ssh_execute_task(["ls"], group="gpu", forks=2),
            "ssh_execute",
            {"command": ["ls"], "group": "gpu", "forks": 2},
        ),
        (lambda m: m.add_push_task("app"), "docker_push", {"image_name": "app", "tag": "latest"}),
        (
            lambda m: m.add_build_task(tag="r.example:5000/app:1"),
            "docker_build",
            {"dockerfile": "Dockerfile", "context_path": ".", "image_name": "r.example:5000/app", "tag": "1"},
        ),
        (
            lambda m: m.add_build_task(tag="r.example:5000/app"),
            "docker_build",
            {"dockerfile": "Dockerfile", "context_path": ".", "image_name": "r.example:5000/app"},
        ),
        (
            lambda m: m.add_ollama_run_task("m", "hi"),
            "ollama_run",
            {"model_name": "m", "prompt": "hi", "max_tokens": 1000, "temperature": 0.7},
        ),
        (lambda m: m.add_vast_search_task(gpu_name="A100"), "vast_search", {"gpu_name": "A100"}),
    ],
)
async def test_what_the_documented_methods_make(call: Callable[[Any], Any], task_type: str, params: dict[str, Any]) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Asked(QueueManager):
        async def push(self, task_type: Any, params: Any, **_: Any) -> Task:
            asked.append((str(task_type), params))
            return Task(id="t", task_type=task_type)

    assert await call(Asked()) == "t"
    assert asked == [(task_type, params)]
    if task_type in registry():  # what is made fits the operation
        own, about = split(registry().get(task_type), params)
        registry().get(task_type).parse({**own, **({"host": "b"} if about else {})})


def test_importing_it_loads_no_broker(tmp_path: Path) -> None:
    code = "import sys, avtomatika.queue; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(done.stdout.split()) & {"celery", "redis", "kombu", "aiohttp", "pydantic"}


async def test_it_is_one_view_for_many_at_once(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    ids = await asyncio.gather(*(machine.push() for _ in range(20)))
    await machine.drive()
    assert {task.id for task in await queue.get_tasks_by_status("completed")} == set(ids)
    assert isinstance(queue, TaskQueue)
