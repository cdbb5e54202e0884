"""A RabbitMQ of the test's own is stopped and started again under load, and killed. It takes a minute: AVTOMATIKA_FAULT_SECONDS.

Every run of the tests has the same as it looks from outside, in `test_lost_brokers.py`.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import opened_engine
from tests.support.fleet import make_fleet
from tests.support.polling import eventually
from tests.support.processes import ManagedProcess, Processes, free_port, port_is_open
from tests.support.servers import Broker, RedisServer

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif("AVTOMATIKA_FAULT_SECONDS" not in os.environ, reason="takes a minute: set AVTOMATIKA_FAULT_SECONDS"),
]

START_SECONDS = 180.0


class RabbitNode(ManagedProcess):
    """A node of its own, on free ports, with its data in the test's folder."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.port = free_port()
        (directory / "plugins").write_text("[].")
        env = {
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"avtomatika-{uuid.uuid4().hex[:8]}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        super().__init__("rabbitmq", [str(binary)], directory=directory, env=env)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def wait_ready(self, deadline: float = START_SECONDS) -> None:
        eventually(lambda: port_is_open(self.port), deadline=deadline, what="RabbitMQ's port")

    def kill(self) -> None:
        """The shell script and the Erlang machine that it started."""
        self.kill_all()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RabbitNode]:
    binaries = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not binaries:
        pytest.skip("RabbitMQ is not installed here")
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    made = RabbitNode(binaries[-1], folder)
    made.start()
    made.wait_ready()
    yield made
    made.close()


@pytest.mark.parametrize("force", [False, True], ids=["stopped", "killed"])
async def test_rabbitmq_is_restarted_under_load(
    node: RabbitNode, redis_server: RedisServer, namespace: str, processes: Processes, tmp_path: Path, force: bool
) -> None:
    fleet = make_fleet(Broker("rabbitmq", redis_server, node.url, "", namespace), processes, tmp_path)
    fleet.orchestrator(wait=False)
    fleet.worker("painter", {"FLEET_LIMIT": "3"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        jobs = [(await engine.create("one", {"params": {"n": n, "seconds": 0.5}})).id for n in range(40)]
        eventually(lambda: len(fleet.lines("end")) >= 3)

        node.restart(force=force, deadline=START_SECONDS)

        jobs += [(await engine.create("one", {"params": {"n": n}})).id for n in range(40, 60)]
        for job_id in jobs:
            assert (await engine.ended(job_id)).status is JobStatus.FINISHED
    assert Counter(line["n"] for line in fleet.lines("begin")) == Counter(range(60))
    assert fleet.most_at_once() <= 3
    processes.close()
