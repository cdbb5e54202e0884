"""200 commands on one host: ssh_execute, which lends connections, beside Fabric with a connection of its own for each.

A real sshd on the loopback interface. Both run `true` one after the other; the ratio is of commands a second, in one run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fabric import Config, Connection
from paramiko import SSHConfig

from avtomatika.operations.ssh.pool import pool
from tests.support.sshd import Sshd, config_of, context, perform, running

COMMANDS, FRESH = 200, 40


def _rate(run: Callable[[], object], count: int) -> tuple[float, float]:
    """Commands a second, and the median of their milliseconds."""
    took = []
    began = time.perf_counter()
    for _ in range(count):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return count / (time.perf_counter() - began), statistics.median(took) * 1000


def _fabric(server: Sshd) -> None:
    # The defaults of Fabric, but for the files of this machine's user.
    config = Config(ssh_config=SSHConfig(), lazy=True)
    keys = {"key_filename": str(server.client_key), "allow_agent": False, "look_for_keys": False}
    with Connection("127.0.0.1", user=server.username, port=server.port, config=config, connect_kwargs=keys) as connection:
        connection.run("true", hide=True, in_stream=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Sshd(Path(folder) / "sshd")) as server:
        config = config_of(server.config(), Path(folder))
        try:
            reused, median = _rate(lambda: perform(context(config), host="box", command=["true"]), COMMANDS)
        finally:
            pool().close()
        fresh, slow = _rate(lambda: _fabric(server), FRESH)
        print(f"  ssh_execute, {COMMANDS} commands: {reused:.1f} a second, median {median:.1f} ms")
        print(f"  Fabric, {FRESH} commands, each with a connection: {fresh:.1f} a second, median {slow:.1f} ms")
        print(f"  ratio: {reused / fresh:.1f}")


if __name__ == "__main__":
    main()
