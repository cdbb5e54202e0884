"""FTP operations with a real server: over TLS, with its data on the control channel's session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ftp.pace import Pace
from tests.support.ftp import PASSWORD, Certificate, FtpServer, ftp_server, make_certificate
from tests.support.operation_calls import Call, make_call
from tests.support.polling import eventually_async
from tests.support.processes import free_port
from tests.support.proxy import Proxy

CONFIG = """
[credentials.ada]
username = "ada"
password_env = "FTP_TEST_PASSWORD"
[credentials.wrong]
username = "ada"
password_env = "FTP_WRONG_PASSWORD"
[hosts.files]
address = "127.0.0.1"
port = {port}
credential = "ada"
{tls}
[policy.default]
operations = ["ftp_*"]
hosts = ["files"]
credentials = ["*"]
local_roots = ["{local}"]
remote_roots = ["/"]
[policy.default.options]
plain_ftp = true
"""


@dataclass
class Lab:
    """A server, the folder it serves, and a folder of the worker."""

    folder: Path
    certificate: Certificate
    stack: ExitStack = field(default_factory=ExitStack)
    tls: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        self.remote, self.local = self.folder / "remote", self.folder / "local"
        self.remote.mkdir()
        self.local.mkdir()
        self.tls = f'ca_file = "{self.certificate.file}"'

    def serve(self, **behaviour: Any) -> FtpServer:
        server = self.stack.enter_context(ftp_server(self.remote, self.certificate, **behaviour))
        self.port = server.port
        return server

    def make(self, name: str, params: dict[str, Any], **options: Any) -> Call:
        config = CONFIG.format(port=self.port, tls=self.tls, local=self.local)
        return make_call(name, {"host": "files", "timeout": 10, **params}, config, **options)

    async def call(self, name: str, params: dict[str, Any], **options: Any) -> dict[str, Any]:
        return await self.make(name, params, **options).run()

    def names(self) -> list[str]:
        return sorted(os.listdir(self.remote))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def lab(tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("FTP_TEST_PASSWORD", PASSWORD)
    monkeypatch.setenv("FTP_WRONG_PASSWORD", "not-the-password")
    lab = Lab(tmp_path, certificate)
    with lab.stack:
        yield lab


@pytest.fixture
def content() -> bytes:
    return os.urandom(700_000)


async def test_a_file_goes_up_and_comes_down_over_tls(lab: Lab, content: bytes) -> None:
    server = lab.serve(tls_data_required=True)
    (lab.local / "data.bin").write_bytes(content)

    up = await lab.call("ftp_upload", {"local_path": "data.bin", "remote_path": "/in.bin"})
    assert (lab.remote / "in.bin").read_bytes() == content
    assert {key: up[key] for key in ("file_size", "uploaded_bytes", "resumed", "resume_position", "verified")} == {
        "file_size": 700_000, "uploaded_bytes": 700_000, "resumed": False, "resume_position": 0, "verified": "size",
    }  # fmt: skip
    assert up["tls"].startswith("TLSv1.")

    down = await lab.call("ftp_download", {"remote_path": "/in.bin", "local_path": "out.bin"})
    assert (lab.local / "out.bin").read_bytes() == content
    assert (down["file_size"], down["downloaded_bytes"], down["resumed"]) == (700_000, 700_000, False)

    assert server.handler.reused
    assert all(server.handler.reused)  # each data connection went on with the control channel's session
    assert server.commands("PROT") == ["PROT P"] * 2
    assert lab.names() == ["in.bin"]
    assert sorted(os.listdir(lab.local)) == ["data.bin", "out.bin"]


@pytest.mark.parametrize("tls", ["implicit", "none"])
async def test_implicit_tls_and_none(lab: Lab, content: bytes, tls: str) -> None:
    lab.serve(implicit=tls == "implicit", plain=tls == "none")
    (lab.local / "data.bin").write_bytes(content)
    up = await lab.call("ftp_upload", {"local_path": "data.bin", "tls": tls})
    assert (lab.remote / "data.bin").read_bytes() == content
    assert (up["tls"] is None) == (tls == "none")


async def test_active_mode(lab: Lab, content: bytes) -> None:
    server = lab.serve()
    (lab.remote / "data.bin").write_bytes(content)
    await lab.call("ftp_download", {"remote_path": "data.bin", "passive_mode": False})
    assert (lab.local / "data.bin").read_bytes() == content
    assert server.commands("PORT")
    assert not server.commands("PASV")


async def test_a_certificate_is_verified_or_pinned(lab: Lab) -> None:
    lab.serve()
    pinned = f'fingerprint = "SHA256:{lab.certificate.fingerprint}"'
    for tls, code in (
        ("", "NETWORK_SSL_ERROR"),
        (pinned, None),
        ('fingerprint = "SHA256:' + "00" * 32 + '"', "NETWORK_SSL_ERROR"),
    ):
        lab.tls = tls
        if code is None:
            assert (await lab.call("ftp_list", {}))["files"] == []
        else:
            with pytest.raises(OperationError) as refused:
                await lab.call("ftp_list", {})
            assert refused.value.code == code
            assert refused.value.kind == "PERMANENT_ERROR"


# Breaks


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Transfers stand still after 200,000 bytes until it is set."""
    event, add = threading.Event(), Pace.add

    def add_and_hold(pace: Pace, count: int) -> None:
        add(pace, count)
        while pace.moved > 200_000 and not event.is_set():
            pace._op.wait(0.02)

    monkeypatch.setattr(Pace, "add", add_and_hold)
    return event


