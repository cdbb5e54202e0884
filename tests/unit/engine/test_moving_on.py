"""Picks that lie at a worker without a slot for them, that share a limit, or whose strategy refuses the busy ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from avtomatika import Candidate
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine import strategies
from avtomatika.jobs import TaskInfo, WorkerRecord
from tests.support.board import FOREVER, TYPE, Board
from tests.unit.engine.test_watcher import _assigned, _machine, _picked, _steps, _task, put_ahead


async def test_what_was_put_ahead_goes_to_a_worker_that_registers_within_a_second() -> None:
    machine, record = await put_ahead()
    assert (await _task(machine, record.info.id)).assigned_to == "worker"
    await machine.add_worker("idle", cost_per_second=0.0)

    for _ in range(2):
        machine.now += 0.5
        await machine.watcher.round()
        await machine.settled()

    after = await _task(machine, record.info.id)
    assert (after.assigned_to, after.info.avoid) == ("idle", ())


async def test_a_worker_that_a_plain_task_made_busy_has_not_stalled() -> None:
    """A pick and a plain message race for one slot, and the plain one wins."""
    machine = await _machine(_picked(), _steps(), slots=1)
    _, record = await _assigned(machine)
    await machine.create("steps")
    while control := [message for message in machine.queue if message.queue == "orchestrator"]:
        machine.queue.remove(control[0])
        await machine.deliver(control[0])
    plain = next(message for message in machine.queue if not message.queue.startswith("worker."))
    assert await machine.claim(plain.headers["id"])

    await machine.repair(11)

    assert (await _task(machine, record.info.id)).info.avoid == ()


async def test_a_strategy_that_refuses_a_worker_is_obeyed_where_all_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "_known", dict(strategies._known))

    @strategies.strategy("mine")
    def mine(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate | None:
        return next((candidate for candidate in candidates if candidate.worker.id != "bad"), None)

    board = Board()
    for name in ("bad", "good"):
        await board.worker(name)
        await board.busy(name)
    task_id = await board.task(dispatch_strategy="mine")
    await board.pump()
    await board.pump(1)

    assert await board.at(task_id) == ["good"]


async def test_a_pick_does_not_move_on_to_a_worker_that_its_strategy_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be taken back and put ahead again every second, each time with a line in the job's history."""
    monkeypatch.setattr(strategies, "_known", dict(strategies._known))

    @strategies.strategy("mine")
    def mine(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate | None:
        return next((candidate for candidate in candidates if candidate.worker.id != "bad"), None)

    board = Board()
    await board.worker("good")
    await board.busy("good")
    task_id = await board.task(dispatch_strategy="mine")
    await board.pump()
    await board.pump(1)
    await board.worker("bad")
    before = len(board.store.stream)
    for _ in range(4):
        board.now += 1
        await board.dispatcher.look()
        await board.dispatcher.settled()

    assert await board.at(task_id) == ["good"]
    assert len(board.store.stream) == before


async def test_picks_that_share_a_limit_follow_each_other_at_once() -> None:
    blueprint = Blueprint("fan")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        tasks = [{"task_type": "work", "params": {"n": n}, "max_cost": 1} for n in range(20)]
        actions.dispatch_parallel(tasks, "merge", max_concurrency=1)

    @blueprint.aggregator_for("merge")
    async def merge(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await _machine(blueprint, slots=4)
    job_id = await machine.create("fan")
    began = machine.now
    await machine.pump()
    while not (await machine.job(job_id)).status.is_terminal and machine.now - began < 10:
        machine.now += 0.5
        await machine.watcher.round()
        await machine.settled()
        await machine.pump()

    assert machine.now - began <= 1


async def test_one_type_does_not_keep_the_dispatcher_to_itself() -> None:
    """Tasks of `draw` come as fast as they are placed; `other` has a free worker of its own."""
    board = Board()
    await board.worker("a", 10**6)
    await board.store.pin_tasks({"other": "cpu"})
    slots: dict[str, Any] = {"capabilities": {"cpu": 1}, "max_concurrent_tasks": 1}
    record = WorkerRecord("b", "boot-b", tasks=("other",), supported_tasks=("other",), **slots)
    await board.store.register(record, board.now, FOREVER)
    assign, placed = board.store.assign, []

    async def assigned(task_id: str, worker: WorkerRecord, *args: Any, **options: Any) -> Any:
        done = await assign(task_id, worker, *args, **options)
        placed.append(worker.id)
        if worker.id == "a" and len(placed) < 300:
            await board.task(max_cost=1)
        return done

    board.store.assign = assigned
    await board.task(max_cost=1)
    board.dispatcher.wake([TYPE])
    await board.task(type="other", max_cost=1)
    board.dispatcher.wake(["other"])
    await board.dispatcher.settled()

    assert placed.index("b") <= 64
    assert len(placed) >= 300
