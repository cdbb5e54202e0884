"""Commands and tunnels as queue tasks, through real worker processes and a real sshd."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import psutil

from avtomatika.jobs import JobStatus
from tests.support.operations import make_site, push
from tests.support.polling import eventually
from tests.support.processes import Processes, free_port, port_is_open
from tests.support.servers import Broker
from tests.support.sshd import Sshd

POLICY = """
[policy.default]
operations = ["ssh_*"]
hosts = ["box"]
commands = ["echo *", "sleep *", "false"]
[policy.default.options]
tunnel_targets = ["127.0.0.1:*"]
"""


def runs(mark: str) -> bool:
    found = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return any(f"sleep {mark}" in line for line in found)


async def test_commands_and_tunnels(redis_broker: Broker, processes: Processes, tmp_path: Path, sshd: Sshd) -> None:
    site = make_site(redis_broker, processes, tmp_path, sshd.config(POLICY))
    site.orchestrator()
    site.worker("ssh", "tunnel")
    async with site.engine() as engine:
        job = await push(engine, "ssh_execute", {"host": "box", "command": ["echo", "over", "there"]})
        job = await engine.ended(job.id)
        assert job.status is JobStatus.FINISHED, job.error_message
        assert (job.result["stdout"], job.result["exit_code"]) == ("over there\n", 0)
        assert "over there" in [line.text for line in await engine.service.store.job_log(job.id)]

        job = await engine.ended((await push(engine, "ssh_execute", {"host": "box", "command": "false"})).id)
        assert job.status is JobStatus.QUARANTINED
        assert job.state_history["error_code"] == "SSH_COMMAND_FAILED"

        mark = str(10_000_000 + time.monotonic_ns() % 1_000_000_000)
        job = await push(engine, "ssh_execute", {"host": "box", "command": ["sleep", mark], "timeout": None})
        await asyncio.to_thread(eventually, lambda: runs(mark), what="the remote command")
        await engine.service.orders.cancel(job.id)
        assert (await engine.ended(job.id)).status is JobStatus.CANCELLED
        await asyncio.to_thread(eventually, lambda: not runs(mark), what="the end of the remote command")

        port = free_port()
        with socket.create_server(("127.0.0.1", 0)) as target:
            params = {"kind": "local", "port": port, "target_host": "127.0.0.1", "target_port": target.getsockname()[1]}
            job = await push(engine, "ssh_tunnel", {"host": "box", "lifetime_seconds": 600, **params})
            await asyncio.to_thread(eventually, lambda: port_is_open(port), what="the tunnel")
            await engine.service.orders.cancel(job.id)
            assert (await engine.ended(job.id)).status is JobStatus.CANCELLED
            await asyncio.to_thread(eventually, lambda: not port_is_open(port), what="the end of the tunnel")
