"""A step on an existing Celery app, which has its own queue, worker and result backend and knows nothing of avtomatika."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from avtomatika.jobs import Job, JobStatus
from tests.support.celery_nodes import APPS as PLAIN_APPS
from tests.support.engine import app_environment, opened_engine
from tests.support.polling import eventually_async
from tests.support.processes import CeleryWorkerProcess, Orchestrator, Processes
from tests.support.servers import Broker, make_broker

pytestmark = pytest.mark.timeout(600)


def _start(broker: Broker, processes: Processes, pool: str, *, backend: bool = True) -> dict[str, str]:
    """An orchestrator and the fleet's own worker; the environment of the orchestrator."""
    queue = f"{broker.queue_prefix}fleet"
    env = {**broker.env, **app_environment("plain_fleet"), "JOB_MAX_RETRIES": "1", "FLEET_QUEUE": queue}
    results = "disabled://"
    if backend:
        results = env["PLAIN_RESULT_BACKEND"] = f"{broker.redis_url.rpartition('/')[0]}/1"
    processes.make(
        CeleryWorkerProcess,
        "plainapp",
        node=f"fleet@{broker.namespace}",
        queues=(queue,),
        env={"CELERY_BROKER_URL": broker.broker_url, "CELERY_RESULT_BACKEND": results},
        cwd=PLAIN_APPS,
        options=("--pool", pool, "--concurrency", "2"),
        wait=False,
    )
    processes.make(Orchestrator, env=env, wait=False)
    processes.wait_ready()
    return env


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_values_arrive_as_data(redis_broker: Broker, processes: Processes, pool: str) -> None:
    env = _start(redis_broker, processes, pool)

    async with opened_engine(env) as engine:
        job = await engine.run("values", {"x": 20, "y": 22})

    assert (job.status, job.error_message) == (JobStatus.FINISHED, None)
    assert job.result == {"name": "sum 42", "length": 6, "result": 0}


@pytest.mark.rabbitmq
async def test_values_arrive_over_rabbitmq(request: pytest.FixtureRequest, namespace: str, processes: Processes) -> None:
    env = _start(make_broker(request, "rabbitmq", namespace), processes, "prefork")

    async with opened_engine(env) as engine:
        job = await engine.run("values", {"x": 1, "y": 2})

    assert job.result == {"name": "sum 3", "length": 5, "result": 0}


async def test_exceptions_arrive(redis_broker: Broker, processes: Processes) -> None:
    env = _start(redis_broker, processes, "prefork")

    async with opened_engine(env) as engine:
        failing = await engine.run("failing", {"message": "the wheel came off"})
        mending = await engine.run("mending", {"message": "the wheel came off"})

    assert failing.status is JobStatus.QUARANTINED
    assert "ValueError" in (failing.error_message or "")
    assert "the wheel came off" in (failing.error_message or "")
    assert (mending.status, mending.result) == (JobStatus.FINISHED, "mended")


async def test_plain_tasks_join_in_a_fan_out(redis_broker: Broker, processes: Processes) -> None:
    env = _start(redis_broker, processes, "prefork")

    async with opened_engine(env) as engine:
        job = await engine.run("several")

    assert job.status is JobStatus.FINISHED
    assert job.result == {"sums": [1, 2, 3], "statuses": ["success", "success", "success", "failure"]}


async def test_without_a_result_backend_a_failure_is_permanent(redis_broker: Broker, processes: Processes) -> None:
    env = _start(redis_broker, processes, "prefork", backend=False)

    async with opened_engine(env) as engine:
        values = await engine.run("values", {"x": 1, "y": 1})
        failing = await engine.run("failing", {"message": "unheard"})

    assert values.status is JobStatus.FINISHED
    assert failing.status is JobStatus.QUARANTINED


async def test_a_cancelled_task_that_has_not_begun_is_thrown_away(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    env = _start(redis_broker, processes, "prefork")
    notes = tmp_path / "notes"

    async with opened_engine(env) as engine:

        def note(number: int, seconds: float) -> Awaitable[Job]:
            return engine.create("noting", {"path": str(notes), "seconds": seconds, "line": str(number)})

        async def both_run() -> bool:
            return notes.exists() and sorted(notes.read_text().split()) == ["0", "1"]

        # Two run at once, and prefork fetches more: the last ones lie in the worker, where a revoke finds them.
        jobs = [await note(n, 5) for n in range(2)]
        await eventually_async(both_run, deadline=60)
        jobs += [await note(n, 0) for n in (2, 3)]
        for job in jobs[2:]:
            await engine.reaches(job.id, JobStatus.WAITING_FOR_WORKER)
        cancelled, _ = await engine.service.orders.cancel(jobs[3].id)
        assert cancelled.status is JobStatus.CANCELLED
        for job in jobs[:3]:
            assert (await engine.ended(job.id)).status is JobStatus.FINISHED

    assert sorted(notes.read_text().split()) == ["0", "1", "2"]
