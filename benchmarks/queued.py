"""Throughput and Redis memory with 100,000 jobs queued, beside 1,000: neither may depend on how many wait.

Two installations, each with a Redis, an orchestrator and a worker of its own; one of them runs at a time, the other is stopped
(SIGSTOP), and rounds alternate. Jobs are queued in two places: before their first step (in the orchestrators' queue; they have
no task, whose result would queue behind all of them), and at their task (in the store). In each round the queue is filled up,
and the first jobs to leave it are timed. What they cost the processes and Redis in time of a processor says the same on a
machine that has other work to do, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import redis.asyncio as aioredis
from celery import Celery

from avtomatika.compiler import Compiler
from avtomatika.engine.draft import new_task
from avtomatika.engine.service import Service, open_service
from avtomatika.jobs import Event, Job, JobStatus, TaskInfo, new_id
from avtomatika.settings import read_settings
from avtomatika.state.base import Commit
from benchmarks.support import HERE, celery_worker, private_redis

FEW = 1_000
MANY = int(os.environ.get("BENCH_QUEUED", "100000"))
TIMED = 600
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
AT_ONCE = 8
STEP, TASK = "before their first step", "waiting for a worker"


@dataclass
class Place:
    """One installation whose queue holds so many jobs."""

    depth: int
    url: str
    pids: dict[str, int]
    service: Service
    compiler: Compiler
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    bytes_a_job: float = 0.0

    def run(self, *processes: str) -> None:
        """Lets these processes run, and only these."""
        for name, pid in self.pids.items():
            os.kill(pid, signal.SIGCONT if name in processes else signal.SIGSTOP)

    async def finished(self) -> int:
        return (await self.service.store.count_by_status())[JobStatus.FINISHED]

    async def info(self, name: str) -> int:
        client = aioredis.Redis.from_url(self.url)
        info: Any = await client.info()
        await client.aclose()
        return int(info[name])

    async def cpu(self) -> float:
        """Seconds that orchestrator, worker and Redis have spent."""
        pids = (*self.pids.values(), await self.info("process_id"))
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)

    async def fill(self, kind: str) -> None:
        """Brings the queue to its depth, with nobody at work."""
        counts = await self.service.store.count_by_status()
        waiting = JobStatus.PENDING if kind == STEP else JobStatus.WAITING_FOR_WORKER
        missing = max(0, self.depth - counts[waiting])
        make = self._create if kind == STEP else self._create_waiting

        async def some(count: int) -> None:
            for _ in range(count):
                await make()

        await asyncio.gather(*(some(missing // AT_ONCE + (n < missing % AT_ONCE)) for n in range(AT_ONCE)))

    async def _create(self) -> None:
        await self.service.create("no_step", {})

    async def _create_waiting(self) -> None:
        """A job as the orchestrator leaves it that has dispatched its task."""
        now = self.service.clock()
        info = TaskInfo(new_id(), (job_id := new_id()), "nothing", {"n": 1}, {"success": "end"}, created_at=now)
        job = Job(job_id, "one_step", "first", created_at=now, updated_at=now, status=JobStatus.WAITING_FOR_WORKER, waiting=info)
        event = Event(f"{job_id}:0:0", job_id, "task_dispatched", now, task_id=info.id)
        await self.service.store.commit(Commit(job, None, events=(event,), tasks=(new_task(info, "cpu", self.compiler, now),)))

    async def timed(self) -> None:
        """Runs both processes until so many jobs have finished."""
        before = await self.finished()
        self.run("orchestrator", "worker")
        while (warm := await self.finished() - before) < TIMED // 6:  # woken, and its pipes are full
            await asyncio.sleep(0.005)
        began, spent = time.perf_counter(), await self.cpu()
        while (done := await self.finished() - before) < TIMED:
            await asyncio.sleep(0.005)
        self.rates.append((done - warm) / (time.perf_counter() - began))
        self.run()
        self.cpu_ms.append(1000 * (await self.cpu() - spent) / (done - warm))


@contextlib.contextmanager
def _processes(name: str) -> Iterator[tuple[str, dict[str, int]]]:
    with private_redis() as url:
        app = HERE / "apps" / "engine"
        env = {
            "REDIS_URL": url,
            "BLUEPRINTS_DIR": str(app / "blueprints"),
            "WORKERS_DIR": str(app / "workers"),
            # Nobody is dead that is stopped, and no message is given out again.
            "WORKER_HEALTH_CHECK_INTERVAL_SECONDS": "36000",
            "HEARTBEAT_INTERVAL_SECONDS": "15",
            "VISIBILITY_TIMEOUT_SECONDS": "36000",
            "CLAIM_GRACE_SECONDS": "36000",
        }
        with (
            celery_worker("avtomatika", "-Q", "orchestrator", "-n", f"orchestrator@{name}", env=env) as orchestrator,
            celery_worker("avtomatika", "-n", f"worker@{name}", env=env) as worker,
        ):
            time.sleep(2)  # both have registered
            yield url, {"orchestrator": orchestrator, "worker": worker}


async def _measure(kind: str, few: Place, many: Place) -> None:
    for place in (few, many):
        place.run()
        empty = await place.info("used_memory")
        await place.fill(kind)
        place.bytes_a_job = (await place.info("used_memory") - empty) / place.depth
    for n in range(ROUNDS):  # side by side, so that whatever else the machine does falls on both
        for place in (few, many) if n % 2 else (many, few):
            await place.fill(kind)
            await place.timed()
    small, large = statistics.median(few.rates), statistics.median(many.rates)
    print(f"{'jobs/s, ' + kind:36}{small:12.0f}{large:12.0f}{large / small:8.2f}", flush=True)
    small, large = statistics.median(few.cpu_ms), statistics.median(many.cpu_ms)
    print(f"{'CPU ms a job, ' + kind:36}{small:12.2f}{large:12.2f}{large / small:8.2f}", flush=True)
    ratio = many.bytes_a_job / few.bytes_a_job
    print(f"{'bytes a job, ' + kind:36}{few.bytes_a_job:12.0f}{many.bytes_a_job:12.0f}{ratio:8.2f}", flush=True)


async def _run(kind: str, *found: tuple[str, dict[str, int]]) -> None:
    app = HERE / "apps" / "engine"
    places = []
    for depth, (url, pids) in zip((FEW, MANY), found, strict=True):
        settings = read_settings(redis_url=url, blueprints_dir=app / "blueprints", workers_dir=app / "workers")
        celery = Celery("bench", broker=url, set_as_current=False)
        places.append(Place(depth, url, pids, await open_service(settings), Compiler(celery)))
    await _measure(kind, *places)
    for place in places:
        await place.service.close()


def main() -> None:
    print(f"{'':36}{FEW:>12,}{MANY:>12,}{'ratio':>8}", flush=True)
    for kind in (STEP, TASK):
        with _processes("few") as few, _processes("many") as many:
            asyncio.run(_run(kind, few, many))


if __name__ == "__main__":
    main()
