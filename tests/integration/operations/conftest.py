"""Servers that the tests of one family share: each started where a test first asks for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from avtomatika.operations.docker import family
from tests.support.docker_bench import SECRET
from tests.support.fake_docker import FakeDocker
from tests.support.single_operation import Caller
from tests.support.sshd import Sshd, running


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd that accepts the key of its own client."""
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDocker]:
    """A daemon, and a worker whose user has an account of its own at the registry."""
    with FakeDocker() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        # An account of the worker's own user, which no task may use.
        config = tmp_path / "docker-config"
        config.mkdir()
        auths = {"registry.example.com": {"auth": base64.b64encode(b"worker:own").decode()}}
        (config / "config.json").write_text(json.dumps({"auths": auths}))
        monkeypatch.setenv("DOCKER_CONFIG", str(config))
        yield fake


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Caller:
    """Calls operations on images of that registry; a file with another `caller` overrides it."""
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    return Caller(
        family,
        {"options": {"images": ["registry.example.com/*", "nginx:*"]}, "local_roots": [tmp_path], "credentials": ["registry"]},
        {
            "registry": {
                "username": "ada",
                "password_env": "REGISTRY_PASSWORD",
                "registry": "registry.example.com",
            }
        },
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        servers = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Sshd)]
        report.sections += [(f"log of {server.name}", server.log(whole=True)[-5000:]) for server in servers]
    return report
