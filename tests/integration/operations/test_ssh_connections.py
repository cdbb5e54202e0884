"""Connections: which failure means what, what is used again, and what a silent or lost peer does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ssh import pool as pools
from avtomatika.operations.ssh.failures import ConnectionFailed
from avtomatika.operations.ssh.params import SshParams
from avtomatika.operations.ssh.pool import lease, pool
from tests.support.polling import eventually
from tests.support.processes import free_port
from tests.support.proxy import Proxy
from tests.support.sshd import POLICY, Sshd, config_of, context, perform, public_key, running, told

TRUE = {"host": "box", "command": ["true"]}
BOX = SshParams(host="box")


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    pool().close()
    yield
    pool().close()


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[Proxy]:
    """A line to the sshd that can be cut and frozen."""
    proxy = Proxy(sshd.port)
    yield proxy
    proxy.close()


def box(sshd: Sshd, address: str, port: int) -> str:
    """A configuration in which the sshd's key is expected at another address."""
    host = f'[hosts.box]\naddress = "{address}"\nport = {port}\ncredential = "key"\n'
    return sshd.credential() + host + f'host_keys = ["{public_key(sshd.host_key)}"]\n' + POLICY


def failure(text: str, tmp_path: Path, **params: object) -> OperationError:
    with pytest.raises(OperationError) as raised:
        perform(context(config_of(text, tmp_path)), **{**TRUE, **params})
    return raised.value


def test_a_closed_port(sshd: Sshd, tmp_path: Path) -> None:
    failed = failure(box(sshd, "127.0.0.1", free_port()), tmp_path)
    assert (failed.code, failed.kind) == (TaskErrorCode.SSH_CONNECTION_FAILED, ErrorCode.TRANSIENT)
    assert "Connection refused" in str(failed)


def test_a_name_that_nobody_knows(sshd: Sshd, tmp_path: Path) -> None:
    failed = failure(box(sshd, "nobody.invalid", 22), tmp_path)
    assert (failed.code, failed.kind) == (TaskErrorCode.SSH_CONNECTION_FAILED, ErrorCode.TRANSIENT)
    assert "nobody.invalid" in str(failed)


