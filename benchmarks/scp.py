"""Transfers beside OpenSSH's scp: one file of 256 MiB, and 2,000 files of 4 KiB, over loopback, in turn."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.registry import registry
from avtomatika.operations.ssh.pool import pool
from tests.support.sshd import Sshd, config_of, context, running

BIG_MIB = 256
FILES, FILE_BYTES = 2000, 4096
ROUNDS = 3


def main() -> None:
    # In memory, where there is room: it is the transfer that is measured, not a disk.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as folder, running(Sshd(Path(folder) / "sshd")) as server:
        Bench(Path(folder), server).run()


class Bench:
    def __init__(self, folder: Path, server: Sshd) -> None:
        self._server = server
        self._config: OperationsConfig = config_of(server.config(), folder)
        self._target = folder / "target"
        self._big = folder / "big"
        self._tree = folder / "tree"
        block = os.urandom(1 << 20)
        with self._big.open("wb") as file:
            for _ in range(BIG_MIB):
                file.write(block)
        self._tree.mkdir()
        for number in range(FILES):
            (self._tree / f"file-{number}").write_bytes(os.urandom(FILE_BYTES))

    def run(self) -> None:
        self._line(f"{BIG_MIB} MiB up", BIG_MIB, "MiB/s", *self._uploads(self._big))
        self._line(f"{BIG_MIB} MiB down", BIG_MIB, "MiB/s", *self._downloads(self._big))
        self._line(f"{FILES} files up", FILES, "files/s", *self._uploads(self._tree, "-r", recursive=True))
        self._line(f"{FILES} files down", FILES, "files/s", *self._downloads(self._tree, "-r", recursive=True))
        sftp = self._uploads(self._tree, "-r", recursive=True, remote_tools=False)
        self._line(f"{FILES} files up, no tar", FILES, "files/s", *sftp)
        sftp = self._downloads(self._tree, "-r", recursive=True, remote_tools=False)
        self._line(f"{FILES} files down, no tar", FILES, "files/s", *sftp)

    def _uploads(self, source: Path, *options: str, **params: object) -> tuple[Callable[[], None], Callable[[], None]]:
        ours = {"source_path": str(source), "destination_path": str(self._target), **params}
        return lambda: self._run("scp_upload", ours), lambda: self._scp(*options, str(source), f"box:{self._target}")

    def _downloads(self, source: Path, *options: str, **params: object) -> tuple[Callable[[], None], Callable[[], None]]:
        ours = {"source_path": str(source), "destination_path": str(self._target), **params}
        return lambda: self._run("scp_download", ours), lambda: self._scp(*options, f"box:{source}", str(self._target))

    def _line(self, what: str, amount: int, unit: str, ours: Callable[[], None], theirs: Callable[[], None]) -> None:
        """Both in turn, so that what else the machine does meets both; the connection is part of it."""
        own, other = [], []
        for _ in range(ROUNDS):
            own.append(amount / self._timed(ours))
            other.append(amount / self._timed(theirs))
        mine, scp = statistics.median(own), statistics.median(other)
        print(f"{what:24} {mine:8.0f} {unit:8} scp {scp:8.0f} {unit:8} ratio {mine / scp:5.2f}", flush=True)

    def _timed(self, act: Callable[[], None]) -> float:
        if self._target.is_dir():
            shutil.rmtree(self._target)
        else:
            self._target.unlink(missing_ok=True)
        began = time.perf_counter()
        act()
        return time.perf_counter() - began

    def _run(self, type_: str, params: dict[str, object]) -> None:
        pool().close()  # scp has no connection that waits for it, either
        operation = registry().get(type_)
        op = context(self._config, type_, seconds=600, job_id=str(time.monotonic_ns()))
        operation.run(operation.parse({"host": "box", **params}), op)

    def _scp(self, *arguments: str) -> None:
        known = self._server.directory / "known_hosts"
        known.write_text(self._server.known_hosts + "\n")
        config = self._server.directory / "ssh_config"
        config.write_text(
            f"Host box\n HostName 127.0.0.1\n Port {self._server.port}\n User {self._server.username}\n"
            f" IdentityFile {self._server.client_key}\n IdentitiesOnly yes\n UserKnownHostsFile {known}\n BatchMode yes\n"
        )
        subprocess.run(["scp", "-q", "-F", str(config), *arguments], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
