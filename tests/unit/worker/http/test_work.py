"""A worker over HTTP against a server that speaks the documented API: registration, tasks, cancels, progress, limits."""

from __future__ import annotations

import asyncio
import gzip
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from avtomatika import ModelCache
from avtomatika.errors import ConfigurationError, PermanentError
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.sdk import Worker
from tests.support.orchestrator import WorkerAPI
from tests.support.polling import eventually_async

from .conftest import Bench, MakeAPI


@dataclass
class Numbers:
    left: int
    right: int


async def _true(look: Any) -> None:
    async def ask() -> Any:
        return look()

    await eventually_async(ask, deadline=30)


async def test_it_says_what_it_is(api: WorkerAPI, bench: Bench) -> None:
    bench.settings["worker_installed_models"] = ["sdxl"]
    bench.worker = Worker(
        "gpu_worker",
        max_concurrent_tasks=6,
        task_type_limits={"gpu": 1},
        skill_dependencies={"paint": ["sdxl"]},
        cost_per_second=0.5,
        cost_per_skill={"paint": 2},
        resources={"cpu_cores": 7, "gpu_info": {"model": "T4", "vram_gb": 16}},
    )
    for name, kind in (("paint", "gpu"), ("upscale", "gpu"), ("count", "cpu"), ("own", None)):
        bench.worker.task(name, task_type=kind)(lambda params: None)
    await bench.start(api)

    said = api.registrations[0]
    assert said["capabilities"] == {
        "gpu": {"limit": 1, "tasks": ["paint", "upscale"]},
        "cpu": {"limit": 6, "tasks": ["count"]},
        "own": {"limit": 6, "tasks": ["own"]},
    }
    assert (said["worker_id"], said["worker_type"], said["max_concurrent_tasks"]) == ("bench-1", "gpu_worker", 6)
    assert sorted(said["supported_tasks"]) == ["count", "own", "paint", "upscale"]
    assert (said["status"], said["load"]) == ("idle", {"gpu": 0, "cpu": 0, "own": 0})
    assert (said["cost_per_second"], said["cost_per_skill"]) == (0.5, {"paint": 2.0})
    assert (said["resources"]["cpu_cores"], said["resources"]["gpu_info"]["model"]) == (7, "T4")
    assert (said["installed_models"], said["skill_dependencies"]) == (["sdxl"], {"paint": ["sdxl"]})
    assert said["heartbeat_interval"] == 15


async def test_functions_of_every_kind_run(api: WorkerAPI, bench: Bench) -> None:
    @bench.worker.task()
    async def add(params: Numbers, task_id: str, worker_id: str, attempt: int, tracing_context: dict[str, Any]) -> Any:
        return {"sum": params.left + params.right, "by": [task_id, worker_id, attempt, tracing_context]}

    @bench.worker.task()
    def in_thread(params: dict[str, Any], job_id: str) -> Any:
        return params["n"] * 2

    @bench.worker.task()
    async def refuse(params: Any) -> Any:
        raise PermanentError("never", data={"why": "rules"})

    @bench.worker.task()
    async def break_down(params: Any) -> Any:
        raise ValueError("no good")

    @bench.worker.task()
    async def judge(params: Any) -> Any:
        return {"status": "needs_review", "data": {"n": 1}}

    await bench.start(api)
    added = await api.give("add", {"left": 1, "right": 2}, task_id="a1", attempt=3, tracing_context={"t": "1"})
    assert await api.result(added) == {"status": "success", "data": {"sum": 3, "by": ["a1", "bench-1", 3, {"t": "1"}]}}
    assert api.results[0] == {"job_id": "job-of-a1", "task_id": "a1", "worker_id": "bench-1", "result": api.results[0]["result"]}

    expected: list[tuple[str, Any, dict[str, Any]]] = [
        ("in_thread", {"n": 4}, {"status": "success", "data": {"result": 8}}),
        (
            "refuse",
            None,
            {"status": "failure", "data": {"why": "rules"}, "error": {"code": "PERMANENT_ERROR", "message": "never"}},
        ),
        ("judge", None, {"status": "needs_review", "data": {"n": 1}}),
        (
            "break_down",
            None,
            {"status": "failure", "data": {}, "error": {"code": "TRANSIENT_ERROR", "message": "ValueError: no good"}},
        ),
    ]
    for task_type, params, envelope in expected:
        assert await api.result(await api.give(task_type, params)) == envelope

    misfit = await api.result(await api.give("add", {"left": "x"}))
    assert (misfit["status"], misfit["error"]["code"]) == ("failure", "INVALID_INPUT_ERROR")