async def _cut_half_way(call: Call, proxy: Proxy, have: Any, go_on: threading.Event) -> OperationError:
    work = call.start()
    await eventually_async(_later(lambda: have() > 150_000), what="part of the file")
    proxy.cut()
    go_on.set()
    with pytest.raises(OperationError) as broken:
        await work
    return broken.value


def _later(look: Any) -> Any:
    async def later() -> Any:
        return look()

    return later


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(".*part-*"))


@pytest.mark.parametrize(("hashes", "proof"), [("", "overlap"), ("HASH", "sha256"), ("XSHA256", "sha256")])
async def test_an_upload_that_was_cut_goes_on(lab: Lab, content: bytes, hashes: str, proof: str, go_on: threading.Event) -> None:
    server = lab.serve(hashes=hashes)
    proxy = Proxy(server.port)
    lab.stack.callback(proxy.close)
    lab.port = proxy.port
    (lab.local / "data.bin").write_bytes(content)
    params = {"local_path": "data.bin"}

    broken = await _cut_half_way(lab.make("ftp_upload", params), proxy, lambda: _size(lab.remote), go_on)
    assert broken.code in (TaskErrorCode.FTP_CONNECTION_FAILED, TaskErrorCode.FTP_UPLOAD_FAILED)
    assert broken.kind == "TRANSIENT_ERROR"
    assert "data.bin" not in lab.names()  # nobody sees half of it under its name

    again = await lab.call("ftp_upload", params, attempt=2)
    assert (lab.remote / "data.bin").read_bytes() == content
    assert again["resumed"] is True
    assert again["resume_position"] > 100_000
    assert again["uploaded_bytes"] == 700_000 - again["resume_position"]
    assert again["resume_proof"] == proof
    assert lab.names() == ["data.bin"]


async def test_a_download_that_was_cut_goes_on(lab: Lab, go_on: threading.Event) -> None:
    server = lab.serve()
    proxy = Proxy(server.port)
    lab.stack.callback(proxy.close)
    lab.port = proxy.port
    content = os.urandom(16_000_000)  # more than the sockets on the way take at once
    (lab.remote / "data.bin").write_bytes(content)
    params = {"remote_path": "data.bin"}

    broken = await _cut_half_way(lab.make("ftp_download", params), proxy, lambda: _size(lab.local), go_on)
    assert broken.kind == "TRANSIENT_ERROR"
    assert not (lab.local / "data.bin").exists()

    again = await lab.call("ftp_download", params, attempt=2)
    assert (lab.local / "data.bin").read_bytes() == content
    assert again["resumed"] is True
    assert again["downloaded_bytes"] == 16_000_000 - again["resume_position"]
    assert os.listdir(lab.local) == ["data.bin"]


