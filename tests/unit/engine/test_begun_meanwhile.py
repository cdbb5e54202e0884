"""A worker begins an attempt while an order takes it back: the order has seen that nobody had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.orders import Orders
from avtomatika.jobs import FanOut, JobStatus, Result, TaskInfo
from avtomatika.queue import TaskStatus
from tests.support.machine import Machine, ended
from tests.support.queue import QueueMachine, before_the_next_commit


async def test_a_cancel_waits_for_it_and_for_its_clean_up() -> None:
    blueprint = Blueprint("work")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "end", "cancelled": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    machine = await Machine(blueprint, workers={"work": dict}).start()
    job_id = await machine.create("work")
    await machine.deliver(machine.queue.pop(0))
    info = (await machine.job(job_id)).waiting
    assert isinstance(info, TaskInfo)
    machine.queue.clear()

    before_the_next_commit(machine, lambda: machine.claim(info.id))
    job, running = await Orders(machine.engine).cancel(job_id)

    assert running is not None
    assert (job.status, job.cancel_requested) == (JobStatus.WAITING_FOR_WORKER, True)
    assert machine.stopped == [("worker", info.id)]
    resume = machine.compiler.resume(job_id, info.id)
    await machine.report(info.id, machine.worker_boot, Result(Result.CANCELLED, {"cleaned": True}), resume)
    await machine.drive()
    assert ended(await machine.job(job_id)) == (JobStatus.FINISHED, "end", {"cleaned": True})


async def test_a_pause_lets_it_go_on(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push()
    await machine.deliver(machine.queue.pop(0))
    message = machine.queue.pop(0)

    before_the_next_commit(machine, lambda: machine.deliver(message))  # it even ends
    await machine.queue_of().pause(task_id)
    await machine.drive()

    assert (await machine.queue_of().find(task_id)).status is TaskStatus.PAUSED  # before its next step

    await machine.queue_of().resume(task_id)
    await machine.drive()
    assert (await machine.queue_of().find(task_id)).status is TaskStatus.COMPLETED
    assert len(machine.calls) == 1


async def test_a_pause_lets_the_hosts_of_a_batch_go_on(tmp_path: Path) -> None:
    machine = await QueueMachine(tmp_path).start()
    task_id = await machine.push({"hosts": ["h0", "h1", "h2", "h3"], "serial": 2})
    await machine.deliver(machine.queue.pop(0))
    assert isinstance((await machine.job(task_id)).waiting, FanOut)

    async def ends() -> None:
        await machine.deliver(machine.queue.pop(0))
        await machine.deliver(machine.queue.pop())  # its result

    before_the_next_commit(machine, ends)
    await machine.queue_of().pause(task_id)
    await machine.drive()
    assert (await machine.queue_of().find(task_id)).status is TaskStatus.PAUSED
    assert [call["host"] for call in machine.calls] == ["h0", "h1"]

    await machine.queue_of().resume(task_id)
    await machine.drive()
    assert (await machine.queue_of().find(task_id)).status is TaskStatus.COMPLETED
    assert [call["host"] for call in machine.calls] == ["h0", "h1", "h2", "h3"]
