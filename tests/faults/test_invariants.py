"""Faults of one kind each, over real processes, judged by the checker: nothing is lost, doubled, stuck, or over its limit."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from avtomatika.engine.watcher import LOCK, LOCK_SECONDS
from avtomatika.errors import WrongStateError
from avtomatika.jobs import JobStatus
from tests.support.effects import now, read
from tests.support.engine import Engine, opened_engine
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.shapes import Shapes, shapes_environment

pytestmark = pytest.mark.timeout(600)

SKEWED = Path(__file__).resolve().parents[1] / "support" / "apps" / "skewed"


def _shapes(server: RedisServer, processes: Processes, directory: Path, namespace: str, **settings: str) -> Shapes:
    return Shapes(processes, shapes_environment(server.url, directory, namespace, **settings))


async def _mixed(shapes: Shapes, engine: Engine, count: int = 1, **params: Any) -> None:
    """Some jobs of every shape that ends by itself."""
    for _ in range(count):
        await shapes.create(engine, "single", params=params)
        await shapes.create(engine, "single", params={"failures": 1, **params})
        await shapes.create(engine, "fan", count=4, params=params)
        await shapes.create(engine, "family", params=params)
        await shapes.create(engine, "picky", params=params)


@pytest.fixture
def apart(redis_server: RedisServer, processes: Processes, tmp_path: Path, namespace: str) -> Any:
    """Broker and state in two databases, each behind a proxy: messages go over the outbox."""
    state, broker = Proxy(redis_server.port), Proxy(redis_server.port)
    direct = {"DIRECT_REDIS_URL": redis_server.url, "DIRECT_BROKER_URL": redis_server.url[:-1] + "1"}
    urls = {"REDIS_URL": f"redis://127.0.0.1:{state.port}/0", "BROKER_URL": f"redis://127.0.0.1:{broker.port}/1"}
    shapes = _shapes(redis_server, processes, tmp_path, namespace, **direct)
    shapes.env["BROKER_URL"] = direct["DIRECT_BROKER_URL"]
    yield shapes, urls, state, broker
    for proxy in (state, broker):
        proxy.close()


@pytest.mark.parametrize("moment", ["before the publish", "before the outbox is cleared"])
async def test_an_orchestrator_killed_between_commit_and_publish(apart: Any, moment: str) -> None:
    shapes, urls, state_proxy, broker_proxy = apart
    proxy = broker_proxy if moment == "before the publish" else state_proxy
    orchestrator = shapes.orchestrator(env=urls)
    shapes.worker()
    shapes.processes.wait_ready()
    async with opened_engine(shapes.env) as engine:
        await engine.ended((await shapes.create(engine, "single")).id)  # everything is connected
        if proxy is broker_proxy:
            proxy.freezes_on = re.compile(rb"LPUSH\r\n\$\d+\r\ncpu\.work")
        else:
            proxy.freezes_on = re.compile(rb"HDEL\r\n\$\d+\r\n[^\r]*:outbox\r\n")
        job = await shapes.create(engine, "single")
        await eventually_async(lambda: asyncio.to_thread(proxy.frozen.wait, 0.1))
        shapes.kill(orchestrator)
        proxy.cut()  # what it was about to say is lost
        proxy.thaw()
        with shapes.clients()[0] as state:
            outbox = f"{shapes.env['NAMESPACE']}:outbox"
            await eventually_async(lambda: asyncio.to_thread(lambda: state.hlen(outbox) == 1))  # a worker's own entry goes
        assert not (await engine.service.store.load(job.id)).status.is_terminal

        orchestrator.start()

        for ended in await shapes.all_ended(engine):
            assert ended.status is JobStatus.FINISHED
        await shapes.holds(engine)


async def test_messages_that_are_repeated_and_out_of_order(
    redis_server: RedisServer, processes: Processes, tmp_path: Path, namespace: str
) -> None:
    shapes = _shapes(redis_server, processes, tmp_path, namespace)
    orchestrators = [shapes.orchestrator(f"orchestrator{n}") for n in (1, 2)]
    shapes.worker()
    processes.wait_ready()
    chance = random.Random(7)
    async with opened_engine(shapes.env) as engine:
        for turn in range(4):
            for one in orchestrators:
                one.signal(signal.SIGSTOP)
            if turn < 3:
                await _mixed(shapes, engine)
                held = await shapes.create(engine, "single", params={"seconds": 30})
                asked = await shapes.create(engine, "asks")
            await asyncio.sleep(0.3)  # results come in, and are not taken
            with redis_server.client() as client:
                _shuffle(client, "orchestrator", chance)
            for one in orchestrators:
                one.signal(signal.SIGCONT)
            await engine.reaches(asked.id, JobStatus.WAITING_FOR_HUMAN)
            await engine.service.decide(asked.id, "yes")
            await engine.reaches(held.id, JobStatus.WAITING_FOR_WORKER)
            await engine.service.orders.cancel(held.id)
            with suppress(WrongStateError):  # the first one has ended it: at once where no worker had begun, or soon after
                await engine.service.orders.cancel(held.id)
            if turn >= 2:
                break
        for job in await shapes.all_ended(engine):
            assert job.status in (JobStatus.FINISHED, JobStatus.CANCELLED), job
        await shapes.holds(engine)


def _shuffle(client: redis.Redis, queue: str, chance: random.Random) -> None:
    """Every message of a queue lies there twice, in any order; a second copy has a delivery tag of its own."""
    rows: list[str] = list(client.lrange(queue, 0, -1))  # type: ignore[arg-type]
    for row in list(rows):
        copy = json.loads(row)
        copy["properties"]["delivery_tag"] = str(uuid.uuid4())
        rows.append(json.dumps(copy))
    chance.shuffle(rows)
    with client.pipeline() as pipe:
        pipe.delete(queue)
        if rows:
            pipe.rpush(queue, *rows)
        pipe.execute()


async def test_a_leader_that_is_frozen_longer_than_its_lock(
    redis_server: RedisServer, processes: Processes, tmp_path: Path, namespace: str
) -> None:
    shapes = _shapes(redis_server, processes, tmp_path, namespace, WORKER_HEALTH_CHECK_INTERVAL_SECONDS="60")
    orchestrators = {one.node: one for one in (shapes.orchestrator(f"orchestrator{n}") for n in (1, 2))}
    shapes.worker()
    processes.wait_ready()
    async with opened_engine(shapes.env) as engine:

        async def leader() -> str:
            boots = {record.boot_id: record.id for record in await engine.service.store.workers(engine.service.clock())}
            with redis_server.client() as client:
                return boots.get(str(client.get(f"{namespace}:lock:{LOCK}")), "")

        first = await eventually_async(leader)
        await _mixed(shapes, engine, 2, seconds=0.2)
        orchestrators[first].signal(signal.SIGSTOP)
        await _mixed(shapes, engine, 2, seconds=0.2)

        async def another() -> bool:
            return await leader() not in ("", first)

        await eventually_async(another, deadline=LOCK_SECONDS + 30)
        orchestrators[first].signal(signal.SIGCONT)  # it still believes that it leads, in the middle of its round
        await _mixed(shapes, engine, 2)
        for job in await shapes.all_ended(engine):
            assert job.status is JobStatus.FINISHED
        await shapes.holds(engine)


async def test_a_task_that_kills_its_workers_is_quarantined_and_others_are_unharmed(
    redis_server: RedisServer, processes: Processes, tmp_path: Path, namespace: str
) -> None:
    shapes = _shapes(redis_server, processes, tmp_path, namespace, JOB_MAX_RETRIES="1")
    shapes.orchestrator()
    workers = [shapes.worker(f"worker{n}") for n in (1, 2)]
    processes.wait_ready()
    async with opened_engine(shapes.env) as engine:
        await _mixed(shapes, engine, 2)
        poison = await shapes.create(engine, "single", params={"kills": True})
        deaths = 0
        while not (job := await engine.service.store.load(poison.id)) or not job.status.is_terminal:
            for worker in workers:
                if not worker.running:
                    deaths += 1
                    shapes.died[worker.pid] = now()
                    worker.start()
            await asyncio.sleep(0.1)
            if deaths == 0:
                await shapes.create(engine, "single")
        assert job.status is JobStatus.QUARANTINED
        assert "does the task kill its worker?" in str(job.error_message)
        for other in await shapes.all_ended(engine, [i for i in shapes.accepted if i != poison.id]):
            assert other.status is JobStatus.FINISHED
        await shapes.holds(engine)
    runs = len([run for run in read(shapes.log) if run.job_id == poison.id])
    assert runs in (2, 3)  # one more if another task began beside it when it killed the second: then it need not be the culprit
    assert f", {runs} times" in str(job.error_message)


@pytest.mark.parametrize("lost", [False, True], ids=["always", "everysec"])
async def test_redis_is_killed_under_load(
    own_redis: RedisServer, processes: Processes, tmp_path: Path, namespace: str, lost: bool
) -> None:
    """With `appendfsync everysec` a power failure takes what was written last: here the end of the file is cut off."""
    shapes = _shapes(own_redis, processes, tmp_path, namespace)
    shapes.orchestrator()
    shapes.worker()
    processes.wait_ready()
    async with opened_engine(shapes.env) as engine:
        await _mixed(shapes, engine, 3, seconds=0.05)
        before = _append_only_file(own_redis).stat().st_size
        await _mixed(shapes, engine, 3, seconds=0.3)
        await asyncio.sleep(0.5)
        shapes.died[own_redis.pid] = now()
        own_redis.kill()
        if lost:
            file = _append_only_file(own_redis)
            size = file.stat().st_size
            assert size > before
            with file.open("rb+") as opened:
                opened.truncate(size - (size - before) // 2)
        own_redis.start()

        async def answers() -> bool:
            await engine.service.store.ping()
            return True

        await eventually_async(answers, retry=(Exception,))
        known = [job.id for job in await engine.service.store.load_many(shapes.accepted)]
        assert lost or len(known) == len(shapes.accepted)
        for job in await shapes.all_ended(engine, known):
            assert job.status is JobStatus.FINISHED
        await _mixed(shapes, engine)
        await shapes.all_ended(engine, shapes.accepted[-5:])
        await shapes.holds(engine, lossy=lost)


def _append_only_file(server: RedisServer) -> Path:
    return max(server.directory.rglob("*.aof"), key=lambda file: file.stat().st_mtime_ns)


async def test_clocks_that_are_half_a_minute_apart(
    redis_server: RedisServer, processes: Processes, tmp_path: Path, namespace: str
) -> None:
    """No task times out on the word of a clock that is ahead, and no process is dead on it."""
    shapes = _shapes(redis_server, processes, tmp_path, namespace, WORKER_HEALTH_CHECK_INTERVAL_SECONDS="5")
    path = f"{SKEWED}:{shapes.env['PYTHONPATH']}"
    ahead, behind = ({"CLOCK_SHIFT": shift, "PYTHONPATH": path} for shift in ("30", "-30"))
    shapes.orchestrator("ahead", ahead)
    shapes.orchestrator("behind", behind)
    shapes.worker("worker", behind)
    processes.wait_ready()
    async with opened_engine(shapes.env) as engine:
        options = {"timeout_seconds": 25, "dispatch_timeout_seconds": 25}
        for _ in range(100):
            await shapes.create(engine, "single", params={"seconds": 0.1}, options=options)
        for job in await shapes.all_ended(engine):
            assert (job.status, job.error_message) == (JobStatus.FINISHED, None)
        await shapes.holds(engine)
    runs = read(shapes.log)
    assert len(runs) == len({run.token for run in runs}) == 200
    assert any("this machine's clock differs from the store's by +" in log for name, log in processes.logs() if "ahead" in name)
