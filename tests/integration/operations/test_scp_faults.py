"""What goes wrong with transfers, by its real causes: which code it has, whether it is tried again, and what is left."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ssh.pool import pool
from tests.support.polling import eventually
from tests.support.processes import free_port
from tests.support.proxy import Proxy
from tests.support.requirements import missing
from tests.support.sftp_server import MisbehavingServer
from tests.support.sshd import Sshd, config_of, keygen, running
from tests.support.transfers import MIB, Bed, bed_on, content, make_tree, parts_in, policy_for, stopped_at, tree_of
from tests.support.transfers import bed as opened_bed

SFTP_SERVER = next((path for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/sftp-server") if Path(path).exists()), "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture
def bed(server: Sshd, tmp_path: Path) -> Bed:
    return bed_on(server, tmp_path / "bed")


@contextmanager
def failing(code: TaskErrorCode, kind: str) -> Iterator[list[OperationError]]:
    found: list[OperationError] = []
    with pytest.raises(OperationError) as caught:
        yield found
    found.append(caught.value)
    assert (caught.value.code, caught.value.kind) == (code, kind), caught.value


@contextmanager
def wrapped(tmp_path: Path, lines: str) -> Iterator[Bed]:
    """A host whose SFTP server is started by a script."""
    if not SFTP_SERVER:
        missing("sshd", "there is no sftp-server of OpenSSH")
    script = tmp_path / "sftp.sh"
    script.write_text(f"#!/bin/sh\n{lines}\n")
    script.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):  # another user has to find it
        if os.getuid() == 0 and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    with opened_bed(tmp_path / "bed", {"Subsystem": f"sftp {script}"}) as found:
        yield found


@contextmanager
def closed_directory(folder: Path) -> Iterator[None]:
    """Nobody may write in it, root neither."""
    if os.getuid():
        folder.chmod(0o500)
    elif shutil.which("chattr") is None or subprocess.run(["chattr", "+i", folder], check=False, capture_output=True).returncode:
        missing("chattr", "root may write everywhere, and chattr does not work here")
    try:
        yield
    finally:
        folder.chmod(0o700) if os.getuid() else subprocess.run(["chattr", "-i", folder], check=True)


# What is not there, and what is not allowed


def test_what_is_missing(bed: Bed) -> None:
    with failing(TaskErrorCode.SCP_FILE_NOT_FOUND, ErrorCode.INVALID_INPUT):
        bed.up("nothing")
    with failing(TaskErrorCode.SCP_FILE_NOT_FOUND, ErrorCode.PERMANENT):
        bed.down("nothing")
    with failing(TaskErrorCode.SCP_FILE_NOT_FOUND, ErrorCode.PERMANENT):
        bed.run("scp_list", path=f"{bed.there}/nothing")


#: As an ordinary user, for whom permissions count.
DROP = "exec setpriv --reuid 65534 --regid 65534 --clear-groups" if os.getuid() == 0 else "exec"


def test_a_source_that_cannot_be_read_completely_deletes_nothing(tmp_path: Path) -> None:
    with wrapped(tmp_path, f"{DROP} {SFTP_SERVER}") as bed:
        make_tree(bed.there / "tree", {"a": "a", "dark/b": "b"})
        make_tree(bed.here / "tree", {"old": "old", "dark/b": "b"})
        (bed.there / "tree/dark").chmod(0)
        try:
            with failing(TaskErrorCode.SCP_PERMISSION_DENIED, ErrorCode.PERMANENT) as found:
                paths = {"source_path": f"{bed.there}/tree", "destination_path": f"{bed.here}/tree"}
                bed.run("scp_sync", **paths, direction="down", delete=True, remote_tools=False)
        finally:
            (bed.there / "tree/dark").chmod(0o700)
        assert [failure["path"] for failure in found[0].details["failed"]] == ["dark"]
        assert (found[0].details["created"], found[0].details["deleted"]) == (1, 0)
        assert sorted(tree_of(bed.here / "tree")) == ["a", "dark", "dark/b", "old"]


def test_what_another_user_may_not_do(tmp_path: Path) -> None:
    with wrapped(tmp_path, f"{DROP} {SFTP_SERVER}") as bed:
        (bed.here / "a").write_text("a")
        (bed.there / "secret").write_text("secret")
        (bed.there / "secret").chmod(0o000)
        (bed.there / "closed").mkdir(mode=0o555)
        (bed.there / "dark").mkdir(mode=0o000)
        for attempt in (
            lambda: bed.up("a", "closed/a"),
            lambda: bed.up("a", "closed/deep/a"),
            lambda: bed.down("secret"),
            lambda: bed.run("scp_list", path=f"{bed.there}/dark"),
        ):
            with failing(TaskErrorCode.SCP_PERMISSION_DENIED, ErrorCode.PERMANENT):
                attempt()
        listed = bed.run("scp_list", path=str(bed.there), recursive=True)
        assert listed["unreadable"] == [{"path": "dark", "error_code": "SCP_PERMISSION_DENIED"}]
        (bed.there / "dark").chmod(0o700)
        assert parts_in(bed.folder) == []


def test_a_host_that_only_reads(tmp_path: Path) -> None:
    with opened_bed(tmp_path / "bed", {"Subsystem": f"sftp {SFTP_SERVER} -R"}) as bed:
        (bed.here / "a").write_text("a")
        (bed.there / "b").write_text("b")
        with failing(TaskErrorCode.SCP_PERMISSION_DENIED, ErrorCode.PERMANENT):
            bed.up("a")
        assert bed.down("b")["files_transferred"] == 1


def test_a_directory_here_that_nobody_may_write_in(bed: Bed) -> None:
    (bed.there / "a").write_text("a")
    (bed.here / "closed").mkdir()
    with closed_directory(bed.here / "closed"), failing(TaskErrorCode.SCP_PERMISSION_DENIED, ErrorCode.PERMANENT):
        bed.down("a", "closed/a")


# No room


def _small_disk(bed: Path) -> str:
    """A file system of 2 MiB over the host's directory, which only its SFTP server sees."""
    how = "-m" if os.getuid() == 0 else "-Urm"
    probe = ["unshare", how, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False, capture_output=True).returncode:
        missing("unshare", "no file system can be mounted here")
    return f"exec unshare {how} sh -c 'mount -t tmpfs -o size=2m tmpfs {bed}/there && exec {SFTP_SERVER}'"


