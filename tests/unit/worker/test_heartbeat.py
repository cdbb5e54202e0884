"""Heartbeats: when one goes out, what it carries, and what follows from its answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import WorkerRecord
from avtomatika.settings import Settings, read_settings
from avtomatika.state.base import CommitResult
from avtomatika.worker import heartbeat as module
from avtomatika.worker.heartbeat import Heartbeat
from tests.support.polling import eventually_async


class Store:
    """What a heartbeat asks of a store, written down; told to answer with trouble."""

    def __init__(self) -> None:
        self.registered: list[WorkerRecord] = []
        self.beats: list[WorkerRecord | None] = []
        self.known = True
        self.trouble: Exception | None = None
        self.stops: list[str] = []
        self.live: list[WorkerRecord] = [WorkerRecord("another@here", "other boot")]

    async def register(self, record: WorkerRecord, now: float, ttl: float) -> CommitResult:
        self.registered.append(record)
        self.known = True
        return CommitResult(True)

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        assert (worker_id, boot_id) == ("worker@here", "boot")
        self.beats.append(record)
        if self.trouble is not None:
            raise self.trouble
        return self.known

    async def workers(self, now: float) -> Sequence[WorkerRecord]:
        return self.live

    async def take_stops(self, boot_id: str) -> Sequence[str]:
        taken, self.stops = self.stops, []
        return taken


class Bench:
    def __init__(self, settings: Settings) -> None:
        self.store = Store()
        self.load = 0
        self.looks = 0
        self.stopped: list[str] = []
        runtime: Any = SimpleNamespace(
            store=self.store,
            settings=settings,
            loop=asyncio.get_running_loop(),
            worker_id="worker@here",
            boot_id="boot",
            clock=time.time,
        )
        self.replaced: list[bool] = []
        self.heartbeat = Heartbeat(runtime, self.record, self.stopped.extend, lambda: self.replaced.append(True))
        self.running: asyncio.Task[None] | None = None

    def record(self) -> WorkerRecord:
        self.looks += 1
        return WorkerRecord("worker@here", "boot", load={"cpu": self.load}, seen_at=float(self.looks))

    async def start(self) -> None:
        await self.heartbeat.register()
        self.running = asyncio.create_task(self.heartbeat.run())
        await asyncio.sleep(0)

    def change(self, load: int) -> None:
        self.load = load
        self.heartbeat.changed()

    async def told(self, load: int) -> None:
        async def look() -> bool:
            return any(record is not None and record.load == {"cpu": load} for record in self.store.beats)

        await eventually_async(look, interval=0.005)


Make = Callable[..., Awaitable[Bench]]


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Bench] = []

    async def build(interval: float = 600) -> Bench:
        settings = read_settings(heartbeat_interval_seconds=interval, worker_health_check_interval_seconds=3600)
        made.append(Bench(settings))
        await made[-1].start()
        return made[-1]

    yield build
    for bench in made:
        if bench.running is not None:
            bench.running.cancel()


async def test_while_nothing_changes_heartbeats_are_empty(make: Make) -> None:
    bench = await make(interval=0.02)

    async def look() -> bool:
        return len(bench.store.beats) >= 3

    await eventually_async(look, interval=0.005)
    assert set(bench.store.beats) == {None}
    assert bench.looks == 1  # at the registration


async def test_a_change_is_told_at_once_and_from_any_thread(make: Make) -> None:
    bench = await make()

    await asyncio.to_thread(bench.change, 1)

    await bench.told(1)
    assert len(bench.store.beats) == 1


async def test_more_changes_are_told_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await make()
    bench.change(1)
    await bench.told(1)

    for load in range(2, 500):
        bench.change(load)
        await asyncio.sleep(0)
    await bench.told(499)

    assert len(bench.store.beats) == 2


async def test_while_changes_go_on_some_are_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANGES_SECONDS", 0.02)
    bench = await make()

    async def look() -> bool:
        bench.change(bench.load + 1)
        return len(bench.store.beats) >= 5

    await eventually_async(look, interval=0.001)
    assert None not in bench.store.beats
    assert bench.looks < bench.load


async def test_a_change_that_was_taken_back_is_not_told(make: Make) -> None:
    bench = await make()
    bench.change(1)
    bench.change(0)

    async def look() -> bool:
        return bench.looks == 2

    await eventually_async(look, interval=0.005)
    assert bench.store.beats == []


async def test_heartbeats_go_out_while_every_change_is_taken_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANGES_SECONDS", 0.005)
    bench = await make(interval=0.05)

    async def look() -> bool:
        bench.change(1)
        bench.change(0)
        return len(bench.store.beats) >= 3

    await eventually_async(look, interval=0.002)
    assert set(bench.store.beats) == {None}
    assert bench.looks > 4


async def test_many_changes_wake_the_loop_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await make()
    calls: list[object] = []
    monkeypatch.setattr(bench.heartbeat, "_loop", SimpleNamespace(call_soon_threadsafe=calls.append))

    for _ in range(1000):
        bench.heartbeat.changed()

    assert len(calls) == 1
    monkeypatch.undo()


async def test_a_lost_heartbeat_s_record_is_told_by_the_next_one(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = await make(interval=0.05)
    bench.store.trouble = StoreUnavailableError("away")
    bench.change(1)
    await bench.told(1)
    bench.store.beats.clear()
    bench.store.trouble = None

    await bench.told(1)

    assert "a heartbeat is lost: away" in caplog.text


async def test_whatever_goes_wrong_the_next_heartbeat_comes(make: Make) -> None:
    bench = await make(interval=0.02)
    bench.store.trouble = ValueError("a bug")

    async def look() -> bool:
        return len(bench.store.beats) >= 3

    await eventually_async(look, interval=0.005)


async def test_one_that_was_counted_as_dead_registers_again(make: Make) -> None:
    bench = await make(interval=0.02)
    bench.load = 3
    bench.store.known = False

    async def look() -> bool:
        return len(bench.store.registered) == 2

    await eventually_async(look, interval=0.005)
    assert bench.store.registered[1].load == {"cpu": 3}


async def test_one_that_was_replaced_stops_and_does_not_end_its_successor(make: Make) -> None:
    bench = await make(interval=0.02)
    bench.store.live.append(WorkerRecord("worker@here", "its successor's boot"))
    bench.store.known = False

    async def look() -> bool:
        return bool(bench.replaced)

    await eventually_async(look, interval=0.005)
    assert len(bench.store.registered) == 1


async def test_stops_that_nobody_could_tell_are_taken_with_a_heartbeat(make: Make) -> None:
    bench = await make(interval=0.02)
    bench.store.stops = ["a", "b"]

    async def look() -> bool:
        return bool(bench.stopped)

    await eventually_async(look, interval=0.005)
    assert bench.stopped == ["a", "b"]


async def test_a_change_after_the_end_of_the_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    runtime: Any = SimpleNamespace(loop=loop)
    heartbeat = Heartbeat(runtime, lambda: WorkerRecord("w", "b"), lambda ids: None, lambda: None)
    loop.close()

    thread = threading.Thread(target=heartbeat.changed)
    thread.start()
    thread.join()
