"""The queue as a whole is held and let go: what has not begun waits, whoever made it, and whatever happens at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.draft import new_job, new_job_commit
from avtomatika.jobs import Result, TaskInfo
from avtomatika.queue import TaskStatus, ordering
from avtomatika.state.base import Commit, Hold
from tests.support.queue import ACME, ADMIN, HOST, OTHER, QueueMachine, before_the_next_commit, failing, ok, running

WISH = {"task_type": "network_test", "params": HOST}


@pytest.fixture
async def machine(tmp_path: Path) -> QueueMachine:
    machine = QueueMachine(tmp_path, lambda **params: machine.answer(**params))
    await machine.start()
    return machine


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


async def test_one_that_somebody_resumes_or_tries_again_goes_on_with_the_queue(machine: QueueMachine) -> None:
    machine.answer = lambda **_: failing()
    failed = (await machine.ran(HOST)).id
    machine.answer = ok
    machine.calls.clear()
    queue = machine.queue_of(ADMIN)
    own = await machine.push()
    await queue.pause(own)
    await queue.pause_queue()
    held = await machine.push()

    for order, task_id in ((queue.retry, failed), (queue.resume, own), (queue.resume, held)):
        assert (await order(task_id)).status is TaskStatus.PAUSED
    await machine.drive()
    assert machine.calls == []

    assert await queue.resume_queue() == 3
    await machine.drive()
    assert {(await queue.find(task_id)).status for task_id in (failed, own, held)} == {TaskStatus.COMPLETED}


@pytest.mark.parametrize("order", ["retry", "resume"])
@pytest.mark.parametrize("then", ["pause_queue", "resume_queue"])
async def test_one_is_let_go_while_the_queue_is_held_or_let_go(machine: QueueMachine, order: str, then: str) -> None:
    machine.answer = (lambda **_: failing()) if order == "retry" else ok
    queue = machine.queue_of(ADMIN)
    task_id = (await machine.ran(HOST)).id if order == "retry" else await machine.push()
    if order == "resume":
        await queue.pause(task_id)
    machine.answer = ok
    machine.calls.clear()
    if then == "resume_queue":
        await queue.pause_queue()

    before_the_next_commit(machine, getattr(queue, then))
    await getattr(queue, order)(task_id)
    await machine.drive()

    if then == "pause_queue":
        await goes_on_when_let_go(machine, task_id)
    else:
        assert (await queue.find(task_id)).status is TaskStatus.COMPLETED


@pytest.mark.parametrize("first", ["pause_queue", "resume_queue"])
async def test_of_two_orders_the_later_one_counts_for_all_tasks(machine: QueueMachine, first: str) -> None:
    """The first one is in the middle of them."""
    queue, other = machine.queue_of(ADMIN), machine.queue_of(ADMIN)
    then = "resume_queue" if first == "pause_queue" else "pause_queue"
    if first == "resume_queue":
        await queue.pause_queue()
    pushed = [await machine.push() for _ in range(5)]
    commits = 0
    commit = machine.store.commit

    async def counted(change: Commit) -> Any:
        nonlocal commits
        commits += 1
        if commits == 3:
            machine.now += 1
            await getattr(other, then)()
        return await commit(change)

    machine.store.commit = counted  # type: ignore[method-assign]
    assert await getattr(queue, first)() == 2
    machine.store.commit = commit  # type: ignore[method-assign]
    await machine.drive()

    wanted = TaskStatus.PAUSED if first == "resume_queue" else TaskStatus.COMPLETED
    assert {(await queue.find(task_id)).status for task_id in pushed} == {wanted}
    assert len(machine.calls) == (0 if first == "resume_queue" else 5)


async def test_what_begins_while_the_queue_is_held_runs_to_its_end(machine: QueueMachine) -> None:
    """The order has seen that nobody had begun it."""
    task_id = await machine.push()
    await machine.deliver(machine.queue.pop(0))
    info = (await machine.job(task_id)).waiting
    assert isinstance(info, TaskInfo)
    machine.queue.clear()
    load_many = machine.store.load_many

    async def meanwhile(ids: Any) -> Any:
        found = await load_many(ids)
        before_the_next_commit(machine, lambda: machine.claim(info.id))
        return found

    machine.store.load_many = meanwhile  # type: ignore[method-assign]
    assert await machine.queue_of(ADMIN).pause_queue() == 0
    machine.store.load_many = load_many  # type: ignore[method-assign]

    assert not (await machine.job(task_id)).pause_requested
    resume = machine.compiler.resume(task_id, info.id)
    await machine.report(info.id, machine.worker_boot, Result.success({}), resume)
    await machine.drive()
    assert (await machine.queue_of(ADMIN).find(task_id)).status is TaskStatus.COMPLETED


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
