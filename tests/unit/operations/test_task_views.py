"""A queue task as its owner sees it: its status, progress, errors and log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from avtomatika.jobs import JobStatus
from avtomatika.queue import Task, TaskErrorCode, TaskStatus, TaskType
from avtomatika.queue.commands import error_info
from tests.support.machine import Killed
from tests.support.queue import HOST, QueueMachine, failing, running

TO_DICT = {
    "id",
    "task_type",
    "status",
    "status_description",
    "command",
    "params",
    "created_at",
    "started_at",
    "completed_at",
    "progress",
    "current_step",
    "result",
    "error",
    "error_code",
    "error_details",
    "logs",
    "duration",
    "timeout_seconds",
    "retry_count",
    "max_retries",
    "can_retry",
    "priority",
    "category",
    "tags",
}


@pytest.fixture
async def machine(tmp_path: Path) -> QueueMachine:
    machine = QueueMachine(tmp_path, lambda **params: machine.answer(**params))
    await machine.start()
    return machine


async def test_a_task_from_its_beginning_to_its_end(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    task_id = await queue.add_task(
        Task(
            task_type=TaskType.NETWORK_TEST,
            params=HOST,
            priority=3,
            category="checks",
            tags=["a"],
            timeout_seconds=9,
            max_retries=1,
        )
    )

    pending = await queue.get_task(task_id)
    assert pending is not None
    assert (pending.status, pending.progress, pending.started_at) == (TaskStatus.PENDING, 0, None)
    assert pending.get_duration() is None
    await machine.drive()
    task = await queue.get_task(task_id)
    assert task is not None
    assert (task.status, task.progress) == (TaskStatus.COMPLETED, 100)
    assert (task.priority, task.category, list(task.tags)) == (3.0, "checks", ["a"])
    assert (task.timeout_seconds, task.max_retries, task.retry_count) == (9, 1, 0)
    assert task.command == "network_test host=h0 port=1"
    assert task.created_at is not None
    assert task.created_at.utcoffset() == timedelta(0)
    found = task.to_dict()
    assert set(found) == TO_DICT
    assert (found["status"], found["result"]) == ("completed", {"host": "h0", "reachable": True})
    assert found["created_at"].endswith("Z")
    assert found["logs"][0].endswith("] queued")
    assert datetime.fromisoformat(found["logs"][0][1:].partition("]")[0]).tzinfo is not None
    assert set(task.summary()) == {"id", "type", "status", "timing", "error", "retry", "result"}


async def test_what_runs_and_what_it_does(machine: QueueMachine) -> None:
    task_id, record = await running(machine)
    queue = machine.queue_of()
    task = await queue.find(task_id)
    assert (task.status, task.progress) == (TaskStatus.RUNNING, 0)
    assert task.started_at == datetime.fromtimestamp(machine.now, UTC)

    await machine.store.task_progress(record.info.id, machine.worker_boot, 0.42, "half of it", "uploading")
    task = await queue.find(task_id)
    assert (task.status, task.progress, task.current_step) == (TaskStatus.UPLOADING, 42, "half of it")
    await machine.store.task_progress(record.info.id, machine.worker_boot, 0.5, "", "no such status")
    assert (await queue.find(task_id)).status is TaskStatus.RUNNING


async def test_a_failure_has_its_code_details_and_words(machine: QueueMachine) -> None:
    machine.answer = lambda **_: failing("NETWORK_DNS_ERROR")
    task = await machine.queue_of().find((await machine.ran(HOST)).id, logs=True)

    assert (task.status, task.error, task.error_code) == (TaskStatus.FAILED, "cannot connect", "NETWORK_DNS_ERROR")
    assert task.error_details == {"port": 1}
    assert task.can_retry()
    assert any("ended: failure: cannot connect" in line for line in task.logs)


async def test_a_code_of_another_package(machine: QueueMachine) -> None:
    machine.answer = lambda **_: failing("MOON_TOO_FAR")
    task = await machine.queue_of().find((await machine.ran(HOST)).id)
    assert (task.error_code, task.status) == ("MOON_TOO_FAR", TaskStatus.FAILED)
    assert error_info("MOON_TOO_FAR") == {
        "code": "MOON_TOO_FAR",
        "description": "An error code of another package",
        "suggestions": ["Look at the task's log"],
    }
    assert (await machine.queue_of().get_queue_stats())["error_distribution"]["MOON_TOO_FAR"] == 1


async def test_a_log_is_bounded(machine: QueueMachine) -> None:
    task_id = await machine.push()
    await machine.store.append_log(task_id, [(machine.now + n, f"line {n}") for n in range(3000)], 1000)
    lines = await machine.queue_of().get_task_logs(task_id)
    assert lines is not None
    assert len(lines) == 1000
    assert lines[-1].endswith("] line 2999")


async def test_a_task_retries_by_itself_and_says_how_often(machine: QueueMachine) -> None:
    machine.answer = lambda **_: failing(kind="TRANSIENT_ERROR")
    job = await machine.ran(HOST, max_retries=2)

    task = await machine.queue_of().find(job.id)
    assert (len(machine.calls), task.retry_count, task.max_retries) == (3, 2, 2)
    assert (task.error, task.error_code) == ("cannot connect (after 3 attempts)", "NETWORK_CONNECTION_FAILED")


async def test_its_time_is_over(machine: QueueMachine) -> None:
    task_id, _ = await running(machine, timeout_seconds=5)
    machine.workers.clear()
    await machine.tick(30)
    await machine.drive()

    task = await machine.queue_of().find(task_id)
    assert (task.status, task.error_code) == (TaskStatus.TIMEOUT, TaskErrorCode.SYSTEM_TIMEOUT)
    assert task.can_retry()
    assert await machine.queue_of().clear_completed() == 1


async def test_workers_that_die_under_it(machine: QueueMachine) -> None:
    def die(**_: Any) -> Any:
        raise Killed

    machine.answer = die
    job = await machine.ran(HOST)
    assert job.status is JobStatus.QUARANTINED
    task = await machine.queue_of().find(job.id)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, TaskErrorCode.SYSTEM_PROCESS_KILLED)


async def test_a_retry_that_works_leaves_nothing_of_the_failure(machine: QueueMachine) -> None:
    machine.answer = lambda **_: failing()
    job = await machine.ran(HOST)
    machine.answer = lambda **_: {"reachable": True}
    assert await machine.queue_of().retry_task(job.id)
    await machine.drive()

    task = await machine.queue_of().find(job.id)
    assert (task.status, task.error, task.error_code, task.error_details) == (TaskStatus.COMPLETED, None, None, None)
    assert task.result == {"reachable": True}
