"""A worker that has come to a halt without an error: it connects anew, or ends, so that it is started again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.engine import opened_engine
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

APP = Path(__file__).parent / "apps" / "stuck"


def _environment(broker: Broker, **settings: str) -> dict[str, str]:
    return {
        **broker.env,
        "BLUEPRINTS_DIR": str(APP / "blueprints"),
        "WORKERS_DIR": str(APP / "workers"),
        "WORKER_HEALTH_CHECK_INTERVAL_SECONDS": "2",
        "WATCHDOG_SECONDS": "2",
        **settings,
    }


@pytest.mark.parametrize("broker", ["redis-newer", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
async def test_a_worker_that_has_come_to_a_halt_goes_on(broker: Broker, processes: Processes) -> None:
    env = _environment(broker, WATCHDOG_EXIT_SECONDS="4")
    processes.make(Orchestrator, env={**env, "WATCHDOG_SECONDS": "30"}, wait=False)
    worker = processes.make(CapabilityWorker, env=env, node=f"worker@{broker.namespace}", wait=False)
    processes.wait_ready()
    async with opened_engine(env) as engine:
        assert (await engine.run("stuck", {"what": "fetches"})).result == "fetches"
        worker.wait_for_log("fetches nothing: the consumer connects anew")
        for _ in range(2):  # the first may have been on its way already
            assert (await engine.run("stuck", {"what": "nothing"})).result == "nothing"
        assert worker.running

        for what in ("loop", "hub") if broker.kind != "rabbitmq" else ():  # their threads know nothing of brokers
            hanging = await engine.create("stuck", {"what": what})
            assert worker.wait() == os.EX_SOFTWARE
            log = worker.log()
            assert re.search(r"has not turned for \d+ s; its thread.*the process ends, to be started again", log, re.DOTALL)
            assert "hang_for_good" in log
            worker.start()
            assert (await engine.ended(hanging.id)).result == what
