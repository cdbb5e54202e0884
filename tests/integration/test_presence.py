"""What a real worker tells of itself, and how its running attempts are stopped."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from celery import Celery

from avtomatika.broker.control import STOP, tell_stops
from avtomatika.broker.queues import capability_queue
from avtomatika.celery import make_app
from avtomatika.compiler import Compiler
from avtomatika.jobs import TaskInfo, TaskState, WorkerRecord
from avtomatika.settings import get_settings
from avtomatika.state.base import Entry, NewTask
from avtomatika.state.redis import RedisStore
from tests.support.polling import eventually, eventually_async
from tests.support.processes import CapabilityWorker, CeleryWorkerProcess, Processes
from tests.support.records import a_job, change, creation
from tests.support.servers import Broker

WORKERS = Path(__file__).parent / "apps" / "presence" / "workers"
NEVER = {"WORKER_HEALTH_CHECK_INTERVAL_SECONDS": "36000", "HEARTBEAT_INTERVAL_SECONDS": "3600"}
"""No heartbeat at its interval: what is seen has come by itself."""
OFTEN = {"HEARTBEAT_INTERVAL_SECONDS": "0.1"}


@dataclass
class Bench:
    """A broker, the state beside it, and workers started on them."""

    broker: Broker
    processes: Processes
    folder: Path
    app: Celery
    store: RedisStore
    env: dict[str, str] = field(default_factory=dict)

    def worker(self, *capabilities: str, **env: str) -> CapabilityWorker:
        node = f"worker@{self.broker.namespace}"
        return self.processes.make(CapabilityWorker, env={**self.env, **env}, node=node, capabilities=capabilities)

    def send(self, capability: str, task: str, name: str) -> Path:
        """A task by hand, without a job; the folder by which it is held."""
        folder = self.folder / name
        folder.mkdir()
        queue = capability_queue(f"{self.broker.queue_prefix}{capability}.{task}")
        self.app.send_task(task, kwargs={"folder": str(folder)}, queue=queue)
        return folder

    async def record(self) -> WorkerRecord:
        (record,) = await self.store.workers(time.time())
        return record

    async def shows(self, **fields: Any) -> WorkerRecord:
        """Waits for a record with these values."""

        async def look() -> WorkerRecord | None:
            record = await self.record()
            return record if all(getattr(record, name) == value for name, value in fields.items()) else None

        try:
            found = await eventually_async(look, what=str(fields))
        except AssertionError as exc:
            raise AssertionError(f"{exc}; the record is {await self.record()}") from None
        assert found is not None
        return found

    async def attempt(self, capability: str, task: str) -> tuple[TaskInfo, Path]:
        """An attempt of a job, claimed by the worker and running there."""
        folder = self.folder / "attempt"
        folder.mkdir()
        job = a_job()
        info = TaskInfo("task-1", job.id, task, {"folder": str(folder)}, {}, timeout_seconds=600)
        message = Compiler(self.app).task_message(info, capability, time.time())
        await self.store.commit(creation(job))
        done = await self.store.commit(change(job, {"tasks": (NewTask(info, entry=Entry(message)),)}, waiting=info))
        await self.app.runtime.publisher.flush(done.outbox)

        async def look() -> bool:
            record = await self.store.get_task(info.id)
            return record is not None and record.state is TaskState.CLAIMED and (folder / "started").exists()

        await eventually_async(look, what="the start of the attempt")
        self.job = job
        return info, folder

    async def drop(self, info: TaskInfo) -> tuple[tuple[str, str], ...]:
        """Ends the attempt in the store, as a cancelled job does; which workers are to be told."""
        job = await self.store.load(self.job.id)
        assert job is not None
        done = await self.store.commit(change(job, {"drop_tasks": (info.id,)}))
        assert done.applied
        return done.stops

    async def no_claims(self) -> None:
        boot = (await self.record()).boot_id

        async def look() -> bool:
            _, tasks = await self.store.claims(boot)
            return not tasks

        await eventually_async(look, what="the end of all claims")


@asynccontextmanager
async def _bench(broker: Broker, processes: Processes, folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    env = {**broker.env, "WORKERS_DIR": str(WORKERS), "SHUTDOWN_GRACE_SECONDS": "1"}
    for name, value in env.items():
        patch.setenv(name, value)
    get_settings.cache_clear()
    app = make_app(get_settings())
    yield Bench(broker, processes, folder, app, app.runtime.store, env)
    processes.close()
    await app.runtime.store.close()
    app.close()
    patch.undo()
    get_settings.cache_clear()


@pytest_asyncio.fixture
async def bench(
    redis_broker: Broker, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    async with _bench(redis_broker, processes, tmp_path, monkeypatch) as made:
        yield made


@pytest_asyncio.fixture
async def each_bench(
    broker: Broker, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """The test runs once on each broker."""
    async with _bench(broker, processes, tmp_path, monkeypatch) as made:
        yield made


async def test_a_worker_tells_what_it_is(bench: Bench) -> None:
    bench.worker(
        WORKER_COST_PER_SECOND="9",
        WORKER_RESOURCES=json.dumps({"gpu_info": {"model": "H200", "vram_gb": 141}, "rack": 7}),
        WORKER_INSTALLED_MODELS=json.dumps(["vae", "whisper"]),
    )

    record = await bench.record()

    assert record.tasks == record.supported_tasks == ("copy", "decode", "draw", "load_in_child")
    assert (record.status, record.capabilities, record.max_concurrent_tasks) == ("idle", {"gpu": 1, "cpu": 2}, 3)
    assert (record.cost_per_second, record.cost_per_skill, record.cost_of("draw")) == (0.25, {"draw": 2.0}, 2.0)
    assert record.installed_models == ("sdxl", "vae", "whisper")
    assert record.resources["gpu_info"] == {"model": "T4", "vram_gb": 141}
    assert (record.resources["region"], record.resources["rack"]) == ("eu", 7)
    assert record.resources["cpu_cores"] > 0
    assert record.resources["memory_gb"] > 0


async def test_with_q_a_worker_tells_of_what_it_consumes(bench: Bench) -> None:
    bench.worker("cpu")

    record = await bench.record()

    assert (record.tasks, record.capabilities) == (("copy", "load_in_child"), {"cpu": 2})
    assert (record.skill_dependencies, record.cost_per_skill) == ({}, {})


async def test_resources_that_do_not_fit_refuse_the_start(bench: Bench) -> None:
    node = bench.processes.make(CapabilityWorker, env={**bench.env, "WORKER_RESOURCES": '{"memory_gb": -1}'}, wait=False)

    assert node.wait() != 0
    assert "WORKER_RESOURCES['memory_gb'] must not be negative" in node.log()


async def test_the_record_follows_the_load(bench: Bench) -> None:
    bench.worker(**NEVER)
    first = bench.send("gpu", "draw", "first")
    await bench.shows(load={"gpu": 1, "cpu": 0}, supported_tasks=("copy", "load_in_child"), status="idle")
    second = bench.send("cpu", "copy", "second")
    await bench.shows(load={"gpu": 1, "cpu": 1}, supported_tasks=("copy", "load_in_child"), status="idle")
    third = bench.send("cpu", "copy", "third")
    await bench.shows(load={"gpu": 1, "cpu": 2}, supported_tasks=(), status="busy")

    (first / "go").touch()

    await bench.shows(load={"gpu": 0, "cpu": 2}, supported_tasks=("decode", "draw"), status="idle")
    (second / "go").touch()
    (third / "go").touch()
    record = await bench.shows(load={"gpu": 0, "cpu": 0}, status="idle")
    assert record.supported_tasks == record.tasks


async def test_the_record_follows_the_models(bench: Bench) -> None:
    bench.worker(**NEVER)
    (bench.send("gpu", "draw", "draw") / "go").touch()
    record = await bench.shows(hot_cache=("sdxl",))
    assert (record.hot_skills, list(record.load_times)) == (("draw",), ["sdxl"])

    (bench.send("gpu", "decode", "decode") / "go").touch()

    record = await bench.shows(hot_cache=("vae",))
    assert (record.hot_skills, list(record.load_times)) == ((), ["sdxl", "vae"])


async def test_models_of_a_child_process_are_known_as_long_as_it_lives(bench: Bench) -> None:
    node = bench.worker(**NEVER)
    folder = bench.send("cpu", "load_in_child", "child")
    record = await bench.shows(hot_cache=("own", "vae"))
    assert record.load_times["own"] == 1.5
    assert set(record.load_times) == {"own", "vae"}

    active = bench.app.control.inspect(timeout=5, destination=[node.node]).active() or {}
    await tell_stops(bench.app, [(node.node, request["id"]) for request in active[node.node]])

    await bench.shows(hot_cache=(), load={"gpu": 0, "cpu": 0})
    assert (folder / "started").exists()


async def test_a_stopped_attempt_is_cancelled_by_the_control_command(each_bench: Bench) -> None:
    bench = each_bench
    bench.worker(**NEVER)
    info, folder = await bench.attempt("cpu", "copy")
    beside = bench.send("cpu", "copy", "beside")
    await bench.shows(load={"gpu": 0, "cpu": 2})  # told: no heartbeat comes any more by which it could find the stop

    stops = await bench.drop(info)
    assert stops == ((f"worker@{bench.broker.namespace}", info.id),)
    await tell_stops(bench.app, stops)

    eventually((folder / "cancelled").exists)
    await bench.no_claims()
    await bench.shows(load={"gpu": 0, "cpu": 1})
    assert (folder / "cancelled").read_text() == "cancelled"
    assert not (beside / "cancelled").exists()


async def test_a_stop_that_nobody_told_comes_with_the_next_heartbeat(bench: Bench) -> None:
    bench.worker(**OFTEN)
    info, folder = await bench.attempt("cpu", "copy")

    assert await bench.drop(info)

    eventually((folder / "cancelled").exists)
    await bench.no_claims()


async def test_an_attempt_that_ended_before_its_message_came_is_not_run(bench: Bench) -> None:
    bench.worker("gpu", **NEVER).terminate()
    folder = bench.folder / "attempt"
    folder.mkdir()
    job = a_job()
    info = TaskInfo("task-1", job.id, "copy", {"folder": str(folder)}, {})
    message = Compiler(bench.app).task_message(info, "cpu", time.time())
    await bench.store.commit(creation(job))
    await bench.store.commit(change(job, {"tasks": (NewTask(info, entry=Entry(message)),)}, waiting=info))
    bench.job = job
    assert await bench.drop(info) == ()

    node = bench.worker("cpu", **NEVER)

    node.wait_for_log("attempt task-1 is not run: stale")
    assert not (folder / "started").exists()


async def test_the_command_answers_what_it_has_stopped(bench: Bench) -> None:
    node = bench.worker(**NEVER)
    folder = bench.send("cpu", "copy", "held")
    eventually((folder / "started").exists)
    active = bench.app.control.inspect(timeout=5, destination=[node.node]).active() or {}
    (task_id,) = [request["id"] for request in active[node.node]]

    replies = bench.app.control.broadcast(
        STOP, arguments={"task_ids": [task_id, "unknown"]}, destination=[node.node], reply=True, timeout=10
    )

    assert replies == [{node.node: {"ok": [task_id]}}]
    eventually((folder / "cancelled").exists)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_under_celery_s_own_pools_the_record_follows_and_a_stop_breaks_nothing(bench: Bench, pool: str) -> None:
    bench.processes.make(
        CeleryWorkerProcess, "avtomatika", node="own@pool", env={**bench.env, **OFTEN}, options=("-P", pool, "-c", "2")
    )
    info, folder = await bench.attempt("cpu", "copy")
    await bench.shows(load={"gpu": 0, "cpu": 1})

    stops = await bench.drop(info)
    assert stops == (("own@pool", info.id),)
    await tell_stops(bench.app, stops)
    boot = (await bench.record()).boot_id

    async def taken() -> bool:
        return not await bench.store._client.exists(bench.store._keys.stops(boot))

    await eventually_async(taken)
    (folder / "go").touch()
    await bench.no_claims()
    after = bench.send("cpu", "copy", "after")
    eventually((after / "started").exists)
    (after / "go").touch()
    await bench.shows(load={"gpu": 0, "cpu": 0})
