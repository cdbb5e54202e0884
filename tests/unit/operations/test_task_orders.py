"""What may be done with queue tasks, when, and why not; over the engine in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import JobStatus
from avtomatika.operations.registry import registry
from avtomatika.queue import TaskStatus
from avtomatika.queue.errors import ActionFailedError
from tests.support.queue import ACME, ADMIN, HOST, OTHER, QueueMachine, failing, running


@pytest.fixture
async def machine(tmp_path: Path) -> QueueMachine:
    machine = QueueMachine(tmp_path, lambda **params: machine.answer(**params))
    await machine.start()
    return machine


async def test_a_higher_priority_goes_first(machine: QueueMachine) -> None:
    queue = machine.queue_of(max_concurrent=1)
    for number in range(5):
        await queue.push("network_test", {"host": f"h{number}", "port": 1}, priority=number)
    steps, machine.queue[:] = [*machine.queue], []
    for message in steps:
        await machine.deliver(message)
    await machine.drive()

    # The first one went before there was another; the others by their priority.
    assert [call["host"] for call in machine.calls] == ["h0", "h4", "h3", "h2", "h1"]


async def test_the_priority_of_a_job_that_is_a_task(machine: QueueMachine) -> None:
    """`POST /api/v1/jobs` names it beside the initial data."""
    wish = {"task_type": "network_test", "params": HOST}
    by_job = await machine.service.create("operation", wish, client=ACME, priority=6)
    by_task = await machine.service.create("operation", {**wish, "priority": 7}, client=ACME)

    assert [(job.priority, job.initial_data["priority"]) for job in (by_job, by_task)] == [(6, 6), (7, 7)]


async def test_places_follow_priority_and_age(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    old = await machine.push()
    machine.now += 1
    new = await machine.push(client=OTHER)
    machine.now += 1
    urgent = await machine.push(priority=9)

    assert [await queue.get_task_position(task_id) for task_id in (urgent, old)] == [1, 2]
    assert await queue.get_task_position(new) is None  # another client's
    assert await machine.queue_of(ADMIN).get_task_position(new) == 3
    await machine.drive()
    assert await queue.get_task_position(old) is None


async def test_no_more_run_at_once_than_the_queue_lets(machine: QueueMachine) -> None:
    queue = machine.queue_of(max_concurrent=2)
    for number in range(5):
        await queue.push("network_test", {"host": f"h{number}", "port": 1})
    other = machine.queue_of(max_concurrent=1, name="other")
    await other.push("network_test", {"host": "h9", "port": 1})
    for message in [*machine.queue]:
        machine.queue.remove(message)
        await machine.deliver(message)

    assert len([message for message in machine.queue if message.headers["task"] == "network_test"]) == 3
    await machine.drive()
    assert len(machine.calls) == 6


@pytest.mark.parametrize("begin", ["pending", "waiting", "running", "paused"])
async def test_whatever_lives_can_be_cancelled(machine: QueueMachine, begin: str) -> None:
    queue = machine.queue_of()
    if begin == "running":
        task_id, record = await running(machine)
        await machine.store.task_progress(record.info.id, machine.worker_boot, 0.1, "", "uploading")
    else:
        task_id = await machine.push()
    if begin == "waiting":
        await machine.deliver(machine.queue.pop(0))
    if begin == "paused":
        await queue.pause(task_id)
        assert (await queue.find(task_id)).status is TaskStatus.PAUSED

    assert await queue.cancel_task(task_id)

    await machine.tick(60)
    await machine.drive()
    assert (await queue.find(task_id)).status is TaskStatus.CANCELLED
    assert not await queue.cancel_task(task_id)


async def test_a_waiting_task_pauses_at_once_and_goes_on_where_it_was(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    task_id = await machine.push()
    await machine.deliver(machine.queue.pop(0))  # it is dispatched: its message lies in the queue

    assert (await queue.pause(task_id)).status is TaskStatus.PAUSED
    await machine.drive()
    assert machine.calls == []
    assert (await queue.find(task_id)).status is TaskStatus.PAUSED

    assert (await queue.resume(task_id)).status is TaskStatus.PENDING
    await machine.drive()
    assert (await queue.find(task_id)).status is TaskStatus.COMPLETED
    assert len(machine.calls) == 1


async def test_one_that_waits_for_its_next_attempt_pauses_at_once(machine: QueueMachine) -> None:
    machine.answer = lambda **_: failing(kind="TRANSIENT_ERROR")
    task_id = await machine.push(max_retries=5)
    await machine.pump()
    assert (await machine.job(task_id)).status is JobStatus.AWAITING_RETRY

    assert (await machine.queue_of().pause(task_id)).status is TaskStatus.PAUSED
    await machine.drive()
    assert len(machine.calls) == 1


async def test_what_cannot_pause_while_it_runs_says_so(machine: QueueMachine) -> None:
    task_id, _ = await running(machine)

    with pytest.raises(ActionFailedError) as refused:
        await machine.queue_of().pause(task_id)

    assert refused.value.current_status == "running"
    assert refused.value.reason == "network_test cannot be paused while it runs; cancel it instead"
    assert not (await machine.job(task_id)).pause_requested


async def test_one_that_has_paused_shows_how_far_it_came(machine: QueueMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry().get("network_test").__dict__, "pausable", True)
    task_id = ""

    async def pause(**_: Any) -> Any:
        await machine.queue_of().pause(task_id)
        return {"status": "paused", "data": {"paused_at": 0.4}}

    machine.answer = pause
    task_id = await machine.push()
    await machine.drive()
    task = await machine.queue_of().find(task_id)
    assert (task.status, task.progress) == (TaskStatus.PAUSED, 40)

    machine.answer = lambda **_: {"reachable": True}
    await machine.queue_of().resume(task_id)
    await machine.drive()
    task = await machine.queue_of().find(task_id)
    assert (task.status, task.result) == (TaskStatus.COMPLETED, {"reachable": True})


async def test_a_pausable_one_is_asked_to_pause(machine: QueueMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry().get("network_test").__dict__, "pausable", True)
    task_id, _ = await running(machine)

    task = await machine.queue_of().pause(task_id)

    assert (task.status, task.current_step) == (TaskStatus.RUNNING, "it pauses as soon as it can")
    assert (await machine.queue_of().resume(task_id)).status is TaskStatus.RUNNING  # before it has paused


@pytest.mark.parametrize(
    ("status", "orders"),
    [
        (
            "completed",
            {"pause": "already completed", "resume": "not paused", "retry": "already completed", "cancel": "already completed"},
        ),
        ("failed", {"pause": "failed", "resume": "not paused", "cancel": "failed"}),
        (
            "cancelled",
            {"pause": "cancelled", "resume": "not paused", "retry": "already cancelled", "cancel": "already cancelled"},
        ),
        ("pending", {"resume": "not paused", "retry": "waiting in the queue", "remove": "not ended"}),
        ("running", {"resume": "already running", "retry": "running", "remove": "not ended"}),
    ],
)
async def test_why_an_order_is_refused(machine: QueueMachine, status: str, orders: dict[str, str]) -> None:
    queue = machine.queue_of()
    if status == "failed":
        machine.answer = lambda **_: failing()
    task_id = (await running(machine))[0] if status == "running" else await machine.push()
    if status == "cancelled":
        await queue.cancel(task_id)
    if status in ("completed", "failed"):
        await machine.drive()
    for action, reason in orders.items():
        with pytest.raises(ActionFailedError, match=reason) as refused:
            await getattr(queue, action)(task_id)
        assert (refused.value.action, refused.value.current_status) == (action, status)
        assert not await getattr(queue, f"{action}_task")(task_id)


async def test_removing_and_clearing(machine: QueueMachine) -> None:
    queue = machine.queue_of()
    done, cancelled = (await machine.ran(HOST)).id, await machine.push()
    await queue.cancel(cancelled)
    machine.answer = lambda **_: failing()
    failed, live, foreign = (await machine.ran(HOST)).id, await machine.push(), await machine.push(client=OTHER)

    assert not await queue.remove_task(live)
    assert await queue.remove_task(done)
    assert await queue.get_task(done) is None
    assert await machine.store.job_log(done) == []
    assert await queue.clear_completed() == 2
    assert [await queue.get_task(task_id) for task_id in (cancelled, failed)] == [None, None]
    assert await machine.store.in_status(JobStatus.QUARANTINED) == []
    assert [task.id for task in await queue.get_all_tasks()] == [live]
    assert await queue.remove_task(live, force=True)
    assert [task.id for task in await machine.queue_of(OTHER).get_all_tasks()] == [foreign]


async def test_what_another_job_waits_for_is_not_removed(machine: QueueMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.operations.blueprint.get_settings", lambda: machine.settings)
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("operation", {"task_type": "network_test", "params": HOST}, {"success": "end"})

    @parent.handler_for("end", is_end=True)
    async def end(state_history: dict[str, Any]) -> Any:
        return state_history

    machine.registry.register(parent)
    parent_id = await machine.create("parent")
    queue = machine.queue_of(ADMIN)
    while not await queue.get_tasks_by_status("completed"):
        await machine.deliver(machine.queue.pop(0))
    (child,) = await queue.get_all_tasks()
    with pytest.raises(ActionFailedError, match="is about to take its result"):
        await queue.remove(child.id)
    assert await queue.clear_completed() == 0

    await machine.drive()
    assert (await machine.job(parent_id)).result == {"host": "h0", "reachable": True}
    assert await queue.clear_completed() == 1
