"""Real processes as test fixtures: each in a session of its own, with its log in a file, and surely gone at the end."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.support.polling import DEADLINE, eventually

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "AVTOMATIKA_TEST_PROCESS"
_INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "COVERAGE_PROCESS_START")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


# Of each process of a test run a range of its own, below those that the kernel takes for outgoing connections: what is free now
# is still free when a server, a second later, binds to it.
_FIRST_PORT, _RANGE, _RANGES = 17000, 1000, 15
_counted = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on, and that no other test is given."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = _FIRST_PORT + number % _RANGES * _RANGE
    for _ in range(_RANGE):
        port = begin + next(_counted) % _RANGE
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {begin} to {begin + _RANGE} is free")


def port_is_open(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def clean_environment() -> dict[str, str]:
    """The environment of a process under test: none of the settings that a developer's shell may hold."""
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYTHONUNBUFFERED"] = "1"
    return env


def _die_with_the_test_process() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ManagedProcess:
    """A child process. Start it in the main thread: the kernel kills it when the thread that started it ends.

    Attributes:
        name: names its log in a failing test's report.
        log_path: stdout and stderr together; a restart appends.
    """

    def __init__(
        self, name: str, argv: Sequence[str], *, directory: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.env = {**clean_environment(), **(env or {}), MARK: uuid.uuid4().hex}
        self.cwd = cwd or directory
        self.log_path = directory / f"{name.replace('/', '_')}.log"
        self._log_start = 0
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                self.argv,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_the_test_process,
            )

    def wait_ready(self, deadline: float = DEADLINE) -> None:
        """Waits until the process serves; a subclass says what that means."""

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    def log(self, *, whole: bool = False) -> str:
        """What it has logged since its last start (`whole`: since its first)."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as file:
            file.seek(0 if whole else self._log_start)
            return file.read().decode(errors="replace")

    def logs(self) -> list[tuple[str, str]]:
        """Its name and all that it has logged, for the report of a failing test."""
        return [(self.name, self.log(whole=True))]

    def wait_for_log(self, text: str, deadline: float = DEADLINE) -> None:
        """Waits for a text in the log of this start; fails at once when the process ends without it."""

        def look() -> bool:
            ended = not self.running
            if text in self.log():
                return True
            if ended:
                raise RuntimeError(f"{self.name} ended with {self.returncode} before it logged {text!r}:\n{self.log()[-5000:]}")
            return False

        eventually(look, deadline=deadline, what=f"{text!r} in the log of {self.name}")

    def descendants(self) -> list[psutil.Process]:
        """Every living process that carries this one's mark in its environment, the process itself left out.

        Found by the mark and not by parenthood, so that orphans and processes in sessions of their own are found, too.
        """
        own = self._popen.pid if self._popen is not None else None
        return [process for process in _marked(self.env[MARK]) if process.pid != own]

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Waits for the end of the process and returns its exit status."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} was never started")
        try:
            return self._popen.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {deadline:g} s; its log ends:\n{self.log()[-5000:]}") from None

    def kill(self) -> None:
        """`kill -9` of the process alone; its children live on."""
        self.signal(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait(DEADLINE)

    def kill_all(self) -> None:
        """`kill -9` of the process and everything that it started, as a power failure would."""
        self.signal(signal.SIGKILL)
        killed = _kill(self.descendants())
        if self._popen is not None:
            self._popen.wait(DEADLINE)
        while killed and (left := self.descendants()):
            killed = _kill(left)

    def terminate(self, deadline: float = DEADLINE) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(deadline)

    def restart(self, *, force: bool = False, deadline: float = DEADLINE) -> None:
        """Stops it (`force`: with SIGKILL), starts it again and waits until it serves."""
        if self.running and force:
            self.kill()
        elif self.running:
            self.terminate(deadline)
        self.start()
        self.wait_ready(deadline)

    def close(self) -> None:
        """Makes sure that nothing of it is left."""
        self.kill_all()


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if process.info["status"] != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _kill(processes: Sequence[psutil.Process]) -> bool:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
    return bool(processes)


class CeleryWorkerProcess(ManagedProcess):
    """`celery -A <app> worker -Q <queues> -n <node name>`."""

    def __init__(
        self,
        app: str,
        *,
        directory: Path,
        node: str | None = None,
        queues: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.node = node or f"worker@{uuid.uuid4().hex[:8]}"
        argv = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "-n", self.node]
        if queues:
            argv += ["-Q", ",".join(queues)]
        super().__init__(self.node, [*argv, *options], directory=directory, env=env, cwd=cwd)

    def wait_ready(self, deadline: float = DEADLINE) -> None:
        self.wait_for_log("ready.", deadline)


class Orchestrator(CeleryWorkerProcess):
    """`celery -A avtomatika worker -Q orchestrator`."""

    def __init__(self, *, directory: Path, env: Mapping[str, str], node: str | None = None) -> None:
        node = node or f"orchestrator@{uuid.uuid4().hex[:8]}"
        super().__init__("avtomatika", directory=directory, node=node, queues=("orchestrator",), env=env)


class CapabilityWorker(CeleryWorkerProcess):
    """`celery -A avtomatika worker [-Q gpu,cpu]`."""

    def __init__(
        self,
        *,
        directory: Path,
        env: Mapping[str, str],
        capabilities: Sequence[str] = (),
        node: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        super().__init__("avtomatika", directory=directory, node=node, queues=capabilities, env=env, cwd=cwd)


class Facade(ManagedProcess):
    """`avtomatika server` on a free port."""

    def __init__(self, *, directory: Path, env: Mapping[str, str], token: str = "client-token") -> None:
        self.port = free_port()
        self.token = token
        settings = {
            "API_HOST": "127.0.0.1",
            "API_PORT": str(self.port),
            "CLIENT_TOKEN": token,
            "GLOBAL_WORKER_TOKEN": f"worker-{token}",
        }
        super().__init__("facade", [sys.executable, "-m", "avtomatika", "server"], directory=directory, env={**env, **settings})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, deadline: float = DEADLINE) -> None:
        def look() -> bool:
            if not self.running:
                raise RuntimeError(f"the facade ended with {self.returncode}:\n{self.log()[-5000:]}")
            return port_is_open(self.port)

        eventually(look, deadline=deadline, what="the facade's port")


class Up(ManagedProcess):
    """`avtomatika up` on a free port, with its own data directory."""

    def __init__(
        self,
        *,
        directory: Path,
        blueprints: Path,
        workers: Path,
        env: Mapping[str, str] | None = None,
        token: str = "client-token",
        options: Sequence[str] = (),
        name: str = "up",
    ) -> None:
        self.port = free_port()
        self.token = token
        self.data_dir = directory / "data"
        argv = [sys.executable, "-m", "avtomatika", "up", "--data-dir", self.data_dir, "--port", str(self.port)]
        argv += ["--blueprints", blueprints, "--workers", workers, *options]
        settings = {"CLIENT_TOKEN": token, "GLOBAL_WORKER_TOKEN": f"worker-{token}"}
        super().__init__(name, argv, directory=directory, env={**(env or {}), **settings})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, deadline: float = 2 * DEADLINE) -> None:
        self.wait_for_log("ready http://", deadline)

    def logs(self) -> list[tuple[str, str]]:
        """Its own log, and those of its children in the data directory."""
        files = sorted(self.data_dir.rglob("*.log")) if self.data_dir.exists() else []
        return [*super().logs(), *((f"{self.name}/{file.name}", file.read_text(errors="replace")) for file in files)]


P = TypeVar("P", bound=ManagedProcess)


class Processes:
    """The processes of one test: started through here, reported when it fails, ended when it ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[ManagedProcess] = []

    def start(self, process: P, *, wait: bool = True) -> P:
        """Starts it and waits until it serves."""
        self._started.append(process)
        process.start()
        if wait:
            process.wait_ready()
        return process

    def make(self, cls: Callable[..., P], *args: Any, wait: bool = True, **kwargs: Any) -> P:
        """Builds a process of a class with this test's directory, and starts it."""
        return self.start(cls(*args, directory=self.directory, **kwargs), wait=wait)

    def wait_ready(self) -> None:
        """Waits for all that were started with ``wait=False``; so they start side by side."""
        for process in self._started:
            process.wait_ready()

    def logs(self) -> list[tuple[str, str]]:
        """What all of them have logged."""
        return [pair for process in self._started for pair in process.logs()]

    def close(self) -> None:
        for process in reversed(self._started):
            process.close()
