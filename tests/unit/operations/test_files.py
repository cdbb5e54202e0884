"""Files as operations open and make them, and what the operating system's errors mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.files import judge_os, new_file, open_file, open_folder, shown


def test_a_full_disk() -> None:
    with pytest.raises(OSError) as found, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    judged = judge_os(found.value)
    assert judged is not None
    assert judged.code is TaskErrorCode.SYSTEM_DISK_SPACE


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, TaskErrorCode.DATA_FILE_NOT_FOUND),
        (errno.ELOOP, TaskErrorCode.DATA_FILE_NOT_FOUND),
        (errno.EDQUOT, TaskErrorCode.SYSTEM_DISK_SPACE),
        (errno.EROFS, TaskErrorCode.SYSTEM_PERMISSION_DENIED),
        (errno.EMFILE, TaskErrorCode.SYSTEM_RESOURCE_LIMIT),
        (errno.ENOMEM, TaskErrorCode.SYSTEM_MEMORY_LIMIT),
    ],
)
def test_errors_by_their_numbers(number: int, code: TaskErrorCode) -> None:
    judged = judge_os(OSError(number, os.strerror(number), "/x"), missing=TaskErrorCode.DATA_FILE_NOT_FOUND)
    assert judged is not None
    assert judged.code is code
    assert "/x" in str(judged)


def test_errors_that_say_nothing() -> None:
    assert judge_os(OSError("no number")) is None
    assert judge_os(ValueError()) is None
    assert judge_os(MemoryError()) is not None


def test_no_link_is_followed_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "alias").symlink_to("file")

    with open_file(tmp_path / "real" / "file") as file:
        assert file.read() == b"x"
    for path in (tmp_path / "link" / "file", tmp_path / "real" / "alias", tmp_path / "real"):
        with pytest.raises(OSError):
            open_file(path)
    with pytest.raises(OSError), new_file(tmp_path / "link" / "new", "key"):
        pass
    with pytest.raises(OSError), open_folder(tmp_path / "link"):
        pass


def test_a_fifo_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        open_file(tmp_path / "pipe")


def test_a_new_file_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "name").symlink_to("kept")
    with new_file(tmp_path / "name", "key") as file:
        file.write(b"new")

    assert (tmp_path / "kept").read_text() == "kept"
    assert not (tmp_path / "name").is_symlink()
    assert (tmp_path / "name").read_text() == "new"


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def late() -> None:
        with new_file(tmp_path / "name", "key", overwrite=False) as file:
            file.write(b"late")
            (tmp_path / "name").write_text("early")

    with pytest.raises(FileExistsError):
        late()

    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert (tmp_path / "name").read_text() == "early"


def test_what_a_killed_attempt_has_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".name.part-key").write_text("a long rest of an attempt before")
    with new_file(tmp_path / "name", "key") as file:
        file.write(b"whole")

    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert (tmp_path / "name").read_text() == "whole"


def test_names_that_are_not_utf8_are_shown() -> None:
    assert shown(os.fsdecode(b"/a/\xff")) == "/a/\\xff"
