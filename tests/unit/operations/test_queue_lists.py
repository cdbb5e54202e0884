"""Lists of queue tasks, the queue in numbers, and who may see and do what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.queue import TaskErrorCode, TaskStatus, TaskType
from avtomatika.queue.errors import UnknownTaskError
from tests.support.queue import ACME, ADMIN, HOST, NOBODY, OTHER, READER, QueueMachine, failing


@pytest.fixture
async def machine(tmp_path: Path) -> QueueMachine:
    machine = QueueMachine(tmp_path, lambda **params: machine.answer(**params))
    await machine.start()
    return machine


async def test_lists_and_filters(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    first = (await machine.ran(HOST, category="checks", tags=("a", "b"))).id
    await machine.tick(1)
    second = await machine.push(tags=("b",))
    await machine.push(client=OTHER, tags=("b",))

    async def ids(found: Any) -> list[str]:
        return [task.id for task in await found]

    assert await ids(queue.get_all_tasks()) == [second, first]
    assert await ids(queue.get_tasks_by_status("completed")) == [first]
    assert await ids(queue.get_tasks_by_status(TaskStatus.PENDING)) == [second]
    assert await ids(queue.get_tasks_by_type(TaskType.NETWORK_TEST)) == [second, first]
    assert await ids(queue.get_tasks_by_type("scp_upload")) == []
    assert await ids(queue.get_tasks_by_category("checks")) == [first]
    assert await ids(queue.get_tasks_by_tag("b")) == [second, first]
    assert await ids(queue.get_tasks(tag="b", limit=1)) == [second]
    assert len(await ids(machine.queue_of(ADMIN).get_all_tasks())) == 3
    assert await queue.get_task("nothing") is None
    assert await queue.get_task_summary("nothing") is None
    assert await queue.get_task_logs("nothing") is None
    assert (await queue.get_task_logs(first) or [""])[0].endswith("queued")


async def test_the_queue_in_numbers(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    await machine.ran(HOST)
    machine.answer = lambda **_: failing("NETWORK_DNS_ERROR")
    await machine.ran(HOST)
    await machine.push()

    found = await queue.get_queue_status()

    stats = found["statistics"]
    assert {name: found[name] for name in stats} == stats
    assert stats["summary"] == {
        "total_tasks": 3,
        "unfinished_tasks": 1,
        "counted_tasks": 3,
        "max_concurrent": None,
        "current_running": 0,
        "queue_size": 1,
        "paused": False,
    }
    assert (stats["status_distribution"]["completed"], stats["status_distribution"]["failed"]) == (1, 1)
    assert set(stats["status_distribution"]) == {status.value for status in TaskStatus}
    assert stats["type_distribution"]["network_test"] == 3
    assert stats["error_distribution"]["NETWORK_DNS_ERROR"] == 1
    assert set(stats["error_distribution"]) == {code.value for code in TaskErrorCode}
    assert (stats["performance"]["completed_tasks"], stats["performance"]["success_rate"]) == (1, 33.33)
    assert set(stats["retry_statistics"]) == {"total_retries", "tasks_with_retries", "max_retries_reached"}
    assert len(found["recent_tasks"]) == 3
    assert found["running_tasks"] == []
    assert await queue.get_queue_stats() == stats


@pytest.mark.parametrize("client", [OTHER, READER])
async def test_another_clients_task_is_not_there(machine: QueueMachine, client: Any) -> None:
    task_id = await machine.push()

    with pytest.raises(UnknownTaskError):
        await machine.queue_of(client).find(task_id)
    assert await machine.queue_of(client).get_all_tasks() == []
    if client is OTHER:
        assert not await machine.queue_of(client).cancel_task(task_id)
    assert await machine.queue_of(ADMIN).cancel_task(task_id)


async def test_a_role_may_do_what_its_policy_says(machine: QueueMachine) -> None:
    queue = machine.queue_of(READER)
    assert (await queue.get_queue_stats())["summary"]["total_tasks"] == 0
    orders: list[Callable[[], Any]] = [
        lambda: queue.push("network_test", HOST),
        lambda: queue.cancel("x"),
        lambda: queue.retry("x"),
        lambda: queue.get_task_logs("x"),
        queue.clear_completed,
        queue.pause_queue,
        lambda: machine.service.create("operation", {"task_type": "network_test", "params": HOST}, client=READER),
    ]
    for order in orders:
        with pytest.raises(PolicyError, match=r"on the queue for the role 'reader': name it in queue of \[policy.reader\]"):
            await order()
    with pytest.raises(PolicyError, match="only an admin"):
        await machine.queue_of(ACME).pause_queue()


async def test_a_client_without_a_policy(machine: QueueMachine) -> None:
    with pytest.raises(PolicyError, match=r"add \[policy.nobody\] to OPERATIONS_CONFIG_PATH"):
        await machine.queue_of(NOBODY).get_queue_stats()
    admin = type(ADMIN)("root", role="nobody", admin=True)
    task_id = await machine.push()
    assert (await machine.queue_of(admin).find(task_id)).status is TaskStatus.PENDING
    assert await machine.queue_of(admin).cancel_task(task_id)
    with pytest.raises(PolicyError):
        await machine.queue_of(admin).push("network_test", HOST)


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({"task_type": "network_tset"}, "VALIDATION_INVALID_PARAMS"),
        ({"task_type": "network_scan", "params": {"ports": [1]}}, "VALIDATION_MISSING_REQUIRED"),
        ({"params": {**HOST, "password": "hunter2"}}, "VALIDATION_CONSTRAINT_VIOLATION"),
        ({"priority": 11}, "QUEUE_PRIORITY_INVALID"),
        ({"priority": float("nan")}, "QUEUE_PRIORITY_INVALID"),
        ({"timeout_seconds": 0}, "VALIDATION_OUT_OF_RANGE"),
        ({"max_retries": -1}, "VALIDATION_OUT_OF_RANGE"),
    ],
)
async def test_a_task_is_checked_before_it_is_stored(machine: QueueMachine, task: dict[str, Any], code: str) -> None:
    given = {"task_type": "network_test", "params": HOST, **task}
    with pytest.raises(OperationError) as refused:
        await machine.queue_of().push(**given)
    assert refused.value.code == code or isinstance(refused.value, PolicyError)
    assert "hunter2" not in str(refused.value)
    assert await machine.store.list_jobs() == []
