"""ssh_tunnel: bytes through a real sshd, both ways, and everything closed in the end."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, PolicyError, StopReason
from avtomatika.operations.ssh import tunnel as tunnels
from avtomatika.operations.ssh.pool import pool
from tests.support.polling import eventually
from tests.support.processes import free_port, port_is_open
from tests.support.proxy import Proxy
from tests.support.sshd import Sshd, config_of, context, perform, running


class _Counts(socketserver.BaseRequestHandler):
    """Reads until the client has no more to say, and tells how much that was."""

    def handle(self) -> None:
        count = 0
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                count += len(data)
            self.request.sendall(b"%d" % count)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def target() -> Iterator[int]:
    """The port of a server beyond the tunnel."""
    with _Server(("127.0.0.1", 0), _Counts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@dataclass
class Opened:
    """A tunnel that runs in a thread."""

    op: OperationContext
    port: int
    outcome: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def saw(self, text: str) -> bool:
        report = self.op.take_report()
        if report is not None:
            self.said += [line for _, line in report.lines] + [report.step]
        return any(text in line for line in self.said)

    def ends(self, reason: StopReason | None = StopReason.CANCEL) -> Any:
        if reason is not None:
            self.op.stop(reason)
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.outcome[0]

    thread: threading.Thread = field(default_factory=threading.Thread)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Opens tunnels, and closes those that a test has left open."""
    made: list[Opened] = []

    def open_(text: str, port: int, *, until: str = "the tunnel is up", **params: Any) -> Opened:
        op = context(config_of(text, tmp_path), "ssh_tunnel")
        tunnel = Opened(op, port)
        params = {"host": "box", "port": port, "lifetime_seconds": 60, **params}

        def run() -> None:
            try:
                tunnel.outcome.append(perform(op, **params))
            except (OperationError, OperationStopped) as exc:
                tunnel.outcome.append(exc)

        tunnel.thread = threading.Thread(target=run)
        tunnel.thread.start()
        made.append(tunnel)
        eventually(lambda: tunnel.saw(until) or bool(tunnel.outcome), what="the tunnel")
        return tunnel

    yield open_
    for tunnel in made:
        tunnel.ends()
    pool().close()


def policy(*targets: str, more: str = "") -> str:
    lines = ["[policy.default]", 'operations = ["ssh_*"]', 'hosts = ["*"]', "[policy.default.options]"]
    return "\n".join([*lines, f"tunnel_targets = {list(targets)}", more]) + "\n"


