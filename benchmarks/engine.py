"""Jobs of one and three steps, beside bare Celery's task and chain of three, in one run on one private Redis.

Ours: one orchestrator and one worker process. Bare Celery: two prefork processes, results fetched. Rounds alternate between the
two, so that a noisy machine is noisy for both; the ratio is that of the medians.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.support import HERE, celery_worker, private_redis

JOBS = int(os.environ.get("BENCH_JOBS", "400"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
ONE_BY_ONE = 60


@dataclass
class Figures:
    """Of one kind of work: jobs a second with all submitted at once, and the median of one after the other, in ms."""

    rate: float
    p50: float


class Ours:
    def __init__(self, service: Any) -> None:
        self.service = service

    async def burst(self, blueprint: str) -> float:
        before = await self._finished()
        began = time.perf_counter()
        for _ in range(JOBS):
            await self.service.create(blueprint, {})
        while await self._finished() - before < JOBS:
            await asyncio.sleep(0.01)
        return JOBS / (time.perf_counter() - began)

    async def _finished(self) -> int:
        return (await self.service.store.count_by_status())["finished"]

    async def one_by_one(self, blueprint: str) -> float:
        took = []
        for _ in range(ONE_BY_ONE):
            began = time.perf_counter()
            job = await self.service.create(blueprint, {})
            while not (await self.service.store.load(job.id)).status.is_terminal:
                await asyncio.sleep(0.0005)
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)


class Bare:
    def __init__(self, url: str) -> None:
        os.environ["BARE_URL"] = url
        sys.path.insert(0, str(HERE / "apps"))
        import bare

        self.task = bare.nothing

    def _work(self, kind: str) -> Any:
        from celery import chain

        one = self.task.s(1)
        return one if kind == "one_step" else chain(one, self.task.s(), self.task.s())

    def burst(self, kind: str) -> float:
        began = time.perf_counter()
        results = [self._work(kind).apply_async() for _ in range(JOBS)]
        for result in results:
            result.get(timeout=120)
        return JOBS / (time.perf_counter() - began)

    def one_by_one(self, kind: str) -> float:
        took = []
        for _ in range(ONE_BY_ONE):
            began = time.perf_counter()
            self._work(kind).apply_async().get(timeout=30)
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)


async def measure(url: str) -> dict[tuple[str, str], Figures]:
    from avtomatika.engine.service import open_service
    from avtomatika.settings import read_settings

    ours, bare = Ours(await open_service(read_settings())), Bare(url.removesuffix("0") + "1")
    rates: dict[tuple[str, str], list[float]] = {}
    p50s: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for kind in ("one_step", "three_steps"):
            rates.setdefault(("avtomatika", kind), []).append(await ours.burst(kind))
            rates.setdefault(("celery", kind), []).append(await asyncio.to_thread(bare.burst, kind))
            p50s.setdefault(("avtomatika", kind), []).append(await ours.one_by_one(kind))
            p50s.setdefault(("celery", kind), []).append(await asyncio.to_thread(bare.one_by_one, kind))
    await ours.service.close()
    return {key: Figures(statistics.median(rates[key]), statistics.median(p50s[key])) for key in rates}


def main() -> None:
    with private_redis() as url:
        app = HERE / "apps" / "engine"
        env = {
            "REDIS_URL": url,
            "BARE_URL": url.removesuffix("0") + "1",
            "BLUEPRINTS_DIR": str(app / "blueprints"),
            "WORKERS_DIR": str(app / "workers"),
        }
        os.environ.update(env)
        with (
            celery_worker("avtomatika", "-Q", "orchestrator", "-n", "orchestrator@bench", env=env),
            celery_worker("avtomatika", "-n", "worker@bench", env=env),
            celery_worker("bare", "-c", "2", "-n", "bare@bench", env=env),
        ):
            figures = asyncio.run(measure(url))
    print(f"{JOBS} jobs at once, {ONE_BY_ONE} one by one, medians of {ROUNDS} rounds")
    print(f"{'':14}{'avtomatika':>22}{'bare Celery':>22}{'ratio':>8}")
    for kind, label in (("one_step", "1 step"), ("three_steps", "3 steps")):
        ours, bare = figures["avtomatika", kind], figures["celery", kind]
        print(f"{label + ', jobs/s':14}{ours.rate:22.0f}{bare.rate:22.0f}{ours.rate / bare.rate:8.2f}")
        print(f"{label + ', p50 ms':14}{ours.p50:22.1f}{bare.p50:22.1f}{ours.p50 / bare.p50:8.2f}")


if __name__ == "__main__":
    main()
