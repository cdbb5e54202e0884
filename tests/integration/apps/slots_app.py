"""A Celery app with our pool, transport and consumer, and tasks that write down what they did. For workers in tests."""

from __future__ import annotations

import asyncio
import json
import os
import time
from functools import lru_cache
from typing import Any

import redis
from celery import Celery, Task

from avtomatika.broker.consumer import CapabilityConsumerStep
from avtomatika.broker.redis import transport_options
from avtomatika.settings import get_settings
from avtomatika.worker import sdk
from avtomatika.worker.pool import AsyncPool, CancelReason, Requeue, TaskRequest, current_cancel_reason

settings = get_settings()
prefix = settings.queue_prefix
on_redis = settings.broker_url.startswith("redis")
log_key = "log"  # lines "<what> <capability> <name> <running of the capability> <running in all> <time>"


@lru_cache
def log() -> redis.Redis:
    return redis.Redis.from_url(settings.state_url)


app = Celery("slots", broker=settings.broker_url, set_as_current=True)
app.conf.update(
    broker_transport="avtomatika.broker.redis:Transport" if on_redis else None,
    broker_transport_options={**transport_options(settings), **json.loads(os.environ.get("TRANSPORT", "{}"))} if on_redis else {},
    worker_pool="avtomatika.worker.pool:AsyncPool",
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_channel_error_retry=True,
    control_exchange=f"{prefix}celery",
    event_exchange=f"{prefix}celeryev",
    event_queue_prefix=f"{prefix}celeryev",
    task_default_queue=f"{prefix}celery",
    worker_send_task_events=True,
    task_ignore_result=True,
)
app.steps["consumer"].add(CapabilityConsumerStep)

worker = sdk.Worker(
    max_concurrent_tasks=int(os.environ.get("GLOBAL_LIMIT", "10")),
    task_type_limits={"gpu": 1, "cpu": min(4, int(os.environ.get("GLOBAL_LIMIT", "10")))},
)


@worker.task("train", task_type="gpu")
async def train() -> None:
    """Stands for the declaration: the Celery tasks below do the work."""


@worker.task("resize", task_type="cpu")
async def resize() -> None:
    """The same."""


@worker.task("describe", task_type="cpu")
async def describe() -> None:
    """The same: a second queue on the channel of `cpu`."""


sdk.use(worker)
running: dict[str, int] = {}


def note(what: str, capability: str, name: str) -> None:
    log().rpush(log_key, f"{what} {capability} {name} {running.get(capability, 0)} {sum(running.values())} {time.time()}")


class Pooled(Task):
    """A task that runs on the pool's loop."""

    acks_late = True

    async def run_async(self, request: TaskRequest) -> Any:
        capability, name, seconds = request.args
        running[capability] = running.get(capability, 0) + 1
        note("start", capability, name)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            reason = current_cancel_reason()
            note(f"cancelled:{reason}", capability, name)
            if reason is CancelReason.SHUTDOWN:
                raise Requeue from None
            raise
        finally:
            running[capability] -= 1
        note("end", capability, name)
        return {"name": name}


@app.task(name="work", base=Pooled, bind=True)
def work(self: Any, *args: Any) -> None:
    raise NotImplementedError("runs as a coroutine")


@app.task(name="plain", acks_late=True)
def plain(capability: str, name: str, seconds: float) -> str:
    note("start", capability, name)
    time.sleep(seconds)
    note("end", capability, name)
    return "done"


@app.task(name="running")
def count_of_running() -> list[str]:
    assert AsyncPool.current is not None
    return AsyncPool.current.running()