@pytest.mark.parametrize("way", ["ftp_upload", "ftp_download"])
async def test_a_stale_part_is_not_gone_on_with(lab: Lab, content: bytes, way: str) -> None:
    """Its size would fit; what is in it does not."""
    lab.serve()
    source, target = (lab.local, lab.remote) if way == "ftp_upload" else (lab.remote, lab.local)
    (source / "data.bin").write_bytes(content)
    call = lab.make(way, {"local_path" if way == "ftp_upload" else "remote_path": "data.bin"}, attempt=2)
    (target / f".data.bin.part-{call.op.key}").write_bytes(os.urandom(300_000))

    result = await call.run()
    assert (target / "data.bin").read_bytes() == content
    assert result["resumed"] is False
    assert "begins anew" in call.log()
    assert os.listdir(target) == ["data.bin"]


@pytest.mark.parametrize("way", ["ftp_upload", "ftp_download"])
async def test_wherever_it_was_cut_it_is_the_same_file_in_the_end(lab: Lab, content: bytes, way: str) -> None:
    lab.serve()
    source, target = (lab.local, lab.remote) if way == "ftp_upload" else (lab.remote, lab.local)
    (source / "data.bin").write_bytes(content)
    for cut in (1, 65_535, 65_536, 65_537, 699_999, 700_000):
        params = {"local_path" if way == "ftp_upload" else "remote_path": "data.bin", "overwrite": True}
        call = lab.make(way, params, attempt=2)
        (target / f".data.bin.part-{call.op.key}").write_bytes(content[:cut])
        result = await call.run()
        assert (result["resume_position"], result["resume_proof"]) == (cut, "overlap")
        assert (target / "data.bin").read_bytes() == content
        assert os.listdir(target) == ["data.bin"]


async def test_a_hash_shows_what_the_last_bytes_do_not(lab: Lab, content: bytes) -> None:
    lab.serve(hashes="XSHA256")
    spoilt = b"?" + content[1:300_000]
    (lab.local / "data.bin").write_bytes(content)
    call = lab.make("ftp_upload", {"local_path": "data.bin"}, attempt=2)
    (lab.remote / f".data.bin.part-{call.op.key}").write_bytes(spoilt)
    assert (await call.run())["resumed"] is False
    assert (lab.remote / "data.bin").read_bytes() == content

    params = {"remote_path": "data.bin", "local_path": "back.bin"}
    call = lab.make("ftp_download", params, attempt=2)
    (lab.local / f".back.bin.part-{call.op.key}").write_bytes(spoilt)
    with pytest.raises(OperationError) as failed:
        await call.run()
    assert (failed.value.code, failed.value.kind) == (TaskErrorCode.FTP_RESUME_FAILED, "TRANSIENT_ERROR")
    assert (await lab.call("ftp_download", params, attempt=3))["resumed"] is False
    assert (lab.local / "back.bin").read_bytes() == content


@pytest.mark.parametrize("way", ["ftp_upload", "ftp_download"])
@pytest.mark.parametrize("reason", [StopReason.CANCEL, StopReason.PAUSE])
async def test_a_cancel_clears_away_and_a_pause_does_not(
    lab: Lab, content: bytes, way: str, reason: StopReason, go_on: threading.Event
) -> None:
    lab.serve()
    source, target = (lab.local, lab.remote) if way == "ftp_upload" else (lab.remote, lab.local)
    (source / "data.bin").write_bytes(content)
    params = {"local_path" if way == "ftp_upload" else "remote_path": "data.bin"}
    call = lab.make(way, params)
    work = call.start()
    await eventually_async(_later(lambda: _size(target) > 100_000))
    call.stop(reason)
    with pytest.raises(OperationStopped):
        await work
    if reason is StopReason.CANCEL:
        assert os.listdir(target) == []
        return
    assert _size(target) > 100_000
    go_on.set()
    result = await lab.call(way, params)
    assert result["resumed"] is True
    assert (target / "data.bin").read_bytes() == content


