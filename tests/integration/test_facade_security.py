"""A real facade under what strangers send: it refuses, its memory does not grow, and it answers normally afterwards."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from avtomatika.api.compression import zstd
from tests.support.processes import Facade, Processes
from tests.support.servers import Broker

TOKEN = "client-token"
OWN = "a-token-of-one-worker"
MEGABYTE = 1024 * 1024
#: What a process may take for other reasons while it answers.
SPARE = 48 * MEGABYTE
BLUEPRINT = """
from avtomatika import Blueprint

hello = Blueprint("hello", api_version="v1", api_endpoint="/hello")


@hello.handler_for("start", is_start=True)
async def start(actions):
    actions.transition_to("end")


@hello.handler_for("end", is_end=True)
async def end():
    return {}
"""


_IMPATIENT = pytest.mark.parametrize("facade", ["1"], indirect=True)


@pytest.fixture
def facade(processes: Processes, redis_broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Facade]:
    """A facade that the test must leave able to take a job; indirectly with another BODY_TIMEOUT_SECONDS."""
    (tmp_path / "blueprints").mkdir()
    (tmp_path / "blueprints" / "hello.py").write_text(BLUEPRINT)
    (tmp_path / "workers.toml").write_text(f'[own]\ntoken = "{OWN}"\n')
    env = {
        **redis_broker.env,
        "BLUEPRINTS_DIR": str(tmp_path / "blueprints"),
        "WORKERS_CONFIG_PATH": str(tmp_path / "workers.toml"),
        "BODY_TIMEOUT_SECONDS": getattr(request, "param", "30"),
    }
    started = processes.make(Facade, env=env, token=TOKEN)
    assert create(started) == 202
    yield started
    assert create(started) == 202
    assert started.running
    assert "Traceback" not in started.log()
    assert OWN not in started.log()


def exchange(facade: Facade, head: str, body: bytes = b"") -> tuple[int, str]:
    """The status and the body of the answer to these very bytes; the sending may stop when the answer is there."""
    with socket.create_connection(("127.0.0.1", facade.port), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
        if body:
            _send(connection, body)
        return _answer(connection)


def _send(connection: socket.socket, body: bytes) -> int:
    """Sends until the facade answers or hangs up; returns how much was sent."""
    connection.setblocking(False)
    sent = 0
    try:
        while sent < len(body):
            try:
                sent += connection.send(body[sent : sent + 65536])
            except BlockingIOError:
                connection.setblocking(True)
                connection.settimeout(30)
                sent += connection.send(body[sent : sent + 65536])
                connection.setblocking(False)
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                continue
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        connection.setblocking(True)
        connection.settimeout(30)
    return sent


def _answer(connection: socket.socket) -> tuple[int, str]:
    with connection.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        length = 0
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, reader.read(length).decode()


def head(path: str, method: str = "GET", *, token: str | None = TOKEN, **headers: str) -> str:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"X-Avtomatika-Token: {token}")
    return "\n".join([*lines, *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())])


def create(facade: Facade, body: bytes = b"{}", **headers: str) -> int:
    status, _ = exchange(facade, head("/api/v1/hello", "POST", Content_Length=str(len(body)), **headers), body)
    return status


def memory(facade: Facade) -> int:
    """The most that the process has ever held, in bytes."""
    [line] = [line for line in Path(f"/proc/{facade.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("token", [None, "wrong", "", "client-toke", "client-token-2", "\xe9\xff", "worker-client-token", OWN])
def test_no_token_or_a_wrong_one(facade: Facade, token: str | None) -> None:
    for path in ("/api/v1/jobs", "/api/v1/hello", "/api/v1/nothing", "/_worker/workers/own/tasks/next"):
        status, body = exchange(facade, head(path, token=token))
        assert status == 401
        assert set(json.loads(body)) == {"error"}
    assert "access_refused" in facade.log() or "refused GET" in facade.log()


def test_another_workers_id(facade: Facade) -> None:
    for token, worker, status in (
        (OWN, "own", 404),  # not registered
        (OWN, "other", 403),
        (f"worker-{TOKEN}", "other", 404),
        (f"worker-{TOKEN}", "own", 403),
        ("wrong", "own", 401),
    ):
        assert exchange(facade, head(f"/_worker/workers/{worker}", "PATCH", token=None, X_Worker_Token=token))[0] == status
        body = json.dumps({"worker_id": worker, "worker_type": "cpu", "supported_tasks": ["x"]}).encode()
        lines = head("/_worker/workers/register", "POST", token=None, X_Worker_Token=token, Content_Length=str(len(body)))
        assert exchange(facade, lines, body)[0] == (200 if status == 404 else status)


def test_a_body_of_100_mb_is_refused_early(facade: Facade) -> None:
    before = memory(facade)
    with socket.create_connection(("127.0.0.1", facade.port), timeout=30) as connection:
        lines = head("/api/v1/hello", "POST", Content_Length=str(100 * MEGABYTE))
        connection.sendall(lines.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        status, words = _answer(connection)  # nothing of the body was sent
    assert (status, "BODY_LIMIT_MB" in words) == (413, True)
    assert memory(facade) - before < SPARE


def test_a_body_without_a_length_is_refused_at_the_limit(facade: Facade) -> None:
    before = memory(facade)
    body = (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 800
    with socket.create_connection(("127.0.0.1", facade.port), timeout=30) as connection:
        lines = head("/api/v1/hello", "POST", Transfer_Encoding="chunked")
        connection.sendall(lines.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        sent = _send(connection, body)
        status, _ = _answer(connection)
    assert status == 413
    assert sent < 50 * MEGABYTE
    assert memory(facade) - before < SPARE


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_zip_bomb(facade: Facade, encoding: str) -> None:
    packer = zlib.compressobj(wbits=31) if encoding == "gzip" else zstd.ZstdCompressor()
    bomb = b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(400)), packer.flush()])
    before = memory(facade)
    for _ in range(5):
        assert create(facade, bomb, Content_Encoding=encoding) == 413
    assert memory(facade) - before < SPARE


def test_a_zip_bomb_of_nobody_is_not_looked_at(facade: Facade) -> None:
    bomb = gzip.compress(bytes(100 * MEGABYTE))
    before = memory(facade)
    lines = head("/api/v1/hello", "POST", token=None, Content_Encoding="gzip", Content_Length=str(len(bomb)))
    assert exchange(facade, lines, bomb)[0] == 401
    assert memory(facade) - before < SPARE


@_IMPATIENT
def test_a_slow_body(facade: Facade) -> None:
    with socket.create_connection(("127.0.0.1", facade.port), timeout=30) as connection:
        lines = head("/api/v1/hello", "POST", Content_Length="100")
        connection.sendall(lines.replace("\n", "\r\n").encode() + b'\r\n\r\n{"a"')
        assert create(facade) == 202  # others are served meanwhile
        status, words = _answer(connection)
    assert (status, "BODY_TIMEOUT_SECONDS" in words) == (408, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"a": NaN}',
        b"\xff\xfe",
        b'{"a": 1} x',
        b'{"a":' * 50_000,
        b"\x00",
        b'{"a": 1' + b"0" * 5000,
    ],
)
def test_bad_json(facade: Facade, body: bytes) -> None:
    assert create(facade, body) == 400


def test_a_body_that_breaks_off(facade: Facade) -> None:
    with socket.create_connection(("127.0.0.1", facade.port), timeout=30) as connection:
        lines = head("/api/v1/hello", "POST", Content_Length="100")
        connection.sendall(lines.replace("\n", "\r\n").encode() + b'\r\n\r\n{"a"')


def test_a_chunk_of_no_size(facade: Facade) -> None:
    whole = head("/api/v1/hello", "POST", Transfer_Encoding="chunked") + "\n\nzz"
    assert exchange(facade, whole)[0] == 400


@_IMPATIENT
def test_a_chunk_of_no_size_after_its_head(facade: Facade) -> None:
    with socket.create_connection(("127.0.0.1", facade.port), timeout=30) as connection:
        lines = head("/api/v1/hello", "POST", Transfer_Encoding="chunked", Expect="100-continue")
        connection.sendall(lines.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        proceed = b"HTTP/1.1 100 Continue\r\n\r\n"  # the head has been read: the rest is a later packet
        assert connection.recv(len(proceed), socket.MSG_WAITALL) == proceed
        connection.sendall(b"zz\r\n")
        assert _answer(connection)[0] == 408


_TRICKS = [
    "/api/v1/jobs/%2e%2e/%2e%2e/_public/status",
    "/api/v1/jobs/../workers",
    "/_public/../api/v1/jobs",
    "/_public/%2e%2e/api/v1/jobs",
    "/_public/..%2fapi/v1/jobs",
    "//api/v1/jobs",
    "/api//v1/jobs",
    "/api/v1//jobs",
    "/api%2fv1%2fjobs",
    "/%61pi/v1/jobs",
    "/%2561pi/v1/jobs",
    "/api/v1/jobs%00",
    "/api/v1/jobs/%00",
    "/_public/status%00",
    "/API/v1/jobs",
    "/api;x/v1/jobs",
    "/_public/status/..;/api/v1/jobs",
    "/\\api/v1/jobs",
    "/_worker%2fws",
    "/%5fworker/workers/own/tasks/next",
]


@pytest.mark.parametrize("path", _TRICKS)
def test_path_tricks(facade: Facade, path: str) -> None:
    """Without a token nothing but public answers come; with one there is no way out of the routes."""
    for token in (None, "wrong"):
        status, body = exchange(facade, head(path, token=token))
        assert status in (400, 401, 404), body
    status, body = exchange(facade, head(path))
    assert status in (400, 401, 404) or path == "/%61pi/v1/jobs", body


def test_a_job_id_of_any_bytes_is_not_found(facade: Facade) -> None:
    for job_id in ("%00", "..%2f..%2fetc%2fpasswd", "%0d%0aX-Evil:%20yes", "%ff%fe", "a" * 4000, "*", "%7b%7d"):
        assert exchange(facade, head(f"/api/v1/jobs/{job_id}"))[0] in (400, 404)