def test_a_full_disk_is_seen_before(tmp_path: Path) -> None:
    with wrapped(tmp_path, _small_disk(tmp_path / "bed")) as bed:
        (bed.here / "big").write_bytes(content(4 * MIB))
        with failing(TaskErrorCode.SCP_DISK_SPACE, ErrorCode.PERMANENT) as found:
            bed.up("big")
        assert found[0].details["needed_bytes"] == 4 * MIB


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    with wrapped(tmp_path, _small_disk(tmp_path / "bed")) as bed:
        for number in range(6):  # each of them would fit
            (bed.here / f"{number}").write_bytes(content(MIB - 1))
        with failing(TaskErrorCode.SCP_DISK_SPACE, ErrorCode.PERMANENT):
            bed.run(
                "scp_upload",
                source_path=str(bed.here),
                destination_path=f"{bed.there}/all",
                recursive=True,
                channels=1,
                remote_tools=False,
            )


def test_a_limit_that_is_no_full_disk(tmp_path: Path) -> None:
    with wrapped(tmp_path, f'ulimit -f 2048\ntrap "" XFSZ\nexec {SFTP_SERVER}') as bed:
        (bed.here / "big").write_bytes(content(4 * MIB))
        with failing(TaskErrorCode.SCP_TRANSFER_FAILED, ErrorCode.PERMANENT):
            bed.up("big")
        assert list(bed.there.iterdir()) == []