async def test_a_server_that_is_silent_is_left_by_a_stop(lab: Lab) -> None:
    server = lab.serve()
    proxy = Proxy(server.port)
    lab.stack.callback(proxy.close)
    proxy.freeze()
    lab.port = proxy.port
    call = lab.make("ftp_list", {"timeout": 300})
    work = call.start()
    await asyncio.sleep(0.2)
    call.stop()
    with pytest.raises(OperationStopped):
        await asyncio.wait_for(work, 30)


async def test_a_server_that_is_silent_is_left_after_a_while(lab: Lab) -> None:
    server = lab.serve()
    proxy = Proxy(server.port)
    lab.stack.callback(proxy.close)
    proxy.freeze()
    lab.port = proxy.port
    with pytest.raises(OperationError) as silent:
        await lab.call("ftp_list", {"timeout": 0.3})
    assert (silent.value.code, silent.value.kind) == (TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR")


# What is there already


async def test_a_file_that_is_there_is_gone_on_with_only_where_it_is_a_beginning(lab: Lab, content: bytes) -> None:
    lab.serve()
    (lab.local / "data.bin").write_bytes(content)
    (lab.remote / "data.bin").write_bytes(content[:200_000])
    result = await lab.call("ftp_upload", {"local_path": "data.bin"})
    assert (result["resume_position"], result["uploaded_bytes"]) == (200_000, 500_000)
    assert (lab.remote / "data.bin").read_bytes() == content

    result = await lab.call("ftp_upload", {"local_path": "data.bin"})
    assert (result["uploaded_bytes"], result["resume_position"]) == (0, 700_000)

    for there in (os.urandom(200_000), content + b"more"):
        (lab.remote / "data.bin").write_bytes(there)
        with pytest.raises(OperationError) as refused:
            await lab.call("ftp_upload", {"local_path": "data.bin"})
        assert refused.value.code == TaskErrorCode.FTP_RESUME_FAILED
        assert (lab.remote / "data.bin").read_bytes() == there

    with pytest.raises(OperationError, match="overwrite"):
        await lab.call("ftp_upload", {"local_path": "data.bin", "resume": False})
    result = await lab.call("ftp_upload", {"local_path": "data.bin", "overwrite": True})
    assert (lab.remote / "data.bin").read_bytes() == content
    assert result["uploaded_bytes"] == 700_000


async def test_the_same_for_what_comes_down(lab: Lab, content: bytes) -> None:
    lab.serve()
    (lab.remote / "data.bin").write_bytes(content)
    (lab.local / "data.bin").write_bytes(content[:200_000])
    result = await lab.call("ftp_download", {"remote_path": "data.bin"})
    assert (result["resume_position"], result["downloaded_bytes"]) == (200_000, 500_000)
    assert (lab.local / "data.bin").read_bytes() == content
    assert (await lab.call("ftp_download", {"remote_path": "data.bin"}))["downloaded_bytes"] == 0

    for there in (os.urandom(200_000), content + b"more"):
        (lab.local / "data.bin").write_bytes(there)
        with pytest.raises(OperationError) as refused:
            await lab.call("ftp_download", {"remote_path": "data.bin"})
        assert refused.value.code == TaskErrorCode.FTP_RESUME_FAILED
        assert (lab.local / "data.bin").read_bytes() == there
    with pytest.raises(OperationError, match="overwrite"):
        await lab.call("ftp_download", {"remote_path": "data.bin", "resume": False})
    await lab.call("ftp_download", {"remote_path": "data.bin", "overwrite": True})
    assert (lab.local / "data.bin").read_bytes() == content


@pytest.mark.parametrize("answer", ["502 No.", "451 Append/Restart not permitted, try again.", "550 No."])
async def test_a_server_that_does_not_go_on_gets_all_of_it(lab: Lab, content: bytes, answer: str) -> None:
    """ProFTPD's own way is 451, which elsewhere means: at another time."""
    server = lab.serve(no_resume=answer, answers={"REST": answer} if answer.startswith("502") else {})
    (lab.local / "data.bin").write_bytes(content)
    call = lab.make("ftp_upload", {"local_path": "data.bin"}, attempt=2)
    (lab.remote / f".data.bin.part-{call.op.key}").write_bytes(content[:60_000])
    result = await call.run()
    assert (result["resumed"], result["uploaded_bytes"]) == (False, 700_000)
    assert (lab.remote / "data.bin").read_bytes() == content

    (lab.remote / "mine.bin").write_bytes(content[:60_000])  # not its own: it is not thrown away
    with pytest.raises(OperationError) as refused:
        await lab.call("ftp_upload", {"local_path": "data.bin", "remote_path": "mine.bin"})
    assert (refused.value.code, refused.value.kind) == (TaskErrorCode.FTP_RESUME_FAILED, "PERMANENT_ERROR")
    assert (lab.remote / "mine.bin").read_bytes() == content[:60_000]

    call = lab.make("ftp_download", {"remote_path": "data.bin", "local_path": "b.bin"}, attempt=2)
    (lab.local / f".b.bin.part-{call.op.key}").write_bytes(content[:300_000])
    result = await call.run()
    assert (result["resumed"], result["downloaded_bytes"]) == (False, 700_000)
    assert (lab.local / "b.bin").read_bytes() == content
    assert server.commands("REST")


async def test_a_checksum_is_compared_or_refused(lab: Lab, content: bytes) -> None:
    lab.serve(hashes="HASH")
    (lab.local / "data.bin").write_bytes(content)
    assert (await lab.call("ftp_upload", {"local_path": "data.bin", "checksum": True}))["verified"] == "sha256"
    assert (await lab.call("ftp_download", {"remote_path": "data.bin", "local_path": "b", "checksum": True}))[
        "verified"
    ] == "sha256"
    lab.serve()
    with pytest.raises(OperationError, match="no hashes"):
        await lab.call("ftp_upload", {"local_path": "data.bin", "checksum": True})


async def test_empty_files_and_odd_names(lab: Lab) -> None:
    lab.serve()
    for name in ("empty", "with space", "-rf", "ünï ✓", "a'b\"c", "%s{x}"):
        (lab.local / name).write_bytes(b"" if name == "empty" else b"x" * 10)
        await lab.call("ftp_upload", {"local_path": name})
        await lab.call("ftp_download", {"remote_path": f"/{name}", "local_path": f"{name}.back"})
        assert (lab.local / f"{name}.back").read_bytes() == (lab.local / name).read_bytes()
    listed = await lab.call("ftp_list", {})
    assert {entry["name"] for entry in listed["files"]} == set(lab.names())


# Failures and what they mean


async def test_a_wrong_password(lab: Lab) -> None:
    lab.serve()
    call = lab.make("ftp_list", {"credential": "wrong"})
    with pytest.raises(OperationError) as refused:
        await call.run()
    assert (refused.value.code, refused.value.kind) == (TaskErrorCode.FTP_AUTHENTICATION_FAILED, "PERMANENT_ERROR")
    assert "not-the-password" not in f"{refused.value}{refused.value.details}{call.log()}"


async def test_a_password_that_is_more_than_one_line_is_not_sent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    server = lab.serve()
    monkeypatch.setenv("FTP_TEST_PASSWORD", "first\r\nDELE /x")
    with pytest.raises(OperationError) as refused:
        await lab.call("ftp_list", {})
    assert refused.value.code == TaskErrorCode.CONFIGURATION_ERROR
    assert "first" not in str(refused.value)
    assert not server.handler.seen


@pytest.mark.parametrize("unknown", [set(), {"MLST", "MLSD"}, {"MLST", "MLSD", "FEAT"}])
async def test_what_550_means_is_asked(lab: Lab, unknown: set[str]) -> None:
    """A missing file and a forbidden one have the same digits."""
    server = lab.serve(perm="el", unknown=unknown)  # may list, and nothing else
    (lab.remote / "there").write_bytes(b"x")
    (lab.local / "new").write_bytes(b"x")
    cases: list[tuple[str, dict[str, Any], TaskErrorCode]] = [
        ("ftp_download", {"remote_path": "/gone"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
        ("ftp_download", {"remote_path": "/there"}, TaskErrorCode.FTP_PERMISSION_DENIED),
        ("ftp_delete", {"remote_path": "/there"}, TaskErrorCode.FTP_PERMISSION_DENIED),
        ("ftp_delete", {"remote_path": "/gone"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
        ("ftp_info", {"remote_path": "/gone"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
        ("ftp_mkdir", {"remote_path": "/folder"}, TaskErrorCode.FTP_PERMISSION_DENIED),
        ("ftp_rename", {"old_path": "/there", "new_path": "/x"}, TaskErrorCode.FTP_PERMISSION_DENIED),
        ("ftp_rename", {"old_path": "/gone", "new_path": "/x"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
        ("ftp_list", {"remote_path": "/gone"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
        ("ftp_upload", {"local_path": "new"}, TaskErrorCode.FTP_PERMISSION_DENIED),
        ("ftp_upload", {"local_path": "new", "remote_path": "/gone/new"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
    ]
    for name, params, code in cases:
        with pytest.raises(OperationError) as refused:
            await lab.call(name, params)
        assert (name, params, refused.value.code) == (name, params, code)
        assert refused.value.kind == "PERMANENT_ERROR"
    assert server.handler.seen


async def test_a_folder_on_the_disk_that_may_not_be_written(lab: Lab) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    lab.serve()
    (lab.local / "data").write_bytes(b"x")
    (lab.remote / "closed").mkdir(mode=0o500)
    with pytest.raises(OperationError) as refused:
        await lab.call("ftp_upload", {"local_path": "data", "remote_path": "/closed/"})
    assert refused.value.code == TaskErrorCode.FTP_PERMISSION_DENIED


@pytest.mark.parametrize("answer", ["552 Quota.", "452 No space."])
async def test_no_room_on_the_server(lab: Lab, content: bytes, answer: str) -> None:
    lab.serve(answers={"STOR": answer})
    (lab.local / "data.bin").write_bytes(content)
    with pytest.raises(OperationError) as refused:
        await lab.call("ftp_upload", {"local_path": "data.bin"})
    assert (refused.value.code, refused.value.kind) == (TaskErrorCode.SYSTEM_DISK_SPACE, "PERMANENT_ERROR")


async def test_a_disk_that_becomes_full_half_way(lab: Lab) -> None:
    lab.serve(full_at=300_000)
    (lab.local / "data.bin").write_bytes(os.urandom(8_000_000))
    with pytest.raises(OperationError) as refused:
        await lab.call("ftp_upload", {"local_path": "data.bin"})
    assert refused.value.code == TaskErrorCode.SYSTEM_DISK_SPACE, refused.value
    assert lab.names() == []  # no other attempt will mend it: its part is gone


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("450 Busy.", "TRANSIENT_ERROR"), ("451 Local error.", "TRANSIENT_ERROR"), ("551 Page type unknown.", "PERMANENT_ERROR")],
)
async def test_other_refusals_fail_the_transfer(lab: Lab, answer: str, kind: str) -> None:
    lab.serve(answers={"STOR": answer, "RETR": answer})
    (lab.local / "data").write_bytes(b"x")
    (lab.remote / "there").write_bytes(b"x")
    for name, params, code in (
        ("ftp_upload", {"local_path": "data"}, TaskErrorCode.FTP_UPLOAD_FAILED),
        ("ftp_download", {"remote_path": "there"}, TaskErrorCode.FTP_DOWNLOAD_FAILED),
    ):
        with pytest.raises(OperationError) as refused:
            await lab.call(name, params)
        assert (refused.value.code, refused.value.kind) == (code, kind)


async def test_a_file_that_changes_while_it_is_sent_is_not_given_its_name(
    lab: Lab, content: bytes, go_on: threading.Event
) -> None:
    lab.serve()
    (lab.local / "data.bin").write_bytes(content)
    work = lab.make("ftp_upload", {"local_path": "data.bin"}).start()
    await eventually_async(_later(lambda: _size(lab.remote) > 100_000))
    with (lab.local / "data.bin").open("ab") as file:
        file.write(b"more")
    go_on.set()
    with pytest.raises(OperationError, match="changed") as failed:
        await work
    assert (failed.value.code, failed.value.kind) == (TaskErrorCode.FTP_UPLOAD_FAILED, "TRANSIENT_ERROR")
    assert lab.names() == []


async def test_no_room_on_the_worker(lab: Lab, content: bytes) -> None:
    lab.serve()
    (lab.remote / "data.bin").write_bytes(content)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(OperationError) as failed:
            await lab.call("ftp_download", {"remote_path": "data.bin"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (failed.value.code, failed.value.kind) == (TaskErrorCode.SYSTEM_DISK_SPACE, "PERMANENT_ERROR")
    assert os.listdir(lab.local) == []


async def test_a_server_that_sends_replies_for_ever_or_none_of_ftp_is_left(lab: Lab) -> None:
    """Also one that slips in a reply before TLS, for the time after it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greetings[0])
        with contextlib.suppress(OSError):
            if await reader.readline():
                writer.write(b"234 Go on.\r\n230 You are logged in.\r\n")
            await reader.read()
        writer.close()

    greetings = [b"220-for ever\r\n" * 2000, b"220 " + b"x" * 20_000, b"SSH-2.0-OpenSSH\r\n", b"220 Hello.\r\n"]
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        lab.port = server.sockets[0].getsockname()[1]
        while greetings:
            with pytest.raises(OperationError) as failed:
                await lab.call("ftp_list", {"timeout": 2})
            greetings.pop(0)
            assert failed.value.code in (TaskErrorCode.FTP_CONNECTION_FAILED, TaskErrorCode.NETWORK_SSL_ERROR)


async def test_failures_of_the_worker_are_none_of_the_connection(lab: Lab) -> None:
    lab.serve()
    (lab.remote / "data").write_bytes(b"x")
    (lab.local / "folder").mkdir()
    os.mkfifo(lab.local / "fifo")
    cases: list[tuple[str, dict[str, Any], TaskErrorCode]] = [
        ("ftp_upload", {"local_path": "gone"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
        ("ftp_upload", {"local_path": "folder", "remote_path": "x"}, TaskErrorCode.FTP_INVALID_PATH),
        ("ftp_upload", {"local_path": "fifo"}, TaskErrorCode.FTP_INVALID_PATH),
        ("ftp_download", {"remote_path": "data", "local_path": "gone/data"}, TaskErrorCode.FTP_FILE_NOT_FOUND),
    ]
    for name, params, code in cases:
        with pytest.raises(OperationError) as refused:
            await lab.call(name, params)
        assert (params, refused.value.code, refused.value.kind) == (params, code, "INVALID_INPUT_ERROR")


async def test_no_server_and_no_ftp(lab: Lab) -> None:
    lab.port = free_port()
    with pytest.raises(OperationError) as refused:
        await lab.call("ftp_list", {})
    assert (refused.value.code, refused.value.kind) == (TaskErrorCode.FTP_CONNECTION_FAILED, "TRANSIENT_ERROR")


async def test_a_server_without_tls_is_not_spoken_to_in_plain_text(lab: Lab) -> None:
    server = lab.serve(plain=True, unknown={"AUTH"})
    with pytest.raises(OperationError, match="no TLS") as refused:
        await lab.call("ftp_list", {})
    assert refused.value.kind == "PERMANENT_ERROR"
    assert not server.commands("USER", "PASS")


async def test_the_address_that_pasv_names_is_ignored(lab: Lab, content: bytes) -> None:
    server = lab.serve(pasv_lie="192.0.2.1")
    (lab.remote / "data.bin").write_bytes(content)
    await lab.call("ftp_download", {"remote_path": "data.bin"})
    assert (lab.local / "data.bin").read_bytes() == content
    assert server.commands("PASV")


# Lists, folders, names


async def test_lists(lab: Lab) -> None:
    lab.serve()
    for name in ("a.txt", "b.log", "sub/c.txt", "sub/deep/d.txt"):
        (lab.remote / name).parent.mkdir(parents=True, exist_ok=True)
        (lab.remote / name).write_bytes(b"12345")
    (lab.remote / "up").symlink_to("..")

    flat = await lab.call("ftp_list", {"remote_path": "/"})
    assert {entry["name"] for entry in flat["files"]} >= {"a.txt", "b.log", "sub"}
    one = next(entry for entry in flat["files"] if entry["name"] == "a.txt")
    assert (one["type"], one["size"], one["path"]) == ("file", 5, "/a.txt")
    assert one["modified"].endswith("+00:00")

    texts = await lab.call("ftp_list", {"recursive": True, "pattern": "*.txt"})
    assert [entry["path"] for entry in texts["files"]] == ["/a.txt", "/sub/c.txt", "/sub/deep/d.txt"]
    assert texts["unreadable"] == ["/up"]  # this server follows links, and shows nothing outside
    texts = await lab.call("ftp_list", {"recursive": True, "pattern": "*.txt", "depth": 2})
    assert texts["file_count"] == 2
    few = await lab.call("ftp_list", {"limit": 2})
    assert (few["file_count"], few["truncated"]) == (2, True)


async def test_a_list_of_an_old_server(lab: Lab) -> None:
    """Names are names, and the lines of LIST stay what they are."""
    lab.serve(unknown={"MLST", "MLSD"})
    (lab.remote / "with space.txt").write_bytes(b"12345")
    listed = await lab.call("ftp_list", {})
    assert [(entry["name"], entry["type"], entry["size"]) for entry in listed["files"]] == [("with space.txt", "other", None)]
    assert listed["raw"][0].endswith("with space.txt")
    info = await lab.call("ftp_info", {"remote_path": "with space.txt"})
    assert (info["size"], info["type"]) == (5, "file")


async def test_folders_names_and_deletions(lab: Lab) -> None:
    lab.serve()
    made = await lab.call("ftp_mkdir", {"remote_path": "/a/b/c", "parents": True})
    assert made["created"] == ["/a", "/a/b", "/a/b/c"]
    with pytest.raises(OperationError, match="already"):
        await lab.call("ftp_mkdir", {"remote_path": "/a"})
    assert (await lab.call("ftp_mkdir", {"remote_path": "/a", "exist_ok": True}))["created"] == []
    assert (await lab.call("ftp_mkdir", {"remote_path": "/a"}, attempt=2))["created"] == []

    (lab.remote / "a" / "x").write_bytes(b"x")
    (lab.remote / "y").write_bytes(b"y")
    with pytest.raises(OperationError, match="overwrite"):
        await lab.call("ftp_rename", {"old_path": "/y", "new_path": "/a/x"})
    await lab.call("ftp_rename", {"old_path": "/y", "new_path": "/a/x", "overwrite": True})
    assert (lab.remote / "a" / "x").read_bytes() == b"y"
    await lab.call("ftp_rename", {"old_path": "/y", "new_path": "/a/x"}, attempt=2)  # the first attempt did it

    info = await lab.call("ftp_info", {"remote_path": "/a"})
    assert info["type"] == "dir"
    assert (await lab.call("ftp_delete", {"remote_path": "/a/x"}))["deleted"] is True
    assert (await lab.call("ftp_delete", {"remote_path": "/a/x", "missing_ok": True}))["deleted"] is False
    assert (await lab.call("ftp_delete", {"remote_path": "/a/x"}, attempt=2))["deleted"] is False
    await lab.call("ftp_delete", {"remote_path": "/a/b/c", "directory": True})
    assert not (lab.remote / "a" / "b" / "c").exists()