async def test_a_time_limit_ends_the_task(api: WorkerAPI, bench: Bench) -> None:
    @bench.worker.task()
    async def sleep(params: Any, timeout_at: float) -> None:
        await asyncio.sleep(600)

    await bench.start(api)
    by_seconds = await api.give("sleep", timeout_seconds=0.1)
    by_clock = await api.give("sleep", timeout_at=time.time() + 1)
    by_words = await api.give("sleep", timeout_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    for task_id in (by_seconds, by_clock, by_words):
        assert await api.result(task_id) == {
            "status": "timeout", "data": {}, "error": {"code": "TIMEOUT", "message": "Worker task timed out"},
        }  # fmt: skip


@pytest.mark.parametrize("how", ["socket", "heartbeat"])
async def test_a_cancel_reaches_the_handler(api: WorkerAPI, bench: Bench, how: str) -> None:
    seen = asyncio.Event()
    began = asyncio.Event()

    @bench.worker.task()
    async def sleep(params: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            seen.set()
            raise

    bench.settings["worker_websocket"] = how == "socket"
    bench.settings["heartbeat_interval_seconds"] = 0.2
    await bench.start(api)
    task = await api.give("sleep")
    await asyncio.wait_for(began.wait(), 30)
    if how == "socket":
        await _true(lambda: api.sockets)
        await api.cancel(task)
    else:
        api.cancels = [task]

    result = await api.result(task)
    assert (result["status"], result["error"]["code"]) == ("cancelled", "CANCELLED")
    assert seen.is_set()


async def test_a_cancel_that_comes_twice_lets_the_clean_up_end(api: WorkerAPI, bench: Bench) -> None:
    began, cleaning, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @bench.worker.task()
    async def work(params: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            cleaning.set()
            await cleaned.wait()

    bench.settings["heartbeat_interval_seconds"] = 0.1
    await bench.start(api)
    await _true(lambda: api.sockets)
    task = await api.give("work")
    await asyncio.wait_for(began.wait(), 30)
    await api.cancel(task)
    await asyncio.wait_for(cleaning.wait(), 30)
    for _ in range(3):
        api.cancels = [task]
        beats = len(api.patches)
        await _true(lambda beats=beats: len(api.patches) > beats + 1)
    assert api.results == []
    cleaned.set()
    assert (await api.result(task))["status"] == "cancelled"


async def test_a_cancel_that_is_faster_than_the_task(api: WorkerAPI, bench: Bench) -> None:
    @bench.worker.task()
    async def work(params: Any) -> None:
        raise AssertionError("it must not run")

    await bench.start(api)
    await _true(lambda: api.sockets)
    await api.cancel("early")
    await _true(lambda: "early" in bench.running._runs._cancelled)  # type: ignore[union-attr]

    assert (await api.result(await api.give("work", task_id="early")))["status"] == "cancelled"


async def test_progress_goes_up_the_socket(api: WorkerAPI, bench: Bench) -> None:
    @bench.worker.task()
    async def report(params: Any, task_id: str, job_id: str, send_progress: Any) -> None:
        await send_progress(task_id, job_id, 0.25, "a quarter")
        await asyncio.sleep(0)

    @bench.worker.task()
    def report_from_thread(params: Any, task_id: str, job_id: str, send_progress: Any) -> None:
        send_progress(task_id, job_id, 7, "all of it")

    await bench.start(api)
    await _true(lambda: api.sockets)
    await api.give("report", task_id="p1")
    await api.give("report_from_thread", task_id="p2")

    await _true(lambda: len(api.progress) == 2)
    assert sorted(api.progress, key=lambda update: update["task_id"]) == [
        {"type": "progress_update", "task_id": "p1", "job_id": "job-of-p1", "progress": 0.25, "message": "a quarter"},
        {"type": "progress_update", "task_id": "p2", "job_id": "job-of-p2", "progress": 1.0, "message": "all of it"},
    ]


async def test_without_a_socket_progress_is_dropped(api: WorkerAPI, bench: Bench) -> None:
    @bench.worker.task()
    async def report(params: Any, task_id: str, job_id: str, send_progress: Any) -> str:
        await send_progress(task_id, job_id, 0.25, "a quarter")
        return "done"

    bench.settings["worker_websocket"] = False
    await bench.start(api)
    assert (await api.result(await api.give("report")))["data"] == {"result": "done"}
    assert not [line for line in api.log if "/ws/" in line]


async def test_the_socket_comes_back(api: WorkerAPI, bench: Bench) -> None:
    bench.worker.task("work")(lambda params: None)
    await bench.start(api)
    await _true(lambda: api.sockets)
    for socket in tuple(api.sockets):
        await socket.close()
    await _true(lambda: sum("/ws/" in line for line in api.log) == 2 and api.sockets)


async def test_never_more_at_once_than_the_limits_say(api: WorkerAPI, bench: Bench) -> None:
    running = {"gpu": 0, "cpu": 0}
    most = {"gpu": 0, "cpu": 0, "all": 0}

    async def count(kind: str) -> None:
        running[kind] += 1
        most[kind] = max(most[kind], running[kind])
        most["all"] = max(most["all"], sum(running.values()))
        await asyncio.sleep(0.02)
        running[kind] -= 1

    bench.worker = Worker("bench", max_concurrent_tasks=3, task_type_limits={"gpu": 1, "cpu": 3})

    @bench.worker.task(task_type="gpu")
    async def paint(params: Any) -> None:
        await count("gpu")

    @bench.worker.task(task_type="cpu")
    async def add(params: Any) -> None:
        await count("cpu")

    tasks = [await api.give(kind) for _ in range(10) for kind in ("paint", "add")]
    await bench.start(api)
    for task in tasks:
        await api.result(task)
    assert most == {"gpu": 1, "cpu": most["cpu"], "all": 3}
    assert most["cpu"] >= 2


async def test_a_full_capability_is_told_before_the_next_poll(api: WorkerAPI, bench: Bench) -> None:
    over = asyncio.Event()
    bench.worker = Worker("bench", max_concurrent_tasks=3, task_type_limits={"gpu": 1})

    @bench.worker.task(task_type="gpu")
    async def paint(params: Any) -> None:
        await over.wait()

    @bench.worker.task(task_type="cpu")
    async def add(params: Any) -> str:
        return "done"

    await bench.start(api)
    first = await api.give("paint")
    await _true(lambda: api.workers["bench-1"]["supported_tasks"] == ["add"])
    second = await api.give("paint")
    await api.result(await api.give("add"))

    assert [task["task_id"] for task in api.tasks] == [second]
    over.set()
    await api.result(first)
    await api.result(second)


async def test_a_full_worker_does_not_poll(api: WorkerAPI, bench: Bench) -> None:
    over = asyncio.Event()
    bench.worker = Worker("bench", max_concurrent_tasks=1)

    @bench.worker.task()
    async def work(params: Any) -> None:
        await over.wait()

    bench.settings["heartbeat_interval_seconds"] = 0.1
    await bench.start(api)
    await api.give("work")
    await _true(lambda: api.workers["bench-1"]["status"] == "busy")
    beats = len(api.patches)
    await _true(lambda: len(api.patches) > beats + 2)
    assert (len(api.polls), api.parked) == (1, 0)
    over.set()
    await _true(lambda: api.parked == 1)


async def test_heartbeats_are_empty_and_changes_are_told(api: WorkerAPI, bench: Bench) -> None:
    bench.worker = Worker("bench", skill_dependencies={"paint": ["sdxl"]})

    @bench.worker.task()
    async def paint(params: Any, add_to_hot_cache: Any) -> None:
        add_to_hot_cache("sdxl")

    bench.settings["heartbeat_interval_seconds"] = 0.1
    await bench.start(api)
    await _true(lambda: api.patches.count(None) >= 2)
    await api.result(await api.give("paint"))

    await _true(lambda: api.workers["bench-1"]["hot_cache"] == ["sdxl"] and api.workers["bench-1"]["hot_skills"] == ["paint"])
    hot_cache().discard("sdxl")
    await _true(lambda: api.workers["bench-1"]["hot_cache"] == [])


async def test_models_are_loaded_once_for_coroutines_and_threads(api: WorkerAPI, bench: Bench) -> None:
    models = ModelCache(budget_gb=1)
    loads: list[asyncio.AbstractEventLoop] = []

    @models.loader("whisper", size_gb=1)
    async def load() -> str:
        loads.append(asyncio.get_running_loop())
        return "whisper"

    @bench.worker.task()
    def in_thread(params: Any) -> str:
        with models.use("whisper") as model:
            return str(model)

    @bench.worker.task()
    async def on_loop(params: Any) -> str:
        async with models.use("whisper") as model:
            return str(model)

    await bench.start(api)
    for name in ("in_thread", "on_loop", "in_thread"):
        assert (await api.result(await api.give(name)))["data"] == {"result": "whisper"}
    assert loads == [asyncio.get_running_loop()]


async def test_the_same_task_is_not_run_twice(api: WorkerAPI, bench: Bench) -> None:
    ran: list[str] = []
    over = asyncio.Event()

    @bench.worker.task()
    async def work(params: Any, task_id: str) -> None:
        ran.append(task_id)
        await over.wait()

    await bench.start(api)
    for _ in range(2):
        await api.give("work", task_id="one")
    await api.give("work", task_id="two")
    await _true(lambda: ran == ["one", "two"])
    over.set()
    await api.result("one")
    await api.give("work", task_id="one")
    await api.result(await api.give("work", task_id="three"))
    assert ran == ["one", "two", "three"]


async def test_a_task_that_nobody_declares_goes_elsewhere(api: WorkerAPI, bench: Bench) -> None:
    bench.worker.task("work")(lambda params: None)
    await bench.start(api)
    api.workers["bench-1"]["supported_tasks"].append("other")

    result = await api.result(await api.give("other"))
    assert result["error"]["code"] == "TRANSIENT_ERROR"
    assert "declares no task 'other'" in result["error"]["message"]


async def test_one_that_was_forgotten_registers_again(api: WorkerAPI, bench: Bench) -> None:
    bench.worker.task("work")(lambda params: None)
    bench.settings["heartbeat_interval_seconds"] = 0.1
    await bench.start(api)
    api.workers.clear()
    await _true(lambda: len(api.registrations) == 2)
    assert (await api.result(await api.give("work")))["status"] == "success"


async def test_large_results_are_compressed(api: WorkerAPI, bench: Bench) -> None:
    @bench.worker.task()
    async def write(params: Any) -> Any:
        return {"text": "я" * params["length"]}

    await bench.start(api)
    for length in (10, 200_000):
        assert (await api.result(await api.give("write", {"length": length})))["data"] == {"text": "я" * length}
    assert [headers.get("Content-Encoding") for headers in api.result_headers] == [None, "gzip"]
    assert int(api.result_headers[1]["Content-Length"]) < len(gzip.compress(b"x" * 1_200_000)) * 10


async def test_a_wrong_token_ends_the_worker_with_the_reason(make_api: MakeAPI, bench: Bench) -> None:
    api = await make_api(token="another")
    bench.worker.task("work")(lambda params: None)
    await bench.start(api, wait=False)
    with pytest.raises(ConfigurationError, match="401 to POST /_worker/workers/register: this token is not known"):
        await bench.ended()


async def test_no_task_is_an_error(bench: Bench, api: WorkerAPI) -> None:
    with pytest.raises(ConfigurationError, match="declares no task"):
        await bench.start(api, wait=False)
