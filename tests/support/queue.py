"""A queue without processes: the engine in memory, with an operations.toml, and workers that answer as a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from avtomatika.engine.service import Service
from avtomatika.jobs import Client, Job
from avtomatika.operations.blueprint import operation
from avtomatika.queue.taskqueue import TaskQueue
from avtomatika.state.base import Commit, TaskRecord
from tests.support.machine import Machine

_INVENTORY = "\n".join(
    f'[hosts.h{number}]\naddress = "127.0.0.1"\ngroups = ["all", "{("even", "odd")[number % 2]}"]' for number in range(10)
)
CONFIG = f"""
{_INVENTORY}
[hosts.forbidden]
address = "10.0.0.1"
groups = ["mixed"]

[policy.default]
operations = ["network_*"]
hosts = ["@all"]

[policy.reader]
operations = ["network_*"]
hosts = ["@all"]
queue = ["status"]
"""
HOST = {"host": "h0", "port": 1}
ADMIN = Client("default", admin=True)
ACME = Client("acme")
OTHER = Client("other")
READER = Client("reader", role="reader")
NOBODY = Client("nobody", role="nobody")


def ok(**params: Any) -> dict[str, Any]:
    return {"host": params["host"], "reachable": True}


def failing(code: str = "NETWORK_CONNECTION_FAILED", kind: str = "PERMANENT_ERROR") -> dict[str, Any]:
    """What a worker reports of an operation that failed."""
    data = {"error_code": code, "error_details": {"port": 1}}
    return {"status": "failure", "error": {"code": kind, "message": "cannot connect"}, "data": data}


class QueueMachine(Machine):
    """
    Attributes:
        calls: the params of every attempt that ran, in their order.
        answer: what a worker reports; by default that all is well.
    """

    def __init__(self, directory: Path, run: Callable[..., Any] = ok, **options: Any) -> None:
        path = directory / "operations.toml"
        path.write_text(CONFIG)
        self.calls: list[dict[str, Any]] = []
        self.answer: Callable[..., Any] = ok

        def network_test(**params: Any) -> Any:
            self.calls.append(params)
            return run(**params)

        super().__init__(workers={"network_test": network_test}, operations_config_path=path, **options)
        self.registry.register(operation)

    @property
    def service(self) -> Service:
        """The facade's service on this engine."""
        return Service(self.engine)

    def queue_of(self, client: Client = ACME, **options: Any) -> TaskQueue:
        return TaskQueue(self.service, client, **options)

    async def push(self, params: dict[str, Any] | None = None, client: Client = ACME, **options: Any) -> str:
        """A task, whose messages wait until somebody delivers them; its id."""
        task = await self.queue_of(client).push("network_test", {"port": 1, **(params or {"host": "h0"})}, **options)
        return task.id

    async def ran(self, params: dict[str, Any], **options: Any) -> Job:
        task_id = await self.push(params, **options)
        await self.drive()
        return await self.job(task_id)


async def running(machine: QueueMachine, **options: Any) -> tuple[str, TaskRecord]:
    """A task whose attempt a worker has claimed, and does not end."""
    task_id = await machine.push(**options)
    await machine.deliver(machine.queue.pop(0))
    machine.queue.clear()
    attempt = (await machine.job(task_id)).waiting.id  # type: ignore[union-attr]
    assert await machine.claim(attempt)
    record = await machine.store.get_task(attempt)
    assert record is not None
    return task_id, record


def before_the_next_commit(machine: Any, act: Callable[[], Awaitable[Any]]) -> None:
    """Something happens just before the next change of a job is stored."""
    commit = machine.store.commit

    async def late(change: Commit) -> Any:
        machine.store.commit = commit
        await act()
        return await commit(change)

    machine.store.commit = late
