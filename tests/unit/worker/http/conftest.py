"""A worker over HTTP in this process, and the servers that it works for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from avtomatika.settings import Settings, read_settings
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.http import HTTPWorker, read_config
from avtomatika.worker.sdk import Declared, Worker
from tests.support.orchestrator import TOKEN, WorkerAPI
from tests.support.polling import eventually_async

MakeAPI = Callable[..., Awaitable[WorkerAPI]]


@pytest.fixture
async def make_api() -> AsyncIterator[MakeAPI]:
    made: list[WorkerAPI] = []

    async def make(**options: Any) -> WorkerAPI:
        made.append(WorkerAPI(**options))
        await made[-1].start()
        return made[-1]

    yield make
    for api in made:
        await api.stop()


@pytest.fixture
async def api(make_api: MakeAPI) -> WorkerAPI:
    return await make_api()


class Bench:
    """One worker: its declarations, and its life."""

    def __init__(self, spool: Path) -> None:
        self.worker = Worker("bench", max_concurrent_tasks=4)
        self.settings: dict[str, Any] = {"worker_spool_dir": spool, "shutdown_grace_seconds": 0.2}
        self.running: HTTPWorker | None = None
        self._task: asyncio.Task[None] | None = None

    def read(self, *apis: WorkerAPI, priorities: tuple[int, ...] = (), weights: tuple[int, ...] = ()) -> tuple[Any, Settings]:
        entries = [
            {"url": api.url, "priority": (priorities or (1,) * 9)[i], "weight": (weights or (1,) * 9)[i], "token": TOKEN}
            for i, api in enumerate(apis)
        ]
        settings = read_settings(**self.settings)
        return read_config(settings, "bench", orchestrators=entries, worker_id="bench-1"), settings

    async def start(self, *apis: WorkerAPI, wait: bool = True, **ranks: Any) -> HTTPWorker:
        merged = Declared()
        merged.use(self.worker)
        config, settings = self.read(*apis, **ranks)
        self.running = HTTPWorker(config, merged, settings)
        self._task = asyncio.ensure_future(self.running.run())

        async def look() -> bool:
            assert self._task is not None
            if self._task.done():
                await self.ended()
            return all(api.registrations for api in apis)

        if wait:
            await eventually_async(look, what="a registration", retry=())
        return self.running

    async def ended(self) -> None:
        """Waits until it has ended by itself; raises what it raised."""
        assert self._task is not None
        task, self._task = self._task, None
        await asyncio.wait_for(task, 30)

    async def stop(self) -> None:
        if self._task is not None and self.running is not None:
            self.running.stop()
            await self.ended()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "spool")
    yield bench
    if bench.running is not None:
        bench.running.stop()
    await bench.stop()
    for model in tuple(hot_cache()):
        hot_cache().discard(model)
