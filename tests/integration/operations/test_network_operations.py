"""Queue tasks through real processes: pushed, run by a worker, seen, refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from avtomatika.jobs import JobStatus
from avtomatika.operations.errors import PolicyError
from tests.support.operations import make_site, push
from tests.support.processes import Processes, free_port
from tests.support.servers import Broker

CONFIG = """
[hosts.here]
address = "127.0.0.1"
[hosts.there]
address = "127.0.0.1"

[policy.default]
operations = ["network_*"]
hosts = ["here"]
"""


async def test_a_task_runs_and_its_log_and_result_are_kept(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    site = make_site(redis_broker, processes, tmp_path, CONFIG)
    site.orchestrator()
    site.worker("network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with site.engine() as engine:
            job = await push(engine, "network_test", {"host": "here", "port": server.getsockname()[1]})
            job = await engine.ended(job.id)

            assert job.status is JobStatus.FINISHED, job.error_message
            assert job.result["reachable"] is True
            assert "answered after" in (await engine.service.store.job_log(job.id))[-1].text

            job = await engine.ended((await push(engine, "network_test", {"host": "here", "port": free_port()})).id)
            assert job.status is JobStatus.QUARANTINED
            assert job.state_history["error_code"] == "NETWORK_CONNECTION_FAILED"

            with pytest.raises(PolicyError, match="'there'"):
                await push(engine, "network_test", {"host": "there", "port": 1})