def talk(port: int, size: int, *, asks: tuple[str, int] | None = None) -> bytes:
    """Sends so many bytes and an end of file, and returns the answer; `asks` is the target of a SOCKS5 client."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        if asks is not None:
            name = asks[0].encode()
            client.sendall(b"\5\1\0")
            assert client.recv(2) == b"\5\0"
            client.sendall(b"\5\1\0\3" + bytes([len(name)]) + name + asks[1].to_bytes(2, "big"))
            reply = client.recv(10)
            if reply[1] != 0:
                return b"refused %d" % reply[1]
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(100):
            answer += data
        return answer


def ended(client: socket.socket) -> bool:
    """Whether the other side closes the connection, in one way or another."""
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("kind", ["local", "remote", "dynamic"])
def test_bytes_go_through_and_are_counted(
    sshd: Sshd, target: int, opened: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [0.0]
    monkeypatch.setattr(tunnels, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later[0]))
    ends = {} if kind == "dynamic" else {"target_host": "127.0.0.1", "target_port": target}
    asks = ("127.0.0.1", target) if kind == "dynamic" else None
    text = sshd.config(policy(f"127.0.0.1:{target}"))
    tunnel = opened(text, free_port(), kind=kind, lifetime_seconds=60, **ends)
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(talk(tunnel.port, 300_000, asks=asks))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"300000"] * 8

    later[0] = 60
    result = tunnel.ends(None)  # at the end of its lifetime
    assert (result["kind"], result["bind"], result["port"]) == (kind, "127.0.0.1", tunnel.port)
    assert (result["connections"], result["bytes_out"], result["bytes_in"]) == (8, 8 * 300_000, 8 * 6)
    assert not port_is_open(tunnel.port)
    assert result["duration"] >= 60


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_stop_closes_everything(sshd: Sshd, target: int, opened: Any, kind: str) -> None:
    text = sshd.config(policy("127.0.0.1:*"))
    tunnel = opened(text, free_port(), kind=kind, target_host="127.0.0.1", target_port=target)
    with socket.create_connection(("127.0.0.1", tunnel.port), timeout=20) as client:
        client.sendall(b"x")
        assert isinstance(tunnel.ends(StopReason.CANCEL), OperationStopped)
        assert ended(client)
    eventually(lambda: not port_is_open(tunnel.port), what="a closed port")


def test_a_socks_client_goes_only_where_the_policy_lets_it(sshd: Sshd, target: int, opened: Any) -> None:
    text = sshd.config(policy(f"127.0.0.1:{target}", "127.0.0.1:1", "nobody.invalid:80"))
    tunnel = opened(text, free_port(), kind="dynamic")
    assert talk(tunnel.port, 5, asks=("127.0.0.1", target)) == b"5"
    assert talk(tunnel.port, 5, asks=("127.0.0.1", sshd.port)) == b"refused 2"
    assert talk(tunnel.port, 5, asks=("localhost", target)) == b"refused 2"
    assert talk(tunnel.port, 5, asks=("127.0.0.1", 1)) == b"refused 5"
    with socket.create_connection(("127.0.0.1", tunnel.port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(client)
    assert tunnel.saw("the policy does not allow this target")


def test_more_connections_than_it_may_carry_are_closed(sshd: Sshd, target: int, opened: Any) -> None:
    text = sshd.config(policy("127.0.0.1:*"))
    tunnel = opened(text, free_port(), kind="local", target_host="127.0.0.1", target_port=target, max_connections=1)
    with socket.create_connection(("127.0.0.1", tunnel.port), timeout=20) as first:
        first.sendall(b"x")
        with socket.create_connection(("127.0.0.1", tunnel.port), timeout=20) as second:
            assert ended(second)
        first.shutdown(socket.SHUT_WR)
        assert first.recv(10) == b"1"


def test_it_comes_up_again_after_its_connection_was_cut(sshd: Sshd, target: int, opened: Any) -> None:
    proxy = Proxy(sshd.port)
    try:
        text = sshd.config(policy("127.0.0.1:*")).replace(f"port = {sshd.port}", f"port = {proxy.port}")
        tunnel = opened(text, free_port(), kind="local", target_host="127.0.0.1", target_port=target)
        assert talk(tunnel.port, 3) == b"3"
        proxy.refuse()
        eventually(lambda: tunnel.saw("the tunnel is down"), what="it is down")
        tunnel.said.clear()
        proxy.accept()
        eventually(lambda: tunnel.saw("the tunnel is up"), what="it is up again")
        assert talk(tunnel.port, 4) == b"4"
    finally:
        tunnel.ends()
        proxy.close()


def test_a_target_that_is_not_there_is_seen(sshd: Sshd, opened: Any) -> None:
    port = free_port()
    text = sshd.config(policy("127.0.0.1:*"))
    params = {"kind": "local", "target_host": "127.0.0.1", "target_port": port, "probe_seconds": 0.2}
    tunnel = opened(text, free_port(), until="the tunnel is degraded", **params)
    with socket.create_server(("127.0.0.1", port)):
        eventually(lambda: tunnel.saw("the tunnel is up"), what="it is up")
    tunnel.ends()


def test_a_host_that_forbids_forwarding_says_so(tmp_path: Path, target: int, opened: Any) -> None:
    with running(Sshd(tmp_path / "sshd", {"AllowTcpForwarding": "no"})) as server:
        for kind in ("local", "remote"):
            text = server.config(policy("127.0.0.1:*"))
            failed = opened(text, free_port(), kind=kind, target_host="127.0.0.1", target_port=target).ends(None)
            assert (failed.code, failed.kind) == (TaskErrorCode.SSH_CONNECTION_FAILED, ErrorCode.PERMANENT)


def test_a_port_that_is_taken(sshd: Sshd, target: int, opened: Any) -> None:
    text = sshd.config(policy("127.0.0.1:*"))
    for kind in ("local", "remote"):
        failed = opened(text, target, kind=kind, target_host="127.0.0.1", target_port=target).ends(None)
        assert failed.code is TaskErrorCode.SSH_CONNECTION_FAILED


@pytest.mark.parametrize(
    "params",
    [
        {"target_port": 22},
        {"target_host": "10.0.0.1"},
        {"bind": "0.0.0.0"},
        {"bind": "192.0.2.1"},
        {"lifetime_seconds": 301},
        {"username": "nobody"},
        {"kind": "remote", "target_port": 1},
    ],
)
def test_what_the_policy_does_not_name_is_refused(sshd: Sshd, tmp_path: Path, params: dict[str, Any]) -> None:
    config = config_of(sshd.config(policy("db:5432", more="tunnel_seconds = 300")), tmp_path)
    usual = {"host": "box", "kind": "local", "target_host": "db", "target_port": 5432, "lifetime_seconds": 300}
    with pytest.raises(PolicyError):
        perform(context(config, "ssh_tunnel"), **{**usual, **params})
    nothing = config_of(sshd.config(policy()), tmp_path)
    with pytest.raises(PolicyError):
        perform(context(nothing, "ssh_tunnel"), host="box", kind="dynamic", lifetime_seconds=300)


@pytest.mark.parametrize(
    "params",
    [
        {"kind": "local"},
        {"kind": "dynamic", "target_host": "db", "target_port": 1},
        {"kind": "dynamic", "bind": "example.com"},
        {"kind": "dynamic", "lifetime_seconds": 0},
        {"kind": "local", "target_host": "a b", "target_port": 1},
    ],
)
def test_what_makes_no_tunnel_is_refused(sshd: Sshd, tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises(OperationError) as raised:
        perform(context(config_of(sshd.config(), tmp_path), "ssh_tunnel"), **{"host": "box", "lifetime_seconds": 1, **params})
    assert raised.value.kind is ErrorCode.INVALID_INPUT
