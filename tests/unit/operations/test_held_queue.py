"""The queue as a whole is held and let go: what has not begun waits, whoever made it, and whatever happens at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.draft import new_job, new_job_commit
from avtomatika.queue import TaskStatus, ordering
from avtomatika.state.base import Commit, Hold
from tests.support.queue import ACME, ADMIN, HOST, OTHER, QueueMachine, running

WISH = {"task_type": "network_test", "params": HOST}


@pytest.fixture
async def machine(tmp_path: Path) -> QueueMachine:
    machine = QueueMachine(tmp_path)
    await machine.start()
    return machine


def before_the_next_commit(machine: QueueMachine, act: Callable[[], Awaitable[Any]]) -> None:
    commit = machine.store.commit

    async def late(change: Commit) -> Any:
        machine.store.commit = commit  # type: ignore[method-assign]
        await act()
        return await commit(change)

    machine.store.commit = late  # type: ignore[method-assign]


async def goes_on_when_let_go(machine: QueueMachine, task_id: str) -> None:
    """It is held until the queue is resumed, and then runs to its end."""
    queue = machine.queue_of(ADMIN)
    assert machine.calls == []
    assert (await queue.find(task_id)).status is TaskStatus.PAUSED
    assert await queue.resume_queue() == 1
    await machine.drive()
    assert (await queue.find(task_id)).status is TaskStatus.COMPLETED


async def test_the_queue_holds_what_has_not_begun_and_lets_it_go(machine: QueueMachine) -> None:
    queue = machine.queue_of(ADMIN)
    begun, _ = await running(machine)
    waiting, own = await machine.push(), await machine.push()
    await machine.queue_of().pause(own)

    assert await queue.pause_queue() == 1
    new = await machine.push()
    assert (
        await machine.service.create("operation", {"task_type": "network_test", "params": HOST}, client=OTHER)
    ).status == "paused"
    await machine.pump()
    assert machine.calls == []
    found = {task.id: task.status for task in await queue.get_all_tasks() if task.client != "other"}
    assert found == {
        begun: TaskStatus.RUNNING,
        waiting: TaskStatus.PAUSED,
        own: TaskStatus.PAUSED,
        new: TaskStatus.PAUSED,
    }
    assert (await queue.get_queue_stats())["summary"]["paused"] is True

    assert await queue.resume_queue(max_concurrent=4) == 3
    assert queue.max_concurrent == 4
    await machine.drive()
    assert (await queue.find(own)).status is TaskStatus.PAUSED  # whoever paused it lets it go on
    assert (await queue.find(new)).status is TaskStatus.COMPLETED
    assert (await queue.get_queue_stats())["summary"]["paused"] is False


async def test_a_task_is_pushed_while_the_queue_is_held(machine: QueueMachine) -> None:
    """The order has looked for its tasks just before this one is stored."""
    before_the_next_commit(machine, machine.queue_of(ADMIN).pause_queue)
    pushed = await machine.push()
    await machine.drive()

    await goes_on_when_let_go(machine, pushed)


async def test_a_task_is_pushed_while_the_queue_is_let_go(machine: QueueMachine) -> None:
    queue = machine.queue_of(ADMIN)
    await queue.pause_queue()
    before_the_next_commit(machine, queue.resume_queue)
    pushed = await machine.push()
    await machine.drive()

    assert (await queue.find(pushed)).status is TaskStatus.COMPLETED


async def test_a_task_is_pushed_while_another_holds_the_queue_anew(machine: QueueMachine) -> None:
    queue = machine.queue_of(ADMIN)
    await queue.pause_queue()

    async def anew() -> None:
        machine.now += 5
        await queue.pause_queue()

    before_the_next_commit(machine, anew)
    pushed = await machine.push()
    await machine.drive()

    await goes_on_when_let_go(machine, pushed)


async def test_whoever_pushes_dies_once_the_task_is_stored(machine: QueueMachine) -> None:
    """It has seen no hold; the order has seen no task."""
    blueprint = machine.registry.get("operation")
    job = new_job(
        blueprint, machine.settings, machine.now, initial_data=blueprint.admit(WISH, ACME, machine.settings), client=ACME
    )
    await machine.queue_of(ADMIN).pause_queue()
    await machine.store.commit(new_job_commit(job, machine.engine.compiler, machine.now))
    await machine.drive()

    await goes_on_when_let_go(machine, job.id)


async def test_a_task_of_another_blueprint_waits_as_well(machine: QueueMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.operations.blueprint.get_settings", lambda: machine.settings)
    parent = Blueprint("parent")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.run_blueprint("operation", WISH, {"success": "end"})

    @parent.handler_for("end", is_end=True)
    async def end(state_history: dict[str, Any]) -> Any:
        return state_history

    machine.registry.register(parent)
    await machine.queue_of(ADMIN).pause_queue()
    parent_id = (await machine.service.create("parent", {}, client=ACME)).id
    await machine.drive()

    (child,) = await machine.queue_of(ADMIN).get_all_tasks()
    await goes_on_when_let_go(machine, child.id)
    assert (await machine.job(parent_id)).status == "finished"


@pytest.mark.parametrize("again", [False, True])
async def test_the_queue_is_let_go_while_a_task_is_being_held(machine: QueueMachine, again: bool) -> None:
    """The orchestrator has seen the hold, and the order to go on has found none that is paused. `again`: it is held anew."""
    queue = machine.queue_of(ADMIN)
    before_the_next_commit(machine, queue.pause_queue)
    pushed = await machine.push()

    async def let_go() -> None:
        assert await queue.resume_queue() == 0
        machine.now += 5
        if again:
            await machine.store.hold("operation", Hold(machine.now, "another"))

    before_the_next_commit(machine, let_go)
    await machine.drive()

    if again:
        await goes_on_when_let_go(machine, pushed)
    else:
        assert (await queue.find(pushed)).status is TaskStatus.COMPLETED


async def test_one_that_is_resumed_by_itself_runs_though_the_queue_is_held(machine: QueueMachine) -> None:
    await machine.queue_of(ADMIN).pause_queue()
    one, other = await machine.push(), await machine.push()
    await machine.queue_of().resume(one)
    await machine.drive()

    assert (await machine.queue_of().find(one)).status is TaskStatus.COMPLETED
    assert (await machine.queue_of().find(other)).status is TaskStatus.PAUSED


@pytest.mark.parametrize("order", ["pause_queue", "resume_queue"])
async def test_no_task_is_missed_that_moves_while_the_order_goes_through_them(
    machine: QueueMachine, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More urgent ones come meanwhile, and others end."""
    monkeypatch.setattr(ordering, "PAGE", 3)
    queue = machine.queue_of(ADMIN)
    if order == "resume_queue":
        await queue.pause_queue()
    pushed = [await machine.push(priority=n % 5) for n in range(12)]
    load_many = machine.store.load_many

    async def meanwhile(ids: Any) -> Any:
        for _ in range(2):
            await machine.push(priority=9)
        await queue.cancel(pushed.pop())
        return await load_many(ids)

    machine.store.load_many = meanwhile  # type: ignore[method-assign]
    await getattr(queue, order)()
    machine.store.load_many = load_many  # type: ignore[method-assign]
    await machine.drive()

    wanted = TaskStatus.PAUSED if order == "pause_queue" else TaskStatus.COMPLETED
    assert {(await queue.find(task_id)).status for task_id in pushed} == {wanted}
    assert len(machine.calls) == (0 if order == "pause_queue" else len(pushed) + 8)
