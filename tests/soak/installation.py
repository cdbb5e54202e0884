"""The processes of a soak, each with a proxy of its own before Redis."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import redis

from tests.support.effects import now
from tests.support.processes import CapabilityWorker, Facade, ManagedProcess, Orchestrator, Processes
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, redis_of_the_wheel, redis_on_path
from tests.support.shapes import shapes_environment

NAMESPACE = "soak"
ORCHESTRATORS, WORKERS, FACADES, HTTP_WORKERS = 3, 4, 2, 2
#: Never killed, only frozen and cut off: their memory is judged over the whole run.
KEPT = ("orchestrator1", "worker1", "facade1", "http1")
SETTINGS = {
    "VISIBILITY_TIMEOUT_SECONDS": "30",
    "RATE_LIMITING_ENABLED": "false",
    "WORKER_POLL_TIMEOUT_SECONDS": "5",
    "JOB_MAX_RETRIES": "20",
    "LOG_LEVEL": "INFO",
}


class HttpWorkerProcess(ManagedProcess):
    """`avtomatika worker run`, for several facades."""

    def __init__(self, *, directory: Path, env: Mapping[str, str], name: str, facades: list[Facade]) -> None:
        entries = [{"url": facade.url, "token": f"worker-{facade.token}"} for facade in facades]
        own = {
            "ORCHESTRATORS_CONFIG": json.dumps(entries),
            "WORKER_ID": name,
            "WORKER_SPOOL_DIR": str(directory / "spool"),
        }
        argv = [sys.executable, "-m", "avtomatika", "worker", "run"]
        super().__init__(name, argv, directory=directory, env={**env, **own})


class Installation:
    """
    Attributes:
        members: the processes by name.
        proxies: what lies between each of them and Redis.
        died: when a process was killed, by pid.
    """

    def __init__(self, directory: Path) -> None:
        binary = redis_on_path() or redis_of_the_wheel()
        if binary is None:
            raise SystemExit("no redis-server found: install one")
        self.directory = directory
        self.redis = RedisServer(binary, directory / "redis", appendonly=True)
        self.redis.start()
        self._processes = Processes(directory)
        self.members: dict[str, ManagedProcess] = {}
        self.proxies: dict[str, Proxy] = {}
        self.died: dict[int, float] = {}
        self.env = shapes_environment(self.redis.url, directory, NAMESPACE, **SETTINGS)

    @property
    def log(self) -> Path:
        return Path(self.env["EFFECTS_LOG"])

    @property
    def facades(self) -> list[Facade]:
        return [member for member in self.members.values() if isinstance(member, Facade)]

    def start(self) -> None:
        """Starts everything; returns when all of it serves."""
        for n in range(1, ORCHESTRATORS + 1):
            self._add(f"orchestrator{n}", Orchestrator, node=f"orchestrator{n}@{NAMESPACE}")
        for n in range(1, WORKERS + 1):
            self._add(f"worker{n}", CapabilityWorker, node=f"worker{n}@{NAMESPACE}")
        for n in range(1, FACADES + 1):
            self._add(f"facade{n}", Facade)
        for member in self.members.values():
            member.wait_ready()
        for n in range(1, HTTP_WORKERS + 1):
            name = f"http{n}"
            http_worker = HttpWorkerProcess(directory=self._folder(name), env=self.env, name=name, facades=self.facades)
            self.members[name] = self._processes.start(http_worker)

    def _add(self, name: str, cls: type[ManagedProcess], **given: str) -> None:
        proxy = self.proxies[name] = Proxy(self.redis.port)
        url = f"redis://127.0.0.1:{proxy.port}/0"
        env = {**self.env, "REDIS_URL": url, "BROKER_URL": url}
        member = cls(directory=self._folder(name), env=env, **given)  # type: ignore[call-arg]
        self.members[name] = self._processes.start(member, wait=False)

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        return folder

    def kill(self, name: str) -> None:
        member = self.members[name]
        pid = member.pid
        member.kill()
        self.died[pid] = now()

    def client(self) -> redis.Redis:
        return self.redis.client()

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.thaw()
        self._processes.close()
        for proxy in self.proxies.values():
            proxy.close()
        self.redis.close()
