"""Brokers that are restarted, or swallow what they are sent: workers go on by themselves, and run each task once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet
from tests.support.polling import eventually
from tests.support.processes import Processes
from tests.support.proxy import Proxy
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """Between the workers and their broker."""
    made = Proxy(urlsplit(broker.broker_url).port or 5672)
    yield made
    made.close()


def _through(broker: Broker, proxy: Proxy) -> Broker:
    parts = urlsplit(broker.broker_url)
    login = f"{parts.username}:{parts.password}@" if parts.username else ""
    return replace(broker, broker_url=urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}")))


async def _jobs(engine: Engine, numbers: range, seconds: float) -> list[str]:
    return [(await engine.create("one", {"params": {"n": n, "seconds": seconds}})).id for n in numbers]


async def _each_ran_once(engine: Engine, fleet: Fleet, jobs: list[str]) -> None:
    for job_id in jobs:
        assert (await engine.ended(job_id)).status is JobStatus.FINISHED
    for event in ("begin", "end"):
        assert sorted(line["n"] for line in fleet.lines(event)) == list(range(len(jobs)))


@pytest.mark.parametrize("broker", ["redis-newer", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
async def test_the_broker_is_lost_in_mid_task(broker: Broker, proxy: Proxy, processes: Processes, tmp_path: Path) -> None:
    """First it is restarted, as it looks from outside; then all packets of the connections are lost, and nothing says so."""
    fleet = make_fleet(_through(broker, proxy), processes, tmp_path, BROKER_TIMEOUT_SECONDS="1")
    fleet.orchestrator(wait=False)
    worker = fleet.worker("painter", {"FLEET_LIMIT": "2"}, wait=False)
    processes.wait_ready()
    jobs: list[str] = []
    async with opened_engine({**fleet.env, **broker.env}) as engine:
        for fault in (proxy.refuse, proxy.swallow):
            begun, losses = len(jobs), worker.log().count("Connection to broker lost")
            jobs += await _jobs(engine, range(begun, begun + 2), 3)
            eventually(lambda begun=begun: len(fleet.lines("begin")) == begun + 2)

            fault()
            eventually(lambda losses=losses: worker.log().count("Connection to broker lost") > losses)
            proxy.accept()

            jobs += await _jobs(engine, range(begun + 2, begun + 12), 0.05)
            await _each_ran_once(engine, fleet, jobs)
    assert fleet.most_at_once() <= 2
