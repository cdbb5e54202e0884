"""A module written for the original Avtomatika 1.0 API loads and runs unchanged."""

from __future__ import annotations

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Api, app_environment, opened_engine
from tests.support.processes import CapabilityWorker, Facade, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def env(redis_broker: Broker, processes: Processes) -> dict[str, str]:
    env = {**redis_broker.env, **app_environment("upstream_style")}
    processes.make(Orchestrator, env=env, wait=False)
    processes.make(CapabilityWorker, env=env, wait=False)
    processes.wait_ready()
    return env


async def test_it_runs_on_both_of_its_branches(env: dict[str, str]) -> None:
    async with opened_engine(env) as engine:
        small = await engine.run("basket_flow", {"fruit": "apple", "count": 5})
        large = await engine.run("basket_flow", {"fruit": "pear", "count": 25})

    assert (small.status, small.current_state, small.result) == (JobStatus.FINISHED, "finished", {"total": 15})
    assert (large.status, large.current_state, large.result) == (JobStatus.FINISHED, "finished", {"total": 100})
    assert small.state_history["seen_by"] == small.id


async def test_its_endpoint_takes_jobs(env: dict[str, str], processes: Processes) -> None:
    facade = processes.make(Facade, env=env)

    async with Api(facade.url, facade.token) as api:
        answer = await api.post("/api/v1/jobs/basket_flow", {"fruit": "apple", "count": 2})
        ended = await api.ended([answer["job_id"]])

    assert ended[answer["job_id"]]["result"] == {"total": 6}
