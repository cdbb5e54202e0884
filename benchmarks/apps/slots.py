"""The worker of `benchmarks.slot_refill`: one gpu slot, tasks that note when they began and ended."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery import Celery, Task

from avtomatika.broker.consumer import CapabilityConsumerStep
from avtomatika.broker.redis import transport_options
from avtomatika.settings import get_settings
from avtomatika.worker import sdk
from avtomatika.worker.pool import TaskRequest

settings = get_settings()
app = Celery("slots", broker=settings.broker_url)
app.conf.update(
    broker_transport="avtomatika.broker.redis:Transport",
    broker_transport_options=transport_options(settings),
    worker_pool="avtomatika.worker.pool:AsyncPool",
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
)
app.steps["consumer"].add(CapabilityConsumerStep)

worker = sdk.Worker(max_concurrent_tasks=10, task_type_limits={"gpu": 1, "cpu": 4})


@worker.task("train", task_type="gpu")
async def train() -> None:
    """Stands for the declaration; `Timed` is what runs."""


@worker.task("resize", task_type="cpu")
async def resize() -> None:
    """The same."""


sdk.use(worker)
began: list[float] = []
ended: list[float] = []


class Timed(Task):
    """Sleeps, and keeps its times; the last one tells them all."""

    acks_late = True

    async def run_async(self, request: TaskRequest) -> None:
        seconds, last = request.args
        if request.kwargs.get("busy"):
            await asyncio.sleep(seconds)
            return
        began.append(time.perf_counter())
        await asyncio.sleep(seconds)
        ended.append(time.perf_counter())
        if last:
            self._tell()

    def _tell(self) -> None:
        import redis

        gaps = [after - before for before, after in zip(ended, began[1:], strict=False)]
        redis.Redis.from_url(settings.state_url).rpush("gaps", *gaps)


@app.task(name="timed", base=Timed, bind=True)
def timed(self: Any, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("runs as a coroutine")
