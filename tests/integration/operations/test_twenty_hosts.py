"""One command on twenty machines, each a real sshd on a port of its own: batches, a bound of failures, each host's result."""

from __future__ import annotations

from pathlib import Path

from avtomatika.jobs import JobStatus
from tests.support.operations import make_site, push
from tests.support.processes import Processes
from tests.support.servers import Broker
from tests.support.sshd import Sshd, keygen, public_key

NAMES = [f"box-{number:02}" for number in range(1, 21)]
#: In the second batch of five.
BAD = ("box-07", "box-09")
POLICY = """
[policy.default]
operations = ["ssh_execute"]
hosts = ["@fleet"]
commands = ["echo *"]
"""


def _inventory(servers: dict[str, Sshd], strange: str = "") -> str:
    """Every host with its own key; the bad ones are pinned to a `strange` one, where it is given."""
    first = servers[NAMES[0]]
    text = first.credential() + POLICY
    for name, server in servers.items():
        key = strange if strange and name in BAD else public_key(server.host_key)
        text += f'[hosts.{name}]\naddress = "127.0.0.1"\nport = {server.port}\ncredential = "key"\n'
        text += f'groups = ["fleet"]\nhost_keys = ["{key}"]\n'
    return text


def _servers(processes: Processes, directory: Path) -> dict[str, Sshd]:
    servers: dict[str, Sshd] = {}
    for name in NAMES:
        server = Sshd(directory / name)
        if servers:  # one key opens all of them
            (server.directory / "authorized_keys").write_text(Path(f"{servers[NAMES[0]].client_key}.pub").read_text())
        servers[name] = processes.start(server, wait=False)
    return servers


async def test_a_batch_beyond_the_bound_stops_the_rest_and_a_retry_runs_what_is_left(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    servers = _servers(processes, tmp_path)
    strange = public_key(keygen(tmp_path / "strange"))
    site = make_site(redis_broker, processes, tmp_path, _inventory(servers, strange))
    site.orchestrator()
    site.worker("ssh")
    processes.wait_ready()
    task = {"group": "fleet", "serial": 5, "command": ["echo", "here"]}
    async with site.engine() as engine:
        job = await engine.ended((await push(engine, "ssh_execute", {**task, "max_fail_percentage": 15})).id)

        assert job.status is JobStatus.FAILED
        counts = job.result["summary"]
        assert (counts["total"], counts["succeeded"], counts["failed"], counts["skipped"]) == (20, 8, 2, 10)
        assert "2 of 5 hosts of a batch failed" in counts["stopped"]
        rows = job.result["hosts"]
        assert list(rows) == NAMES
        assert {rows[name]["error_code"] for name in BAD} == {"SSH_HOST_KEY_MISMATCH"}
        assert [rows[name]["status"] for name in NAMES[10:]] == ["skipped"] * 10
        assert rows["box-01"]["result"]["stdout"] == "here\n"
        assert {row["batch"] for row in rows.values() if row["status"] != "skipped"} == {1, 2}

        lenient = await engine.ended((await push(engine, "ssh_execute", {**task, "max_fail_percentage": 40})).id)
        assert lenient.status is JobStatus.FINISHED
        assert (lenient.result["summary"]["succeeded"], lenient.result["summary"]["failed"]) == (18, 2)

        site.config.write_text(_inventory(servers))
        await engine.service.orders.retry(job.id)
        job = await engine.ended(job.id)
        assert job.status is JobStatus.FINISHED, job.error_message
        assert (job.result["summary"]["succeeded"], job.result["summary"]["skipped"]) == (20, 0)
        assert job.result["hosts"]["box-01"] == rows["box-01"]  # it was not run again
