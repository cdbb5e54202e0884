"""A thousand HTTP workers that long poll one facade: broker connections, memory of a parked poll, time from publish to answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import aiohttp
import psutil
import redis

from benchmarks.support import HERE, celery_worker, free_port, private_redis, server_process

WORKERS = int(os.environ.get("BENCH_WORKERS", "1000"))
JOBS = int(os.environ.get("BENCH_JOBS", "500"))
PER_SECOND = 100
CLIENT, WORKER = "benchmark-token-of-the-client", "benchmark-token-of-workers"


@contextlib.contextmanager
def _fleet(redis_url: str) -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    env = {
        "REDIS_URL": redis_url,
        "BROKER_URL": redis_url,
        "CLIENT_TOKEN": CLIENT,
        "GLOBAL_WORKER_TOKEN": WORKER,
        "API_PORT": str(port),
        "RATE_LIMITING_ENABLED": "false",
        "WORKER_POLL_TIMEOUT_SECONDS": "120",
        "BLUEPRINTS_DIR": str(HERE / "apps" / "engine" / "blueprints"),
        "WORKERS_DIR": str(HERE / "apps" / "engine" / "workers"),
    }
    with (
        celery_worker("avtomatika", "-Q", "orchestrator", "-n", "orchestrator@bench", env=env),
        server_process([sys.executable, "-m", "avtomatika", "server"], port, env) as pid,
    ):
        yield f"http://127.0.0.1:{port}", psutil.Process(pid)


class Workers:
    """They poll, note when their answer came, report, and poll again."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.answered: dict[str, float] = {}

    async def register(self, numbers: range) -> None:
        for number in numbers:
            body = {"worker_id": f"w{number}", "supported_tasks": ["nothing"], "capabilities": {"cpu": ["nothing"]}}
            async with self._session.post("/_worker/workers/register", json=body) as response:
                assert response.status == 200, await response.text()

    async def work(self, number: int) -> None:
        while True:
            async with self._session.get(f"/_worker/workers/w{number}/tasks/next") as response:
                if response.status != 200:
                    continue
                task: dict[str, Any] = await response.json()
            self.answered[task["task_id"]] = time.time()
            ids = {"job_id": task["job_id"], "task_id": task["task_id"], "worker_id": f"w{number}"}
            async with self._session.post("/_worker/tasks/result", json={**ids, "result": {"data": {"n": 1}}}) as response:
                assert response.status == 200, await response.text()


async def _measure(redis_url: str, url: str, facade: psutil.Process) -> None:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    headers = {"X-Worker-Token": WORKER, "X-Avtomatika-Token": CLIENT}
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, headers=headers) as session:
        workers = Workers(session)
        first = WORKERS // 10
        await workers.register(range(WORKERS))
        polling = [asyncio.create_task(workers.work(number)) for number in range(first)]
        await asyncio.sleep(3)
        connections, memory = len(client.client_list()), facade.memory_info().rss
        polling += [asyncio.create_task(workers.work(number)) for number in range(first, WORKERS)]
        await asyncio.sleep(5)
        more, after = len(client.client_list()), facade.memory_info().rss
        print(f"  connections to Redis: {connections} with {first} parked polls, {more} with {WORKERS}")
        print(f"  memory of a parked poll: {(after - memory) / (WORKERS - first) / 1024:.1f} KiB, its HTTP connection included")
        jobs = []
        for number in range(JOBS):
            async with session.post("/api/v1/jobs", json={"blueprint": "one_step", "initial_data": {"n": number}}) as response:
                jobs.append((await response.json())["job_id"])
            await asyncio.sleep(1 / PER_SECOND)
        while len(workers.answered) < JOBS:
            await asyncio.sleep(0.05)
        seconds = sorted([await _seconds(session, job, workers.answered) for job in jobs])
        p50 = statistics.median(seconds)
        p99 = seconds[int(0.99 * len(seconds))]
        print(f"  publish to answer at {PER_SECOND} jobs/s: p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms")
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)


async def _seconds(session: aiohttp.ClientSession, job_id: str, answered: dict[str, float]) -> float:
    """From the commit that dispatched a job's task, which publishes it, to the moment at which its worker had it."""
    async with session.get(f"/api/v1/jobs/{job_id}/history") as response:
        events = await response.json()
    event = next(event for event in events if event["event_type"] == "task_dispatched")
    return answered[event["task_id"]] - datetime.fromisoformat(event["timestamp"]).timestamp()


def main() -> None:
    with private_redis() as url, _fleet(url) as (facade_url, facade):
        asyncio.run(_measure(url, facade_url, facade))


if __name__ == "__main__":
    main()
