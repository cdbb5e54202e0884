"""Directories with all that is in them: by tar and without, links, what is left out, what goes wrong, and going on."""

from __future__ import annotations

import os
import socket
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from tests.support.sftp_server import MisbehavingServer
from tests.support.sshd import Sshd, config_of, running
from tests.support.transfers import (
    MIB,
    Bed,
    bed_on,
    content,
    make_tree,
    parts_in,
    policy_for,
    stopped_at,
    tree_of,
)

FILES = {
    **{f"small/{number}": content(4096, number) for number in range(30)},
    "empty": b"",
    "deep/er/and/deeper": "deep",
    "big.bin": content(2 * MIB + 3),
    "-odd name\n$(x)": "odd",
    os.fsdecode(b"not-utf8-\xff"): "bytes",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture(autouse=True)
def _every_step_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.operations.ssh.meter._EVERY", 0.0)


@pytest.fixture
def bed(server: Sshd, tmp_path: Path) -> Bed:
    return bed_on(server, tmp_path / "bed")


def sides(bed: Bed, way: str) -> tuple[Path, Path]:
    return (bed.here, bed.there) if way == "up" else (bed.there, bed.here)


def copy(bed: Bed, way: str, **params: Any) -> dict[str, Any]:
    return getattr(bed, way)("tree", recursive=True, **params)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("tools", [True, False])
def test_a_tree_arrives_as_it_is(bed: Bed, way: str, tools: bool) -> None:
    source, target = sides(bed, way)
    make_tree(source / "tree", FILES)
    (source / "tree/small/3").chmod(0o755)
    (source / "tree/nothing in it").mkdir()
    for folder in sorted((source / "tree").rglob("*"), reverse=True):
        if folder.is_dir():
            os.utime(folder, (1_500_000_000, 1_500_000_000))

    result = copy(bed, way, remote_tools=tools)

    assert tree_of(target / "tree") == tree_of(source / "tree")
    assert result["files_transferred"] == len(FILES)
    assert result["bytes_transferred"] == sum(len(data) for data in FILES.values())
    assert parts_in(target) == []
    # A second time, on what is there; now nothing but what differs.
    (source / "tree/small/7").write_text("changed")
    again = copy(bed, way, remote_tools=tools, overwrite="different")
    assert (again["files_transferred"], again["files_skipped"]) == (1, len(FILES) - 1)
    assert tree_of(target / "tree")["small/7"][1] == b"changed"


def test_a_directory_needs_recursive(bed: Bed) -> None:
    make_tree(bed.here / "tree", {"a": "a"})
    with pytest.raises(OperationError, match="set recursive"):
        bed.up("tree")


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("rule", ["skip", "copy", "follow"])
def test_links(bed: Bed, way: str, rule: str) -> None:
    source, target = sides(bed, way)
    (source / "secret").write_text("secret")
    make_tree(
        source / "tree",
        {
            "real/file": "content",
            "link": "->real/file",
            "folder": "->real",
            "ring": "->.",
            "out": "->../secret",
            "absolute": f"->{source}/secret",
            "broken": "->nowhere",
            "sly": "->ring/../../secret",
        },
    )
    copy(bed, way, symlinks=rule)
    found = {path: about[1] for path, about in tree_of(target / "tree").items() if path != "real"}
    if rule == "skip":
        assert found == {"real/file": b"content"}
    elif rule == "copy":
        links = {"link": "real/file", "folder": "real", "ring": ".", "broken": "nowhere"}
        assert found == {"real/file": b"content", **links}
    else:
        assert found == {
            "real/file": b"content", "link": b"content", "folder": None, "folder/file": b"content",
        }  # fmt: skip


def test_what_is_no_file_is_left_out_and_told(bed: Bed) -> None:
    make_tree(bed.here / "tree", {"a": "a"})
    os.mkfifo(bed.here / "tree/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(bed.here / "tree")
        try:
            listener.bind("socket")
        finally:
            os.chdir(before)
    op = bed.op("scp_upload")
    copy(bed, "up", op=op)
    assert sorted(tree_of(bed.there / "tree")) == ["a"]
    report = op.take_report()
    assert report is not None
    assert {line for _, line in report.lines if line.startswith("skipped")} == {
        "skipped pipe: neither a file nor a directory",
        "skipped socket: neither a file nor a directory",
    }


def test_patterns_and_limits(bed: Bed) -> None:
    make_tree(bed.here / "tree", {"a.txt": "1", "b.log": "22", "cache/c.txt": "3", "sub/d.txt": "4", "sub/e.tmp": "5"})
    copy(bed, "up", include=["*.txt"], exclude=["cache/", "sub/d*"])
    assert [path for path, about in tree_of(bed.there / "tree").items() if about[1] is not None] == ["a.txt"]
    for limit in ({"max_files": 4}, {"max_bytes": 5}, {"max_depth": 1}):
        with pytest.raises(OperationError, match=next(iter(limit))):
            copy(bed, "up", **limit)


@pytest.mark.parametrize("tools", [True, False])
def test_what_fails_is_listed_and_the_rest_arrives(bed: Bed, tools: bool) -> None:
    files = {f"{number:02}": str(number) for number in range(12)}
    make_tree(bed.here / "tree", files)
    (bed.there / "tree/05/in the way").mkdir(parents=True)

    with pytest.raises(OperationError) as caught:
        copy(bed, "up", remote_tools=tools)

    assert caught.value.code is TaskErrorCode.SCP_TRANSFER_FAILED
    assert [failure["path"] for failure in caught.value.details["failed"]] == ["05"]
    assert caught.value.details["files_transferred"] == 11
    found = {path: about[1] for path, about in tree_of(bed.there / "tree").items() if about[1] is not None}
    assert found == {name: text.encode() for name, text in files.items() if name != "05"}
    assert parts_in(bed.there) == []


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("tools", [True, False])
def test_after_a_pause_only_the_rest_is_copied(bed: Bed, way: str, tools: bool) -> None:
    source, target = sides(bed, way)
    # By tar: two batches. Without: one after the other.
    files = {f"{number:02}": content(MIB // 2, number) for number in range(12)}
    files |= {f"x{number}": content(MIB + 1, number) for number in range(4)}
    make_tree(source / "tree", files)
    op = stopped_at(bed.op("scp"), StopReason.PAUSE, 0.75)
    with pytest.raises(OperationStopped):
        copy(bed, way, op=op, remote_tools=tools, channels=2)
    report = op.take_report()
    assert report is not None
    done = [path for path in files if (target / "tree" / path).exists()]
    assert 0 < len(done) < len(files)

    op = bed.op("scp")
    result = copy(bed, way, op=op, remote_tools=tools)

    assert result["files_transferred"] == len(files) - len(done)
    assert tree_of(target / "tree") == tree_of(source / "tree")
    assert parts_in(target) == []
    first = report.progress
    assert first is not None
    assert op._progress >= first


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("tools", [True, False])
def test_after_a_cancel_nothing_half_is_left(bed: Bed, way: str, tools: bool) -> None:
    source, target = sides(bed, way)
    files = {f"{number:02}": content(MIB // 2, number) for number in range(12)}
    make_tree(source / "tree", files)
    with pytest.raises(OperationStopped):
        copy(bed, way, op=stopped_at(bed.op("scp"), StopReason.CANCEL, 0.4), remote_tools=tools)
    found = {path: about[1] for path, about in tree_of(target / "tree").items()}
    assert all(files[path] == data for path, data in found.items() if ".part-" not in path)
    assert parts_in(target) == []


# A host that is no friend


class Hostile(asyncssh.SFTPServer):
    """Lists what no directory holds."""

    names = [b"fine", b"../../evil"]

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        for name in self.names:
            yield asyncssh.SFTPName(name, attrs=asyncssh.SFTPAttrs(size=4, permissions=0o100644, atime=0, mtime=0))

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        mode = 0o40755 if path.endswith(b"/there") else 0o100644
        return asyncssh.SFTPAttrs(size=4, permissions=mode, atime=0, mtime=0)

    lstat = stat


@pytest.mark.parametrize("name", [b"../../evil", b"/etc/abs", b"", b"a/b", b"nul\0"])
def test_a_name_that_is_none_ends_it(tmp_path: Path, name: bytes) -> None:
    server = MisbehavingServer(tmp_path / "server", type("Evil", (Hostile,), {"names": [b"fine", name]}))
    try:
        (tmp_path / "bed").mkdir()
        bed = Bed(tmp_path / "bed", config_of(server.config(policy_for(tmp_path / "bed")), tmp_path))
        with pytest.raises(OperationError, match="no name of a file") as caught:
            bed.run("scp_download", source_path=str(bed.there), destination_path=f"{bed.here}/tree", recursive=True)
        assert caught.value.code is TaskErrorCode.SCP_TRANSFER_FAILED
        with pytest.raises(OperationError, match="no name of a file"):
            bed.run("scp_list", path=str(bed.there))
        assert not (tmp_path / "evil").exists()
        assert list(bed.here.iterdir()) == []
    finally:
        server.close()


def test_a_host_that_lists_without_end(tmp_path: Path) -> None:
    class Endless(Hostile):
        async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
            number = 0
            while True:
                number += 1
                yield asyncssh.SFTPName(b"%d" % number, attrs=asyncssh.SFTPAttrs(size=4, permissions=0o100644, atime=0, mtime=0))

    server = MisbehavingServer(tmp_path / "server", Endless)
    try:
        (tmp_path / "bed").mkdir()
        bed = Bed(tmp_path / "bed", config_of(server.config(policy_for(tmp_path / "bed")), tmp_path))
        with pytest.raises(OperationError, match="max_files"):
            bed.run("scp_download", source_path=str(bed.there), destination_path=f"{bed.here}/t", recursive=True, max_files=500)
        assert bed.run("scp_list", path=str(bed.there), limit=100)["truncated"] is True
    finally:
        server.close()


def test_a_host_that_claims_more_than_it_sends(tmp_path: Path) -> None:
    """Four thousand million extensions of an attribute, none of which is there."""

    class Attributes(asyncssh.SFTPAttrs):
        def encode(self, sftp_version: int) -> bytes:
            return (0x80000000).to_bytes(4, "big") + (0xFFFFFFFF).to_bytes(4, "big")

    class Claiming(Hostile):
        def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
            return Attributes()

        lstat = stat

    server = MisbehavingServer(tmp_path / "server", Claiming)
    try:
        (tmp_path / "bed").mkdir()
        bed = Bed(tmp_path / "bed", config_of(server.config(policy_for(tmp_path / "bed")), tmp_path))
        with pytest.raises(OperationError, match="as many attributes"):
            bed.run("scp_list", path=f"{bed.there}/x")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("sends", "said"),
    [
        ("cd {}/lure && PATH=/usr/bin:/bin tar -c -P -f - ../target ./ok", "nobody asked for"),
        ("cd {}/lure && PATH=/usr/bin:/bin tar -c -f - ./ok | head -c 1024; exec cat /dev/zero", "nobody asked for"),
        # A header that says: a name of four thousand million bytes follows.
        ("cd {}/lure && cat longname; exec cat /dev/zero", "more than it was asked for"),
    ],
)
def test_a_tar_that_sends_something_else(tmp_path: Path, sends: str, said: str) -> None:
    """The host's tar is replaced by one that sends what nobody asked for."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "tar").write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'tar (GNU tar)' && exit\ncat >/dev/null\n{sends.format(tmp_path)}\n"
    )
    (tools / "tar").chmod(0o755)
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    make_tree(tmp_path / "lure", {"ok": "ok", "longname": header.tobuf(tarfile.GNU_FORMAT)})
    (tmp_path / "target").write_text("evil")
    # An own server: its users' PATH begins with the directory of that tar.
    path = f"PATH={tools}:/usr/bin:/bin"
    with running(Sshd(tmp_path / "sshd")) as own:
        own.close()
        own.options["SetEnv"] = f"{path} SHLVL=2"
        own.start()
        own.wait_ready()
        bed = bed_on(own, tmp_path / "bed")
        make_tree(bed.there / "tree", {f"{number}": "x" for number in range(20)})
        with pytest.raises(OperationError, match=said):
            bed.down("tree", recursive=True)
        assert tree_of(bed.here / "tree") == {}


def test_a_directory_that_is_swapped_for_a_link(bed: Bed) -> None:
    """Here: what is in the way as a link is neither followed nor written through."""
    make_tree(bed.there / "tree", {"sub/a": "a", **{f"{number}": "x" for number in range(3)}})
    (bed.folder / "outside").mkdir()
    (bed.here / "tree").mkdir()
    (bed.here / "tree/sub").symlink_to(bed.folder / "outside")
    with pytest.raises(OperationError) as caught:
        bed.down("tree", recursive=True)
    assert [failure["path"] for failure in caught.value.details["failed"]] == ["sub"]
    assert list((bed.folder / "outside").iterdir()) == []
    assert (bed.here / "tree/1").read_text() == "x"