def test_a_full_disk_here(bed: Bed) -> None:
    (bed.there / "big").write_bytes(content(4 * MIB))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with failing(TaskErrorCode.SCP_DISK_SPACE, ErrorCode.PERMANENT):
            bed.down("big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(bed.here.iterdir()) == []


# The connection


# 256 MiB, as the benchmark has them, take too long where other tests run, too.
@pytest.mark.parametrize(("way", "size"), [("up", 64 * MIB), ("down", 24 * MIB)])
def test_a_cut_at_two_fifths_and_on_from_there(server: Sshd, tmp_path: Path, way: str, size: int) -> None:
    data = content(MIB) * (size // MIB)
    proxy = Proxy(server.port)
    try:
        bed = bed_on(server, tmp_path / "bed", port=proxy.port)
        source, target = (bed.here, bed.there) if way == "up" else (bed.there, bed.here)
        (source / "big").write_bytes(data)
        proxy.cuts_after = size * 2 // 5
        with failing(TaskErrorCode.SCP_TRANSFER_FAILED, ErrorCode.TRANSIENT):
            getattr(bed, way)("big", op=bed.op("scp"))
        assert [path.name for path in target.iterdir()] == parts_in(target)
        (part,) = parts_in(target)
        stopped = (target / part).stat().st_size
        assert size // 4 < stopped < size // 2

        result = getattr(bed, way)("big", op=bed.op("scp"), checksum=True)

        # Of what was on its way when the connection was cut, a server may have written more since.
        assert stopped <= result["resumed_at"] < size
        assert result["bytes_transferred"] == size - result["resumed_at"]
        assert result["sha256"] == hashlib.sha256(data).hexdigest()
        assert (target / "big").read_bytes() == data
        assert parts_in(target) == []
    finally:
        proxy.close()


def test_a_silent_host_is_given_up(server: Sshd, tmp_path: Path) -> None:
    proxy = Proxy(server.port)
    try:
        bed = bed_on(server, tmp_path / "bed", port=proxy.port)
        (bed.here / "big").write_bytes(content(32 * MIB))
        threading.Thread(target=lambda: (eventually(lambda: parts_in(bed.there)), proxy.freeze()), daemon=True).start()
        with failing(TaskErrorCode.SCP_TRANSFER_FAILED, ErrorCode.TRANSIENT):
            bed.up("big", idle_timeout=1, bandwidth_limit="8MiB")
        assert not (bed.there / "big").exists()
    finally:
        proxy.close()


def test_no_connection(server: Sshd, tmp_path: Path) -> None:
    text = server.config(policy_for(tmp_path / "bed"))
    attempts: list[tuple[str, TaskErrorCode, str]] = [
        (
            text.replace(f"port = {server.port}", f"port = {free_port()}"),
            TaskErrorCode.SCP_CONNECTION_FAILED,
            ErrorCode.TRANSIENT,
        ),
        (
            text.replace(str(server.client_key), str(keygen(tmp_path / "stranger"))),
            TaskErrorCode.SCP_AUTHENTICATION_FAILED,
            ErrorCode.PERMANENT,
        ),
        (
            text.replace("host_keys = [", f'fingerprint = "SHA256:{"A" * 43}" #'),
            TaskErrorCode.SSH_HOST_KEY_MISMATCH,
            ErrorCode.PERMANENT,
        ),
    ]
    (tmp_path / "bed").mkdir()
    bed = Bed(tmp_path / "bed", config_of(text, tmp_path))
    (bed.here / "a").write_text("a")
    for text, code, kind in attempts:
        bed.config = config_of(text, tmp_path)
        with failing(code, kind):
            bed.up("a")


def test_a_host_without_sftp(tmp_path: Path) -> None:
    with opened_bed(tmp_path / "bed", {"Subsystem": ""}) as bed:
        (bed.here / "a").write_text("a")
        with failing(TaskErrorCode.SCP_CONNECTION_FAILED, ErrorCode.PERMANENT):
            bed.up("a")


def test_a_host_without_a_shell(tmp_path: Path) -> None:
    with opened_bed(tmp_path / "bed", {"ForceCommand": "internal-sftp"}) as bed:
        for number in range(20):
            (bed.here / f"{number}").write_text(str(number))
        params: dict[str, Any] = {"source_path": str(bed.here), "destination_path": f"{bed.there}/tree", "recursive": True}
        assert bed.run("scp_upload", **params)["files_transferred"] == 20
        assert bed.run("scp_upload", **params, checksum=True)["files_transferred"] == 20


def test_a_host_that_opens_one_channel_at_a_time(tmp_path: Path) -> None:
    with opened_bed(tmp_path / "bed", {"MaxSessions": "1"}) as bed:
        make_tree(bed.here / "tree", {f"{number}": content(3000, number) for number in range(10)} | {"big": content(2 * MIB)})
        bed.up("tree", recursive=True)
        bed.down("tree", "back", recursive=True)
        bed.down("tree/big", "one", checksum=True)
        paths = {"source_path": f"{bed.here}/tree", "destination_path": f"{bed.there}/synced"}
        assert bed.run("scp_sync", **paths, direction="up")["created"] == 11
        assert tree_of(bed.here / "back") == tree_of(bed.here / "tree") == tree_of(bed.there / "synced")
        (bed.here / "big").write_bytes(content(MIB))
        with pytest.raises(OperationStopped):
            bed.up("big", op=stopped_at(bed.op("scp_upload"), StopReason.CANCEL, 0.0))
        assert parts_in(bed.folder) == []


# The files


def test_a_file_that_changes_meanwhile(bed: Bed) -> None:
    (bed.here / "log").write_bytes(content(4 * MIB))

    def grow() -> None:
        eventually(lambda: parts_in(bed.there))
        with (bed.here / "log").open("ab") as file:
            file.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    with failing(TaskErrorCode.SCP_TRANSFER_FAILED, ErrorCode.TRANSIENT) as found:
        bed.up("log", bandwidth_limit="2MiB")
    thread.join()
    assert found[0].details["changed"].endswith("/log")
    assert list(bed.there.iterdir()) == []


def test_a_host_that_writes_something_else(tmp_path: Path) -> None:
    class Corrupting(asyncssh.SFTPServer):
        async def write(self, file_obj: object, offset: int, data: bytes) -> int:
            changed = bytes([data[0] ^ 1]) + data[1:]
            return await asyncio_result(super().write(file_obj, offset, changed))

    async def asyncio_result(value: Any) -> Any:
        return await value if hasattr(value, "__await__") else value

    server = MisbehavingServer(tmp_path / "server", Corrupting)
    try:
        (tmp_path / "bed").mkdir()
        bed = Bed(tmp_path / "bed", config_of(server.config(policy_for(tmp_path / "bed")), tmp_path))
        (bed.here / "a").write_bytes(content(MIB))
        (bed.there / "a").write_text("old")
        with failing(TaskErrorCode.SCP_CHECKSUM_MISMATCH, ErrorCode.PERMANENT):
            bed.up("a", checksum=True)
        assert (bed.there / "a").read_text() == "old"
        assert parts_in(bed.there) == []
    finally:
        server.close()


def test_a_host_that_answers_in_small_pieces(tmp_path: Path) -> None:
    """It may answer with less than was asked for; what is missing is asked for again, and all is put together in its order."""

    class Short(asyncssh.SFTPServer):
        def read(self, file_obj: Any, offset: int, size: int) -> Any:
            return super().read(file_obj, offset, min(size, 1 + (offset * 7919) % 20000))

    server = MisbehavingServer(tmp_path / "server", Short)
    try:
        (tmp_path / "bed").mkdir()
        bed = Bed(tmp_path / "bed", config_of(server.config(policy_for(tmp_path / "bed")), tmp_path))
        data = content(MIB + 12345)
        (bed.there / "big").write_bytes(data)
        op = bed.op("scp_download")
        (bed.here / f".big.part-{op.key}").write_bytes(data[: MIB // 3])
        assert bed.down("big", op=op, checksum=True)["resumed_at"] == MIB // 3
        assert (bed.here / "big").read_bytes() == data
        make_tree(bed.there / "tree", {f"{number}": content(number * 3000, number) for number in range(10)})
        bed.down("tree", recursive=True)
        assert tree_of(bed.here / "tree") == tree_of(bed.there / "tree")
    finally:
        server.close()


def test_a_cleaned_up_pool_has_no_dead_connections(server: Sshd, tmp_path: Path) -> None:
    """After a cut the next transfer of the process has a connection of its own, at once."""
    proxy = Proxy(server.port)
    try:
        bed = bed_on(server, tmp_path / "bed", port=proxy.port)
        (bed.here / "a").write_text("a")
        bed.up("a")
        idle = [connection for found in pool()._idle.values() for connection in found]
        proxy.cut()
        eventually(lambda: not all(connection.is_alive for connection in idle), what="the cut to be seen")
        assert bed.up("a", "b")["files_transferred"] == 1
    finally:
        proxy.close()
