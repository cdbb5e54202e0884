"""system_backup over real trees."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import socket
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.files import free_bytes
from avtomatika.operations.system.archive import Digest, create, made_by, zstd
from avtomatika.operations.system.backup import _verify
from avtomatika.operations.system.walk import walk
from tests.support.children import in_child, open_folder_for_all
from tests.support.local_operations import Bench, stop_at

FORMATS = ("tar.gz", "tar.zst", "zip")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with what is met in folders."""
    root = tmp_path / "srv"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a.txt").write_text("alpha\n")
    (root / "nothing").write_bytes(b"")
    (root / "deep" / "big.bin").write_bytes(random.Random(7).randbytes(300_000))
    (root / "deep" / "er" / "with space ü\n-x").write_text("odd name")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "to-a").symlink_to("a.txt")
    (root / "out").symlink_to("/etc/passwd")
    (root / "to-folder").symlink_to("deep")
    os.mkfifo(root / "pipe")
    return root


def extracted(archive: Path, format_: str, folder: Path) -> Path:
    folder.mkdir()
    if format_ == "zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        return folder
    if format_ == "tar.zst":
        with zstd.open(archive, "rb") as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
            tar.extractall(folder, filter="fully_trusted")
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="fully_trusted")
    return folder


@pytest.mark.parametrize("format_", FORMATS)
def test_what_goes_in_comes_out(tree: Path, tmp_path: Path, format_: str) -> None:
    target = tmp_path / f"backup.{format_}"
    bench = Bench(tmp_path)
    found = bench.run("system_backup", {"paths": [str(tree)], "destination": str(target), "format": format_})

    assert (found["files"], found["folders"], found["links"]) == (5, 4, 3)
    assert found["skipped"] == [str(tree / "pipe")]
    assert found["verified"] is True
    assert found["checksum"] == f"sha256:{hashlib.sha256(target.read_bytes()).hexdigest()}"
    assert found["size"] == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, "srv"]

    out = extracted(target, format_, tmp_path / "out") / str(tree).lstrip("/")
    assert (out / "a.txt").read_text() == "alpha\n"
    assert (out / "deep" / "big.bin").read_bytes() == (tree / "deep" / "big.bin").read_bytes()
    assert (out / "deep" / "er" / "with space ü\n-x").read_text() == "odd name"
    assert (out / "empty").is_dir()
    if format_ != "zip":  # Python's own zip reader makes files of links
        assert os.readlink(out / "out") == "/etc/passwd"
        assert stat.S_IMODE((out / "run.sh").stat().st_mode) == 0o755


def test_links_are_stored_as_links_in_a_zip(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup.zip"
    Bench(tmp_path).run("system_backup", {"paths": [str(tree)], "destination": str(target), "format": "zip"})

    with zipfile.ZipFile(target) as packed:
        info = packed.getinfo(f"{tree}/out".lstrip("/"))
        assert stat.S_ISLNK(info.external_attr >> 16)
        assert packed.read(info) == b"/etc/passwd"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()
    with open(os.fsencode(tmp_path / "srv") + b"/\xff\xfe", "wb") as file:
        file.write(b"x")
    for format_ in FORMATS:
        target = tmp_path / f"backup.{format_}"
        found = Bench(tmp_path).run("system_backup", {"paths": ["srv"], "destination": str(target), "format": format_})
        assert found["files"] == 1


def test_what_is_excluded_and_the_archive_itself_stay_out(tree: Path, tmp_path: Path) -> None:
    target = tree / "backup.tar.gz"
    bench = Bench(tmp_path)
    params = {"paths": ["srv"], "destination": str(target), "exclude": ["*.txt", "deep/er"], "overwrite": True}
    bench.run("system_backup", params)
    found = bench.run("system_backup", params)

    assert found["files"] == 3
    with tarfile.open(target) as tar:
        names = {Path(name).name for name in tar.getnames()}
    assert names.isdisjoint({"a.txt", "er", "backup.tar.gz", f".{target.name}.part-{bench.context('system_backup', params).key}"})


def test_files_of_the_configuration_stay_out(tree: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, credentials={"deploy": {"key_file": tree / "deep" / "big.bin"}})
    found = bench.run("system_backup", {"paths": ["srv"], "destination": "b.tar.gz"})

    assert str(tree / "deep" / "big.bin") in found["skipped"]
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        assert not any(name.endswith("big.bin") for name in tar.getnames())


def test_a_backup_that_is_there_is_not_overwritten(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup.zip"
    target.write_text("precious")
    error = Bench(tmp_path).fails("system_backup", {"paths": ["srv"], "destination": "backup.zip", "format": "zip"})

    assert error.code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
    assert target.read_text() == "precious"


@pytest.mark.parametrize("format_", FORMATS)
def test_a_second_attempt_knows_the_work_of_the_first(tree: Path, tmp_path: Path, format_: str) -> None:
    bench = Bench(tmp_path)
    params = {"paths": ["srv"], "destination": "backup", "format": format_}
    first = bench.run("system_backup", params)
    again = bench.run("system_backup", params, attempt=2)

    assert again["already_done"] is True
    assert again["size"] == first["size"]
    other = {**params, "exclude": ["*.txt"]}
    assert bench.fails("system_backup", other, attempt=2).code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("count", [1, 8, 20, 33])
def test_a_stop_leaves_nothing_behind(tree: Path, tmp_path: Path, format_: str, count: int) -> None:
    with pytest.raises(OperationStopped):
        Bench(tmp_path).run(
            "system_backup", {"paths": ["srv"], "destination": "backup", "format": format_}, before=stop_at(count)
        )

    assert [path.name for path in tmp_path.iterdir()] == ["srv"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"paths": ["srv"]}, TaskErrorCode.VALIDATION_MISSING_REQUIRED),
        ({"paths": [], "destination": "x"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["srv"], "destination": "x", "format": "rar"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["srv"], "destination": "x", "level": 12}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"paths": ["nowhere"], "destination": "x"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["srv"], "destination": "no/folder/x"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["../etc"], "destination": "x"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"paths": ["srv"], "destination": "/tmp/x"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"paths": ["srv/out"], "destination": "x"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
    ],
)
def test_params_that_do_not_fit(tree: Path, tmp_path: Path, params: dict[str, Any], code: TaskErrorCode) -> None:
    assert Bench(tmp_path).fails("system_backup", params).code is code
    assert [path.name for path in tmp_path.iterdir()] == ["srv"]


