"""How long a gpu slot stays empty between two tasks, while four cpu slots beside it are busy."""

from __future__ import annotations

import statistics

import redis
from celery import Celery

from avtomatika.broker.queues import capability_queue
from benchmarks.support import celery_worker, private_redis

TASKS = 200
SECONDS = 0.005


def main() -> None:
    with private_redis() as url:
        client = Celery("client", broker=url, set_as_current=False)
        with client.connection_for_write() as connection, client.amqp.Producer(connection) as producer:
            for _ in range(4 * TASKS):
                client.send_task(
                    "timed", args=(SECONDS, False), kwargs={"busy": True}, queue=capability_queue("cpu.resize"), producer=producer
                )
            for n in range(TASKS):
                client.send_task("timed", args=(SECONDS, n == TASKS - 1), queue=capability_queue("gpu.train"), producer=producer)
        env = {"REDIS_URL": url, "BROKER_URL": url}
        with celery_worker("slots", env=env):
            gaps = _gaps(url)
    median, longest = 1000 * statistics.median(gaps), 1000 * max(gaps)
    print(f"gpu slot refilled after: median {median:.1f} ms, max {longest:.1f} ms ({len(gaps)} refills)")


def _gaps(url: str) -> list[float]:
    with redis.Redis.from_url(url) as client:
        if client.blmove("gaps", "told", 60, "LEFT", "RIGHT") is None:
            raise SystemExit("the gpu tasks did not end within 60 s")
        return [float(gap) for gap in [*client.lrange("told", 0, -1), *client.lrange("gaps", 0, -1)]]


if __name__ == "__main__":
    main()