def test_a_peer_that_says_nothing(sshd: Sshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        failed = failure(box(sshd, "127.0.0.1", silent.getsockname()[1]), tmp_path, banner_timeout=0.3)
    assert (failed.code, failed.kind) == (TaskErrorCode.SSH_CONNECTION_FAILED, ErrorCode.TRANSIENT)
    assert "said nothing for 0.3 s" in str(failed)


def test_a_peer_that_is_no_ssh_server(sshd: Sshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            peer, _ = server.accept()
            peer.sendall(b"220 mail.example.com\r\n" * 200)
            peer.close()

        thread = threading.Thread(target=greet)
        thread.start()
        failed = failure(box(sshd, "127.0.0.1", server.getsockname()[1]), tmp_path)
        thread.join()
    assert failed.code is TaskErrorCode.SSH_CONNECTION_FAILED


def test_a_stop_ends_every_wait_for_a_connection(sshd: Sshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        op = context(config_of(box(sshd, "127.0.0.1", silent.getsockname()[1]), tmp_path))
        threading.Timer(0.2, op.stop, [StopReason.CANCEL]).start()
        with pytest.raises(OperationStopped):
            perform(op, **TRUE, banner_timeout=300)


def test_a_connection_that_is_cut_while_a_command_runs(sshd: Sshd, proxy: Proxy, tmp_path: Path) -> None:
    text = box(sshd, "127.0.0.1", proxy.port)
    for idempotent, kind in ((True, ErrorCode.TRANSIENT), (False, ErrorCode.PERMANENT)):
        op = context(config_of(text, tmp_path))
        cutter = threading.Thread(target=_when_begun, args=(op, proxy.cut))
        cutter.start()
        with pytest.raises(OperationError) as raised:
            perform(op, host="box", command="echo begun; sleep 3141593", idempotent=idempotent)
        cutter.join()
        assert "sleep 3141593" not in _command_lines()  # it does not go on while another attempt begins
        assert (raised.value.code, raised.value.kind) == (TaskErrorCode.SSH_CONNECTION_FAILED, kind)


def _command_lines() -> str:
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def _when_begun(op: OperationContext, act: Callable[[], None]) -> None:
    eventually(lambda: "begun" in told(op), what="the command's first line")
    act()


def test_a_silent_peer_is_given_up(sshd: Sshd, proxy: Proxy, tmp_path: Path) -> None:
    op = context(config_of(box(sshd, "127.0.0.1", proxy.port), tmp_path))
    swallower = threading.Thread(target=_when_begun, args=(op, proxy.swallow))
    swallower.start()
    with pytest.raises(OperationError, match="silent") as raised:
        perform(op, host="box", command="echo begun; sleep 300", keepalive=0.3, keepalive_count=2)
    swallower.join()
    assert raised.value.code is TaskErrorCode.SSH_CONNECTION_FAILED


def test_a_silent_command_is_not_given_up(sshd: Sshd, tmp_path: Path) -> None:
    op = context(config_of(sshd.config(), tmp_path))
    assert perform(op, host="box", command=["sleep", "3"], keepalive=0.3, keepalive_count=2)["exit_code"] == 0


def test_a_connection_is_used_again(sshd: Sshd, tmp_path: Path) -> None:
    config = config_of(sshd.config(), tmp_path)
    before = sshd.log(whole=True).count("Accepted publickey")
    for _ in range(5):
        perform(context(config), **TRUE)
    assert sshd.log(whole=True).count("Accepted publickey") == before + 1
    assert pool().idle == 1


def test_a_connection_is_of_one_operation_at_a_time(sshd: Sshd, tmp_path: Path) -> None:
    config = config_of(sshd.config(), tmp_path)
    with lease(context(config), BOX) as first, lease(context(config), BOX) as second:
        assert first is not second
    with lease(context(config), BOX) as again:
        assert again in (first, second)


def test_many_operations_at_once_lose_nothing(sshd: Sshd, tmp_path: Path) -> None:
    config = config_of(sshd.config(), tmp_path)
    results: list[str] = []

    def some() -> None:
        results.extend(perform(context(config), host="box", command=["echo", str(n)])["stdout"] for n in range(15))

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(f"{number}\n" for number in range(15) for _ in range(4))


@pytest.mark.parametrize("change", ["role", "host", "credential"])
def test_nothing_is_lent_to_whom_it_was_not_opened_for(sshd: Sshd, tmp_path: Path, change: str) -> None:
    text = sshd.config() + '[policy.other]\noperations = ["ssh_*"]\nhosts = ["*"]\nfree_text = true\n'
    with lease(context(config_of(text, tmp_path)), BOX) as first:
        pass
    role = "other" if change == "role" else "default"
    if change == "host":
        text = text.replace("[hosts.box]", '[hosts.box]\ngroups = ["new"]')
    if change == "credential":
        text = text.replace(str(sshd.client_key), str(shutil.copy(sshd.client_key, tmp_path / "another")))
    with lease(context(config_of(text, tmp_path), role=role), BOX) as second:
        assert second is not first


def test_a_dead_connection_is_not_lent(sshd: Sshd, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_STALE_SECONDS", 0.0)
    config = config_of(box(sshd, "127.0.0.1", proxy.port), tmp_path)
    with lease(context(config), BOX) as first:
        pass
    with lease(context(config), BOX) as again:
        assert again is first
    monkeypatch.setattr(pools, "_ANSWER_SECONDS", 0.5)
    proxy.swallow()  # the peer is gone, and nobody says so
    with lease(context(config), BOX) as other:
        assert other is not first
    proxy.cut()
    assert perform(context(config), **TRUE)["exit_code"] == 0


def test_an_idle_connection_is_closed(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.2)
    with lease(context(config_of(sshd.config(), tmp_path)), BOX) as connection:
        pass
    eventually(lambda: pool().idle == 0, what="an empty pool")
    eventually(lambda: not connection.transport.is_active(), what="a closed connection")


FORK = """
import os, sys
from pathlib import Path
from avtomatika.operations.config import read_config
from avtomatika.operations.ssh.params import SshParams
from avtomatika.operations.ssh.pool import lease, pool
from tests.support.sshd import context, perform

config = read_config(Path(sys.argv[1]))

def run():
    return perform(context(config), host="box", command=["echo", "hello"])["stdout"]

assert run() == "hello\\n"
with lease(context(config), SshParams(host="box")) as mine:
    pid = os.fork()
    if pid == 0:  # while a connection is lent, and none is idle
        ok = pool().idle == 0 and run() == "hello\\n" and run() == "hello\\n"
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
pid = os.fork()
if pid == 0:
    ok = pool().idle == 0 and run() == "hello\\n"
    os._exit(0 if ok else 1)
assert os.waitpid(pid, 0)[1] == 0
with lease(context(config), SshParams(host="box")) as again:
    assert again is mine  # the child has not disturbed it
assert run() == "hello\\n"
print("fine")
"""


def test_a_forked_child_leaves_its_parents_connections_alone(sshd: Sshd, tmp_path: Path) -> None:
    path = tmp_path / "operations.toml"
    path.write_text(sshd.config())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(path)], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_peer_without_sftp_says_so(tmp_path: Path) -> None:
    with running(Sshd(tmp_path / "sshd", {"Subsystem": ""})) as server:
        config = config_of(server.config(), tmp_path)
        with pytest.raises(ConnectionFailed, match="offers no SFTP"), lease(context(config), BOX) as connection:
            connection.sftp()