def test_a_link_that_appears_after_the_policy_was_asked_leads_nowhere(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    bench = Bench(tmp_path)

    local_path = bench.permit.local_path(tree / "deep")
    (tree / "deep").rename(tmp_path / "moved")
    (tree / "deep").symlink_to(tmp_path / "secret")

    with pytest.raises(OSError, match="deep"):
        list(walk(local_path / "er", lambda: None))
    assert [entry.is_link for entry in walk(local_path, lambda: None)] == [True]  # stored as the link that it is


def test_too_little_space_is_seen_before(tree: Path, tmp_path: Path) -> None:
    with (tree / "huge").open("wb") as file:
        file.truncate(free_bytes(tmp_path) + (1 << 30))
    error = Bench(tmp_path).fails("system_backup", {"paths": ["srv"], "destination": "backup"})

    assert error.code is TaskErrorCode.SYSTEM_DISK_SPACE
    assert error.details["needed"] > error.details["free"] > 0


def test_a_limit_on_files_is_told_from_other_failures(tree: Path, tmp_path: Path) -> None:
    def body() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        return Bench(tmp_path).fails("system_backup", {"paths": ["srv"], "destination": "backup"}).code

    assert in_child(body) == TaskErrorCode.SYSTEM_RESOURCE_LIMIT
    assert [path.name for path in tmp_path.iterdir()] == ["srv"]


def test_a_file_that_may_not_be_read_fails_the_backup(tree: Path) -> None:
    (tree / "a.txt").chmod(0)
    params = {"paths": ["srv"], "destination": "backup"}

    with open_folder_for_all() as folder:
        shutil.copytree(tree, folder / "srv", symlinks=True, ignore=lambda *_: ["pipe"])
        assert in_child(lambda: Bench(folder).fails("system_backup", params).code, nobody=True) == "SYSTEM_PERMISSION_DENIED"
        assert [path.name for path in folder.iterdir()] == ["srv"]

        (folder / "srv" / "a.txt").chmod(0o644)
        assert in_child(lambda: Bench(folder).run("system_backup", params)["files"], nobody=True) == 5


def test_a_file_that_grows_shorter_is_told_of(tree: Path, tmp_path: Path) -> None:
    big = tree / "deep" / "big.bin"
    big.write_bytes(bytes(8 << 20))

    def before(op: Any) -> None:
        checkpoint = op.checkpoint

        def cutting() -> None:
            if op._progress > 0 and op._step == "writing the archive" and big.stat().st_size > 3 << 20:
                big.open("r+b").truncate(3 << 20)
            checkpoint()

        op.checkpoint = cutting

    found = Bench(tmp_path).run(
        "system_backup", {"paths": ["srv/deep/big.bin"], "destination": "b.zip", "format": "zip"}, before=before
    )

    assert found["changed"] == [str(big)]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_damaged_archive_is_not_believed(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "archive"
    (tmp_path / "file").write_bytes(random.Random(3).randbytes(100_000))
    state = (tmp_path / "file").stat()
    with path.open("w+b") as file, create(file, format_, None, "a key") as archive, (tmp_path / "file").open("rb") as content:
        archive.file("file", state, content)
    assert made_by(path, format_) == "a key"

    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with path.open("rb") as file, pytest.raises(OperationError) as found:
        _verify(file, format_, Digest(), Bench().context("system_backup", {}))
    assert found.value.code is TaskErrorCode.DATA_FILE_CORRUPTED


@pytest.mark.parametrize("format_", FORMATS)
def test_an_archive_of_something_else_is_not_believed(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "archive"
    written = Digest()
    with path.open("w+b") as file, create(file, format_, None, "") as archive:
        archive.folder("one", tmp_path.stat())
    written.add("folder", "one")
    op = Bench().context("system_backup", {})
    with path.open("rb") as file:
        _verify(file, format_, written, op)
        written.add("folder", "two")
        with pytest.raises(OperationError) as found:
            _verify(file, format_, written, op)
    assert found.value.code is TaskErrorCode.DATA_FILE_CORRUPTED


def test_a_socket_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "srv" / "s"))
        found = Bench(tmp_path).run("system_backup", {"paths": ["srv"], "destination": "b"})

    assert (found["files"], len(found["skipped"])) == (0, 1)
