"""Redis, broker and state, freezes, and is unreachable for a while: everything waits, says so, and goes on by itself.

AVTOMATIKA_FAULT_SECONDS sets how long; 60 is what the product is made for, and a test run takes less.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import opened_engine
from tests.support.fleet import make_fleet
from tests.support.polling import eventually, eventually_async
from tests.support.processes import Facade, Processes
from tests.support.proxy import Proxy
from tests.support.servers import Broker, RedisServer

pytestmark = pytest.mark.timeout(600)

SECONDS = float(os.environ.get("AVTOMATIKA_FAULT_SECONDS", "5"))


async def test_redis_freezes_and_is_unreachable_under_load(
    own_redis: RedisServer, namespace: str, processes: Processes, tmp_path: Path
) -> None:
    proxy = Proxy(own_redis.port)
    url = urlunsplit(urlsplit(own_redis.url)._replace(netloc=f"127.0.0.1:{proxy.port}"))
    fleet = make_fleet(
        Broker("redis", own_redis, url, "", namespace), processes, tmp_path,
        REDIS_URL=url, BROKER_TIMEOUT_SECONDS="1", WATCHDOG_SECONDS="6",  # one to six, as they are by default
        RATE_LIMITING_ENABLED="false", WORKER_HEALTH_CHECK_INTERVAL_SECONDS="60",
    )  # fmt: skip
    fleet.orchestrator(wait=False)
    worker = fleet.worker("painter", {"FLEET_LIMIT": "3"}, wait=False)
    facade = processes.make(Facade, env=fleet.env)
    processes.wait_ready()
    jobs: dict[int, str] = {}
    numbers = itertools.count()  # what was answered 503 may have been taken all the same
    async with (
        aiohttp.ClientSession(facade.url, headers={"X-Client-Token": facade.token}) as session,
        opened_engine({**fleet.env, "REDIS_URL": own_redis.url, "BROKER_URL": own_redis.url}) as engine,
    ):

        async def accepted() -> bool:
            n = next(numbers)
            body = {"blueprint": "one", "initial_data": {"params": {"n": n, "seconds": 0.5}}}
            async with session.post("/api/v1/jobs", json=body) as response:
                if response.status == 202:
                    jobs[n] = (await response.json())["job_id"]
                assert response.status in (202, 503)
                return response.status == 202

        for begin, end in ((partial(own_redis.signal, signal.SIGSTOP), partial(own_redis.signal, signal.SIGCONT)),
                           (proxy.refuse, proxy.accept)):  # fmt: skip
            ended = len(fleet.lines("end"))
            for _ in range(12):
                await eventually_async(accepted)
            eventually(lambda ended=ended: len(fleet.lines("end")) > ended)

            begin()
            until, refused = time.monotonic() + SECONDS, 0
            while time.monotonic() < until or not refused:
                refused += not await accepted()
                await asyncio.sleep(0.5)
            end()

            await eventually_async(accepted)
            for job_id in jobs.values():
                assert (await engine.ended(job_id)).status is JobStatus.FINISHED
    for event in ("begin", "end"):
        assert Counter(line["n"] for line in fleet.lines(event)).most_common(1)[0][1] == 1
        assert {line["n"] for line in fleet.lines(event)} >= set(jobs)
    assert fleet.most_at_once() <= 3
    assert "has not turned" not in worker.log()
    processes.close()
    proxy.close()
