"""Nodes for pytest-celery whose containers are processes of ours, for machines without a container engine."""

from __future__ import annotations

import io
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest_celery
import redis
from celery import __version__ as celery_version
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestContainer, CeleryTestWorker, CeleryWorkerContainer

from tests.support.polling import eventually
from tests.support.processes import CeleryWorkerProcess, ManagedProcess
from tests.support.servers import RedisServer

APPS = Path(__file__).parent / "apps"
CONTAINER_UTILITIES = Path(pytest_celery.__file__).parent / "vendors" / "worker" / "content"


class _Engine:
    """A process with the face of what the Docker client calls a container."""

    def __init__(self, process: ManagedProcess) -> None:
        self.process = process
        self.name = process.name
        self.id = process.env["AVTOMATIKA_TEST_PROCESS"]
        self.attrs: dict[str, Any] = {
            "Config": {"Hostname": "127.0.0.1", "Env": [f"{name}={value}" for name, value in process.env.items()]},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
        }

    @property
    def status(self) -> str:
        return "running" if self.process.running else "exited"

    def reload(self) -> None:
        """Nothing to do: a process is looked at anew each time."""

    def kill(self, signal_name: str | int | None = None) -> None:
        number = signal.Signals[signal_name] if isinstance(signal_name, str) else signal.Signals(signal_name or signal.SIGKILL)
        self.process.signal(number)
        eventually(lambda: not self.process.running, what=f"the end of {self.name} after {number.name}")
        if number == signal.SIGKILL:
            self.process.kill_all()  # as an engine ends every process of a container

    def restart(self, timeout: float = 60) -> None:
        self.process.restart(deadline=timeout)

    def logs(self) -> bytes:
        return self.process.log(whole=True).encode()

    def exec_run(self, command: str) -> tuple[int, bytes]:
        env = {**self.process.env, "PYTHONPATH": str(CONTAINER_UTILITIES)}
        done = subprocess.run(shlex.split(command), env=env, cwd=self.process.cwd, capture_output=True, timeout=60, check=False)
        return done.returncode, done.stdout or done.stderr


class ProcessContainer(CeleryTestContainer):
    """The part of a container that nodes use, over a process."""

    def __init__(self, process: ManagedProcess) -> None:
        super().__init__(_Engine(process))
        self.process = process

    def _wait_ready(self, timeout: int = 60) -> bool:
        self.process.wait_ready(timeout)
        return True

    def get_files(self, path: str) -> dict[str, io.BytesIO | None]:
        raise NotImplementedError("a process shares the file system of the test: open the path")

    def teardown(self) -> None:
        self.process.close()


class RedisProcessContainer(ProcessContainer):
    """A redis-server of ours, for the broker's node and the result backend's."""

    process: RedisServer

    def __init__(self, process: RedisServer, vhost: int = 0) -> None:
        super().__init__(process)
        self._vhost = str(vhost)

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.celeryconfig["host_url"], decode_responses=True)

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url = f"{self.process.url.rpartition('/')[0]}/{self._vhost}"
        return {"url": url, "host_url": url, "hostname": "127.0.0.1", "port": self.process.port, "vhost": self._vhost}


class WorkerProcessContainer(ProcessContainer, CeleryWorkerContainer):
    """A Celery worker of ours."""

    process: CeleryWorkerProcess

    @classmethod
    def version(cls) -> str:
        return celery_version


class ProcessBroker(CeleryTestBroker):
    """A broker node over a redis-server of ours."""


class ProcessBackend(CeleryTestBackend):
    """A result backend node over a redis-server of ours."""


class ProcessWorker(CeleryTestWorker):
    """A worker node over a Celery worker process of ours."""

    def hostname(self) -> str:
        node: str = self.container.process.node
        return node
