"""How a worker over HTTP ends: in order, handing back what is not done; and what it tells of its health."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import aiohttp
import pytest

from avtomatika.errors import ConfigurationError
from tests.support.orchestrator import WorkerAPI
from tests.support.polling import eventually_async
from tests.support.processes import free_port

from .conftest import Bench, MakeAPI

STOPPED = {"status": "failure", "data": {}, "error": {"code": "TRANSIENT_ERROR", "message": "the worker stopped"}}


async def _begun(api: WorkerAPI, began: asyncio.Event, task_type: str = "work") -> str:
    task = await api.give(task_type)
    await asyncio.wait_for(began.wait(), 30)
    return task


async def test_a_stop_lets_tasks_end(api: WorkerAPI, bench: Bench) -> None:
    began, over = asyncio.Event(), asyncio.Event()

    @bench.worker.task()
    async def work(params: Any) -> str:
        began.set()
        await over.wait()
        return "in time"

    bench.settings["shutdown_grace_seconds"] = 20
    worker = await bench.start(api)
    task = await _begun(api, began)
    worker.stop()

    async def no_poll() -> bool:
        return not api.parked and api.workers["bench-1"]["supported_tasks"] == []

    await eventually_async(no_poll)
    late = await api.give("work")
    over.set()
    await bench.ended()
    assert [(body["task_id"], body["result"]["data"]) for body in api.results] == [(task, {"result": "in time"})]
    assert [waiting["task_id"] for waiting in api.tasks] == [late]


async def test_what_does_not_end_in_time_is_handed_back(api: WorkerAPI, bench: Bench) -> None:
    began, cleaned = asyncio.Event(), asyncio.Event()
    release = threading.Event()

    @bench.worker.task()
    async def work(params: Any) -> None:
        try:
            began.set()
            await asyncio.sleep(600)
        finally:
            cleaned.set()

    @bench.worker.task()
    def block(params: Any) -> None:
        release.wait(60)

    worker = await bench.start(api)
    blocked = await api.give("block")
    task = await _begun(api, began)
    worker.stop()
    await bench.ended()
    release.set()
    assert {body["task_id"]: body["result"] for body in api.results} == {task: STOPPED, blocked: STOPPED}
    assert cleaned.is_set()


async def test_a_second_stop_ends_at_once(api: WorkerAPI, bench: Bench) -> None:
    began = asyncio.Event()

    @bench.worker.task()
    async def work(params: Any) -> None:
        began.set()
        await asyncio.sleep(600)

    bench.settings["shutdown_grace_seconds"] = 600
    worker = await bench.start(api)
    await _begun(api, began)
    worker.stop()
    worker.stop()
    await bench.ended()


async def test_a_cancelled_task_stays_cancelled_when_the_worker_stops(api: WorkerAPI, bench: Bench) -> None:
    release = threading.Event()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    @bench.worker.task()
    def block(params: Any) -> None:
        loop.call_soon_threadsafe(began.set)
        release.wait(60)

    worker = await bench.start(api)
    task = await _begun(api, began, "block")
    assert worker._runs.cancel(task)
    worker.stop()
    await bench.ended()
    release.set()
    assert (await api.result(task))["status"] == "cancelled"


async def test_health(make_api: MakeAPI, bench: Bench) -> None:
    api, other = await make_api(), await make_api()
    await other.stop()
    began = asyncio.Event()

    @bench.worker.task()
    async def work(params: Any) -> None:
        began.set()
        await asyncio.sleep(600)

    port = free_port()
    bench.settings |= {"worker_health_port": port, "heartbeat_interval_seconds": 0.2}
    await bench.start(api, other, wait=False)

    async def ask(session: aiohttp.ClientSession) -> tuple[int, Any]:
        async with session.get(f"http://127.0.0.1:{port}/health") as response:
            return response.status, await response.json()

    async with aiohttp.ClientSession() as session:

        async def well() -> Any:
            status, body = await ask(session)
            return body if status == 200 and body["running"] else None

        await _begun(api, began)
        body = await eventually_async(well, retry=(aiohttp.ClientError,))
        assert (body["status"], body["worker_id"], body["running"]) == ("ok", "bench-1", 1)
        first, second = body["orchestrators"]
        assert (first["url"], first["connected"]) == (api.url, True)
        assert first["last_seen"] > 0
        assert second == {"url": other.url, "connected": False, "last_seen": None}

        await api.stop()

        async def ill() -> bool:
            return (await ask(session))[0] == 503

        await eventually_async(ill)
        await api.start()
        await eventually_async(well)


async def test_a_health_port_that_is_taken(api: WorkerAPI, bench: Bench) -> None:
    bench.worker.task("work")(lambda params: None)
    bench.settings["worker_health_port"] = api.port
    with pytest.raises(ConfigurationError, match="change WORKER_HEALTH_PORT"):
        await bench.start(api)
