"""How much may run at once, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from avtomatika.worker.http.slots import Slots
from avtomatika.worker.sdk import Declared, Worker

from .conftest import Bench, MakeAPI


def _slots(most: int = 5) -> Slots:
    worker = Worker(max_concurrent_tasks=most, task_type_limits={"gpu": 1, "cpu": 3})
    for name, kind in (("paint", "gpu"), ("draw", "gpu"), ("add", "cpu")):
        worker.task(name, task_type=kind)(lambda params: None)
    merged = Declared()
    merged.use(worker)
    return Slots(merged, lambda: None)


@pytest.mark.parametrize(
    ("most", "taken", "room", "status", "supported"),
    [
        (5, [], 1, "idle", ["add", "draw", "paint"]),
        (5, ["paint"], 3, "idle", ["add"]),
        (5, ["paint", "add"], 2, "idle", ["add"]),
        (5, ["add", "add", "add"], 1, "idle", ["draw", "paint"]),
        (5, ["add", "add", "add", "draw"], 0, "busy", []),
        (2, ["add"], 1, "idle", ["add", "draw", "paint"]),
        (2, ["add", "add"], 0, "busy", ["draw", "paint"]),
        (5, ["paint", "draw"], 3, "idle", ["add"]),
        (1, ["paint", "draw"], 0, "busy", ["add"]),
    ],
)
def test_room_and_state(most: int, taken: Sequence[str], room: int, status: str, supported: list[str]) -> None:
    slots = _slots(most)
    for task in taken:
        slots.take(task)
    state = slots.state()
    assert (slots.room, state["status"], state["supported_tasks"]) == (room, status, supported)
    for task in taken:
        slots.give_back(task)
    assert slots.state()["load"] == {"gpu": 0, "cpu": 0}


async def test_two_that_want_the_same_slot_take_turns() -> None:
    slots = _slots()
    over = asyncio.Event()
    running = 0

    async def run(task: str) -> None:
        nonlocal running
        async with slots.turn(task):
            running += 1
            await over.wait()

    tasks = [asyncio.ensure_future(run(task)) for task in ("paint", "draw")]
    for _ in range(5):
        await asyncio.sleep(0)
    assert running == 1
    over.set()
    await asyncio.gather(*tasks)
    assert running == 2


async def test_two_orchestrators_that_use_the_same_slot(make_api: MakeAPI, bench: Bench) -> None:
    """A slot that is free for a moment is seen by both; what both give for it runs one after the other."""
    apis = [await make_api(), await make_api()]
    bench.worker = Worker("bench", max_concurrent_tasks=4, task_type_limits={"gpu": 1})
    now = most = 0

    @bench.worker.task(task_type="gpu")
    async def paint(params: Any) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    @bench.worker.task(task_type="cpu")
    async def add(params: Any) -> None:
        await asyncio.sleep(0.01)

    given = [(api, await api.give(kind)) for _ in range(15) for api in apis for kind in ("paint", "add")]
    await bench.start(*apis)
    for api, task in given:
        assert (await api.result(task))["status"] == "success"
    assert most == 1
