"""What choosing a worker costs with 10 registered workers and with 1,000: every one of them knows the task and is idle."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field

from celery import Celery

from avtomatika.broker.publisher import Publisher
from avtomatika.broker.redis import prepare_push
from avtomatika.compiler import Compiler
from avtomatika.engine.dispatch import Dispatcher
from avtomatika.engine.draft import Draft, new_job_commit
from avtomatika.jobs import Job, JobStatus, TaskInfo, WorkerRecord, new_id
from avtomatika.settings import read_settings
from avtomatika.state.redis import RedisStore, connect
from benchmarks.support import private_redis

ROUNDS = 400
WARM_UP = 40
TASK = "draw"
KINDS: dict[str, dict[str, object]] = {
    "cheapest": {"dispatch_strategy": "cheapest"},
    "round_robin": {"dispatch_strategy": "round_robin"},
    "least_connections": {"dispatch_strategy": "least_connections"},
    "best_value": {"dispatch_strategy": "best_value"},
    "default, 24 GB VRAM": {"resource_requirements": {"gpu_info": {"vram_gb": 24}}},
    "default, warm": {},
}


@dataclass
class Fleet:
    """A dispatcher whose store knows so many workers."""

    store: RedisStore
    dispatcher: Dispatcher
    compiler: Compiler
    spent: dict[str, list[float]] = field(default_factory=dict)

    async def dispatch(self, kind: str) -> None:
        """One job that dispatches one task, until the task lies in the direct queue of the worker that was chosen."""
        now = time.time()
        job = Job(new_id(), "bench", "start", created_at=now, updated_at=now)
        await self.store.commit(new_job_commit(job, self.compiler, now))
        info = TaskInfo(new_id(), job.id, TASK, {}, {"success": "end"}, created_at=now, **KINDS[kind])  # type: ignore[arg-type]
        began = time.perf_counter()
        draft = Draft(job, now, self.compiler)
        draft.wait(JobStatus.WAITING_FOR_WORKER, info)
        draft.task(info, "gpu")
        await self.store.commit(draft.commit())
        await self.dispatcher.pump(TASK)
        self.spent.setdefault(kind, []).append(time.perf_counter() - began)
        record = await self.store.get_task(info.id)
        assert record is not None
        assert record.assigned_to is not None, f"{kind}: the task was not given to a worker"
        over = Draft(draft.commit().job, now, self.compiler)
        over.leave_waiting()
        over.end(JobStatus.FINISHED)
        await self.store.commit(over.commit())


async def _fleet(url: str, workers: int) -> Fleet:
    settings = read_settings(redis_url=url)
    store = RedisStore(connect(url), f"fleet{workers}", push=prepare_push)
    app = Celery("bench", broker=url, set_as_current=False)
    compiler = Compiler(app)
    await store.pin_tasks({TASK: "gpu"})
    now = time.time()
    for n in range(workers):
        record = WorkerRecord(
            id=f"worker{n}",
            boot_id=new_id(),
            tasks=(TASK, "other"),
            supported_tasks=(TASK, "other"),
            capabilities={"gpu": 10_000},
            max_concurrent_tasks=10_000,
            hot_cache=("model",),
            skill_dependencies={TASK: ["model"]},
            cost_per_second=n % 5,
            resources={"cpu_cores": 16, "memory_gb": 64, "gpu_info": {"model": "RTX 4090", "vram_gb": 24 if n % 3 else 8}},
            registered_at=now,
        )
        await store.register(record, now, 3600)
    publisher = Publisher(app, store)
    dispatcher = Dispatcher(store=store, compiler=compiler, publisher=publisher, settings=settings, clock=time.time)
    return Fleet(store, dispatcher, compiler)


async def _measure(url: str) -> None:
    few, many = await _fleet(url, 10), await _fleet(url, 1000)
    for n in range(WARM_UP + ROUNDS):
        for kind in KINDS:
            # Side by side, so that whatever else the machine does falls on both.
            for fleet in (few, many) if n % 2 else (many, few):
                await fleet.dispatch(kind)
    print(f"{'strategy':<22} {'10 workers':>12} {'1,000 workers':>14} {'ratio':>7}")
    for kind in KINDS:
        small, large = (1000 * statistics.median(fleet.spent[kind][WARM_UP:]) for fleet in (few, many))
        print(f"{kind:<22} {small:>9.2f} ms {large:>11.2f} ms {large / small:>7.2f}")
    for fleet in (few, many):
        await fleet.store.close()


def main() -> None:
    with private_redis() as url:
        asyncio.run(_measure(url))


if __name__ == "__main__":
    main()
