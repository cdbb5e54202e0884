"""scp_list and ssh_copy against real servers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, PolicyError, StopReason
from tests.support.sshd import Sshd, config_of, running
from tests.support.transfers import MIB, Bed, bed_on, content, make_tree, parts_in, policy_for, stopped_at, tree_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture
def bed(server: Sshd, tmp_path: Path) -> Bed:
    return bed_on(server, tmp_path / "bed")


def names(result: dict[str, Any]) -> list[str]:
    return [entry["path"] for entry in result["entries"]]


def test_what_is_said_of_an_entry(bed: Bed) -> None:
    make_tree(bed.there, {"file.txt": "12345", "dir/inner": "x", "link": "->file.txt"})
    (bed.there / "file.txt").chmod(0o640)
    os.mkfifo(bed.there / "pipe")
    (bed.there / os.fsdecode(b"bad-\xff\x1b[31m")).write_text("x")

    result = bed.run("scp_list", path=str(bed.there))
    found = {entry["name"]: entry for entry in result["entries"]}

    assert found["file.txt"] == {
        "name": "file.txt",
        "path": "file.txt",
        "type": "file",
        "size": 5,
        "mode": "0640",
        "mode_text": "-rw-r-----",
        "uid": os.getuid(),
        "gid": os.getgid(),
        "mtime": "2020-09-13T12:26:40+00:00",
    }
    assert (found["dir"]["type"], found["dir"]["mode_text"][0]) == ("directory", "d")
    assert (found["link"]["type"], found["link"]["target"]) == ("link", "file.txt")
    assert found["pipe"]["type"] == "other"
    assert found["bad-\\xff\\x1b[31m"]["name_base64"] == "YmFkLf8bWzMxbQ=="
    assert (result["count"], result["truncated"], result["unreadable"]) == (5, False, [])


def test_how_deep_and_which(bed: Bed) -> None:
    make_tree(bed.there, {"a.txt": "", ".hidden": "", "d/b.txt": "", "d/e/c.txt": "", "d/e/f/g.log": ""})

    def listed(**params: Any) -> list[str]:
        return names(bed.run("scp_list", path=str(bed.there), **params))

    assert listed() == [".hidden", "a.txt", "d"]
    assert listed(hidden=False) == ["a.txt", "d"]
    assert listed(recursive=True, depth=2) == [".hidden", "a.txt", "d", "d/b.txt", "d/e"]
    assert listed(recursive=True, pattern="*.txt") == ["a.txt", "d/b.txt", "d/e/c.txt"]
    assert listed(recursive=True, pattern="d/*.txt") == ["d/b.txt", "d/e/c.txt"]
    cut = bed.run("scp_list", path=str(bed.there), recursive=True, limit=3)
    assert (names(cut), cut["truncated"]) == ([".hidden", "a.txt", "d"], True)
    assert names(bed.run("scp_list", path=f"{bed.there}/d/b.txt")) == ["b.txt"]


def test_a_link_out_of_the_roots_is_not_listed(bed: Bed) -> None:
    (bed.there / "out").symlink_to("/etc")
    with pytest.raises(PolicyError):
        bed.run("scp_list", path=f"{bed.there}/out")
    with pytest.raises(PolicyError):
        bed.run("scp_list", path="/etc")


# From host to host


@pytest.fixture
def two(server: Sshd, tmp_path: Path) -> Iterator[Bed]:
    """Hosts ``a`` and ``b`` with keys and credentials of their own."""
    folder = tmp_path / "bed"
    folder.mkdir()
    with running(Sshd(tmp_path / "other")) as other:
        text = server.credential("key-a") + server.host("a", credential="key-a")
        text += other.credential("key-b") + other.host("b", credential="key-b")
        bed = Bed(folder, config_of(text + policy_for(folder), folder))
        (bed.there / "a").mkdir()
        (bed.there / "b").mkdir()
        yield bed


def copy(bed: Bed, source: str, target: str, **params: Any) -> dict[str, Any]:
    ends = {
        "source": {"host": "a", "path": f"{bed.there}/a/{source}"},
        "destination": {"host": "b", "path": f"{bed.there}/b/{target}"},
    }
    return bed.run("ssh_copy", **ends, **params)


def test_a_file_from_host_to_host(two: Bed) -> None:
    data = content(3 * MIB + 1)
    (two.there / "a/file").write_bytes(data)
    os.utime(two.there / "a/file", (1_600_000_000, 1_600_000_000))

    result = copy(two, "file", "new/file", checksum=True)

    assert (two.there / "b/new/file").read_bytes() == data
    assert int((two.there / "b/new/file").stat().st_mtime) == 1_600_000_000
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    assert (result["source"]["host"], result["destination"]["host"]) == ("a", "b")
    assert result["source"]["fingerprint"] != result["destination"]["fingerprint"]
    assert list(two.here.iterdir()) == []


def test_a_tree_from_host_to_host(two: Bed) -> None:
    make_tree(two.there / "a/tree", {f"d{number % 3}/{number}": content(1000, number) for number in range(20)})
    result = copy(two, "tree", "", recursive=True)
    assert result["files_transferred"] == 20
    assert {path: about[:2] for path, about in tree_of(two.there / "b/tree").items()} == {
        path: about[:2] for path, about in tree_of(two.there / "a/tree").items()
    }


def test_it_goes_on_at_the_other_host(two: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.operations.ssh.meter._EVERY", 0.0)
    data = content(6 * MIB)
    (two.there / "a/file").write_bytes(data)
    with pytest.raises(OperationStopped):
        copy(two, "file", "file", op=stopped_at(two.op("ssh_copy"), StopReason.PAUSE, 0.4))
    (part,) = parts_in(two.there / "b")
    stopped = (two.there / "b" / part).stat().st_size

    result = copy(two, "file", "file", op=two.op("ssh_copy"), checksum=True)

    assert result["resumed_at"] == stopped > 2 * MIB
    assert (two.there / "b/file").read_bytes() == data


def test_what_is_missing_there(two: Bed) -> None:
    with pytest.raises(OperationError) as caught:
        copy(two, "nothing", "x")
    assert caught.value.code is TaskErrorCode.SCP_FILE_NOT_FOUND
    assert "a:" in str(caught.value)
