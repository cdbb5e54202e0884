"""Handlers that try to end their process, and Celery's revoke of a task that has not started."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from avtomatika.celery import configuration
from avtomatika.jobs import Job, JobStatus, TaskInfo, TaskState
from avtomatika.settings import get_settings
from tests.support.engine import Engine, app_environment, opened_engine
from tests.support.polling import eventually_async
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(300)


async def test_no_handler_ends_its_process(redis_broker: Broker, processes: Processes) -> None:
    env = {**redis_broker.env, **app_environment("rough"), "JOB_MAX_RETRIES": "1"}
    orchestrator = processes.make(Orchestrator, env=env)
    worker = processes.make(CapabilityWorker, env=env)
    async with opened_engine(env) as engine:
        for task, said in (
            ("leave_thread", "SystemExit: a thread wants to leave"),
            ("leave_coroutine", "SystemExit: a coroutine wants to leave"),
            ("run_out_of_memory", "MemoryError: no more"),
        ):
            job = await engine.run("rough", {"task": task})
            assert job.status is JobStatus.QUARANTINED
            assert said in str(job.error_message)
        job = await engine.run("leaving")
        assert job.status is JobStatus.QUARANTINED
        assert "SystemExit: the handler wants to leave" in str(job.error_message)

        job = await engine.run("rough", {"task": "echo", "params": {"still": "here"}})
        assert (job.status, job.result) == (JobStatus.FINISHED, {"still": "here"})
    assert worker.running
    assert orchestrator.running


async def _in_state(engine: Engine, job: Job, state: TaskState) -> TaskInfo:
    """The attempt that the job waits for, once it is in a state."""

    async def look() -> TaskInfo | None:
        stored = await engine.service.store.load(job.id)
        if stored is None or not isinstance(stored.waiting, TaskInfo):
            return None
        record = await engine.service.store.get_task(stored.waiting.id)
        return record.info if record is not None and record.state is state else None

    info = await eventually_async(look)
    assert info is not None
    return info


async def test_a_task_revoked_before_it_started_ends_its_job(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    env = {**redis_broker.env, **app_environment("rough")}
    processes.make(Orchestrator, env=env)
    processes.make(CapabilityWorker, env=env)
    door = tmp_path / "door"
    async with opened_engine(env) as engine:
        app = Celery("revoking", set_as_current=False)
        app.conf.update(configuration(get_settings()))
        first = await engine.create("rough", {"task": "wait_for_file", "params": {"path": str(door)}})
        await _in_state(engine, first, TaskState.CLAIMED)
        second = await engine.create("rough", {"task": "wait_for_file", "params": {"path": str(tmp_path / "never")}})
        waiting = await _in_state(engine, second, TaskState.DISPATCHED)

        assert app.control.revoke(waiting.id, reply=True, timeout=10)
        door.touch()

        assert (await engine.ended(first.id)).status is JobStatus.FINISHED
        ended = await engine.ended(second.id)
        app.close()
    assert ended.status is JobStatus.CANCELLED
    assert "revoked" in str(ended.error_message)
