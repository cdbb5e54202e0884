"""What the compiler makes is a Celery canvas: published by Celery itself, on Celery's own way, it runs and joins."""

from __future__ import annotations

import time

import pytest
from celery import Celery

from avtomatika.celery import configuration
from avtomatika.compiler import Compiler
from avtomatika.jobs import FanOut, Job, JobStatus, TaskInfo, TaskState, new_id
from avtomatika.settings import get_settings
from avtomatika.state.base import Commit, NewTask
from tests.support.engine import app_environment, opened_engine
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker

ITEMS = ["tea", "salt", "rope"]


def _packing(now: float) -> tuple[Commit, list[TaskInfo], FanOut]:
    """An order that waits for its parcels, stored without a single message."""
    fanout = FanOut(new_id(), "packed", len(ITEMS))
    job = Job(
        id=new_id(),
        blueprint_name="order",
        current_state="pack",
        status=JobStatus.WAITING_FOR_PARALLEL_TASKS,
        initial_data={"items": ITEMS},
        state_history={"grams": 11},
        waiting=fanout,
        created_at=now,
        updated_at=now,
    )
    infos = [
        TaskInfo(new_id(), job.id, "pack", {"item": item}, {}, branch=n, fanout_id=fanout.id, created_at=now)
        for n, item in enumerate(ITEMS)
    ]
    tasks = tuple(NewTask(info, TaskState.DISPATCHED) for info in infos)
    return Commit(job, None, tasks=tasks), infos, fanout


@pytest.mark.timeout(300)
async def test_a_compiled_chord_applied_by_celery_joins(broker: Broker, processes: Processes) -> None:
    env = {**broker.env, **app_environment("every_action")}
    processes.make(Orchestrator, env=env)
    processes.make(CapabilityWorker, env=env)
    async with opened_engine(env) as engine:
        commit, infos, fanout = _packing(time.time())
        await engine.service.store.commit(commit)
        app = Celery("canvas", set_as_current=False)
        app.conf.update(configuration(get_settings()))
        canvas = Compiler(app).parallel(commit.job.id, fanout.id, [(info, "cpu") for info in infos])

        canvas.apply_async()

        job = await engine.reaches(commit.job.id, JobStatus.WAITING_FOR_HUMAN)
        app.close()
    assert job.state_history["parcels"] == ["box of rope", "box of salt", "box of tea"]
