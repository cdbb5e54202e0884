"""Schedules over several orchestrators: a due time has one job, also when the leader is frozen for longer than its lock lasts."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest
from celery import Celery

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.publisher import Publisher
from avtomatika.compiler import Compiler
from avtomatika.engine import schedule_orders
from avtomatika.engine.results import Engine
from avtomatika.engine.schedules import Scheduler
from avtomatika.engine.watcher import LOCK
from avtomatika.jobs import Job, JobStatus
from avtomatika.schedules.file import ScheduleBook
from avtomatika.settings import read_settings
from avtomatika.state.keys import Keys
from avtomatika.state.redis import RedisStore, connect
from tests.support.engine import APPS, opened_engine
from tests.support.polling import eventually, eventually_async
from tests.support.processes import Orchestrator, Processes
from tests.support.records import NOW
from tests.support.servers import Broker, RedisServer

pytestmark = pytest.mark.timeout(600)

EVERY_SECOND = """
[beat]
blueprint = "echo"
every = "1s"
catch_up = "all"
"""


def _due_times(jobs: list[Job]) -> list[float]:
    return sorted(datetime.fromisoformat(job.initial_data["schedule"]["due_at"]).timestamp() for job in jobs)


async def test_three_that_all_believe_they_lead(each_redis: RedisServer, namespace: str) -> None:
    blueprint = Blueprint("beat")
    blueprint.handler_for("start", is_start=True, is_end=True)(lambda: None)
    blueprint.schedule(every=1, catch_up="all")
    registry = BlueprintRegistry()
    registry.register(blueprint)
    settings, now = read_settings(), NOW
    app = Celery("beat", set_as_current=False, broker="memory://")
    stores, schedulers = [], []
    for number in range(3):
        store = RedisStore(connect(each_redis.url), namespace, push=lambda m: (f"{namespace}-queue", json.dumps(m.to_dict())))
        engine = Engine(
            store=store,
            compiler=Compiler(app),
            publisher=Publisher(app, store),
            blueprints=registry,
            settings=settings,
            boot_id=f"boot-{number}",
            clock=lambda: now,
        )
        stores.append(store)
        schedulers.append(Scheduler(engine, ScheduleBook(settings, registry)))

    for _ in range(12):
        await asyncio.gather(*(scheduler.round() for scheduler in schedulers))
        now += 2.5

    jobs = list(await stores[0].list_jobs(limit=1000))
    assert _due_times(jobs) == [NOW + n for n in range(1, 28)]
    assert all(job.created_at >= _due_times([job])[0] for job in jobs)  # none before its time
    with each_redis.client() as client:
        assert client.llen(f"{namespace}-queue") == 27
    for store in stores:
        await store.close()


async def test_a_leader_that_is_frozen_for_longer_than_its_lock(
    redis_server: RedisServer, namespace: str, processes: Processes, tmp_path: Path
) -> None:
    broker = Broker("redis", redis_server, redis_server.url, "", namespace)
    (tmp_path / "schedules.toml").write_text(EVERY_SECOND)
    env = {
        **broker.env,
        "BLUEPRINTS_DIR": str(APPS / "api" / "blueprints"),
        "SCHEDULES_CONFIG_PATH": str(tmp_path / "schedules.toml"),
    }
    nodes = {f"o{n}@{namespace}": processes.make(Orchestrator, env=env, node=f"o{n}@{namespace}", wait=False) for n in range(3)}
    processes.wait_ready()
    async with opened_engine(env) as engine:
        store = engine.service.store

        async def more(count: int) -> None:
            """So many more jobs come."""
            before = len(await store.list_jobs(limit=1000))

            async def come() -> bool:
                return len(await store.list_jobs(limit=1000)) >= before + count

            await eventually_async(come)

        await more(2)
        leader = await _leader(broker, store)
        nodes[leader].signal(signal.SIGSTOP)
        with redis_server.client() as client:  # its lock runs out, and another one takes it
            held = client.get(Keys(namespace).lock(LOCK))
            eventually(lambda: client.get(Keys(namespace).lock(LOCK)) not in (held, None))
        await more(3)
        nodes[leader].signal(signal.SIGCONT)
        await more(3)
        await schedule_orders.pause(store, "beat", time.time())
        jobs = list(await store.list_jobs(limit=1000))
        due = _due_times(jobs)
        assert due == [due[0] + n for n in range(len(due))]  # none is missing, none is there twice
        assert all(job.created_at >= _due_times([job])[0] for job in jobs)
        ended = [await engine.ended(job.id) for job in jobs]
    assert {job.status for job in ended} == {JobStatus.FINISHED}


async def _leader(broker: Broker, store: RedisStore) -> str:
    """The node name of the orchestrator that does the housekeeping."""
    with broker.redis.client() as client:
        held = client.get(Keys(broker.namespace).lock(LOCK))
    assert held is not None
    boot_id = held.decode() if isinstance(held, bytes) else held
    return next(worker.id for worker in await store.workers(0) if worker.boot_id == boot_id)
