"""FTP, commands and web hooks through real processes: pushed to the queue, paused, cancelled, tried again."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from avtomatika.jobs import JobStatus
from tests.support.ftp import PASSWORD, ftp_server, make_certificate
from tests.support.operations import make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.proxy import Proxy
from tests.support.servers import Broker

CONFIG = """
[credentials.ada]
username = "ada"
password_env = "FTP_TEST_PASSWORD"
[hosts.files]
address = "127.0.0.1"
port = {port}
credential = "ada"
ca_file = "{ca}"
[policy.default]
operations = ["ftp_*", "custom_command"]
hosts = ["files"]
commands = ["{python} -c *"]
local_roots = ["{local}"]
remote_roots = ["/"]
"""


async def test_uploads_pause_resume_cancel_and_survive_a_break(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    local.mkdir()
    remote.mkdir()
    content = os.urandom(2_500_000)
    (local / "data.bin").write_bytes(content)
    certificate = make_certificate(tmp_path)

    def parts() -> list[Path]:
        return [path for path in remote.glob(".*part-*") if path.stat().st_size > 200_000]

    async def part_grows() -> bool:
        return bool(parts())

    with ftp_server(remote, certificate) as server:
        proxy = Proxy(server.port)
        config = CONFIG.format(port=proxy.port, ca=certificate.file, local=local, python=sys.executable)
        site = make_site(redis_broker, processes, tmp_path, config)
        site.orchestrator()
        site.worker("ftp", "custom", env={"FTP_TEST_PASSWORD": PASSWORD})
        params = {"host": "files", "local_path": "data.bin", "bandwidth_limit": 500_000, "timeout": 10}
        async with site.engine() as engine:
            orders, store = engine.service.orders, engine.service.store

            paused = await push(engine, "ftp_upload", {**params, "remote_path": "paused.bin"})
            await eventually_async(part_grows)
            await orders.pause(paused.id)
            await engine.reaches(paused.id, JobStatus.PAUSED)
            had = parts()[0].stat().st_size
            assert not (remote / "paused.bin").exists()
            await orders.resume(paused.id)
            done = await engine.ended(paused.id)
            assert done.status is JobStatus.FINISHED, done.error_message
            assert (remote / "paused.bin").read_bytes() == content
            assert done.result["resumed"] is True
            assert done.result["resume_position"] >= had

            cancelled = await push(engine, "ftp_upload", {**params, "remote_path": "cancelled.bin"})
            await eventually_async(part_grows)
            await orders.cancel(cancelled.id)
            assert (await engine.ended(cancelled.id)).status is JobStatus.CANCELLED
            assert sorted(os.listdir(remote)) == ["paused.bin"]

            broken = await push(engine, "ftp_upload", {**params, "remote_path": "broken.bin"})
            await eventually_async(part_grows)
            proxy.cut()
            done = await engine.ended(broken.id)
            assert done.status is JobStatus.FINISHED, done.error_message
            assert done.result["resumed"] is True
            assert (remote / "broken.bin").read_bytes() == content
            log = "\n".join(line.text for line in await store.job_log(broken.id))
            assert "going on at byte" in log
            assert PASSWORD not in log

            wrong = await engine.ended((await push(engine, "ftp_download", {"host": "files", "remote_path": "/gone"})).id)
            assert wrong.status is JobStatus.QUARANTINED
            assert wrong.state_history["error_code"] == "FTP_FILE_NOT_FOUND"

            text = "import os; print(sorted(os.environ))"
            ran = await engine.ended((await push(engine, "custom_command", {"command": sys.executable, "args": ["-c", text]})).id)
            assert ran.status is JobStatus.FINISHED, ran.error_message
            assert "FTP_TEST_PASSWORD" not in ran.result["stdout"]

            text = f"import time; open({str(local / 'began')!r}, 'w').close(); time.sleep(600)"
            long = await push(engine, "custom_command", {"command": sys.executable, "args": ["-c", text]})
            await eventually_async(lambda: asyncio.to_thread((local / "began").exists))
            await orders.cancel(long.id)
            assert (await engine.ended(long.id)).status is JobStatus.CANCELLED
        proxy.close()
