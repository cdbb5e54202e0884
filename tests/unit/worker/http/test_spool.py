"""Results on disk: whole or not at all, private, and found by the next process."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import ConfigurationError
from avtomatika.worker.http import spool as module
from avtomatika.worker.http.spool import Entry, Spool, default_root


def _entry(task_id: str = "t1", url: str = "http://one", **data: Any) -> Entry:
    return Entry(url, {"task_id": task_id, "job_id": "j", "worker_id": "w", "result": {"status": "success", "data": data}})


def test_what_is_kept_is_there_for_the_next_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w")
    first, second = _entry("t1", n=1), _entry("t2", url="http://two")
    for at, entry in enumerate((first, second)):
        spool.keep(entry)
        os.utime(tmp_path / "w" / entry.name, (at, at))
    spool.close()

    again = Spool(tmp_path, "w")
    assert again.entries() == [first, second]
    again.drop(first)
    again.close()
    assert Spool(tmp_path, "w").entries() == [second]


def test_an_id_from_elsewhere_is_no_path(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w")
    spool.keep(_entry("../../etc/passwd\n"))
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "w"]


def test_files_are_private(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "root", "w")
    spool.keep(_entry())
    (path,) = tmp_path.rglob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, "w")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.keep(_entry())
    assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"url": "u"}', '{"url": "u", "body": []}', '{"url": "u", "body": {"task_id": 3}}']
)
def test_what_is_no_result_is_put_aside(tmp_path: Path, text: str) -> None:
    spool = Spool(tmp_path, "w")
    spool.keep(_entry())
    (tmp_path / "w" / "broken.json").write_text(text)

    assert spool.entries() == [_entry()]
    assert (tmp_path / "w" / "broken.bad").read_text() == text


def test_a_half_written_file_is_no_entry(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w")
    (tmp_path / "w" / ".tmpabc").write_text(json.dumps({"url": "u", "body": {"task_id": "t"}}))
    assert spool.entries() == []


def test_one_process_of_a_name(tmp_path: Path) -> None:
    first = Spool(tmp_path, "w")
    with pytest.raises(ConfigurationError, match="give each worker process a WORKER_ID"):
        Spool(tmp_path, "w")
    first.close()
    Spool(tmp_path, "w").close()


def test_a_dead_process_of_the_family_leaves_its_results_to_the_next(tmp_path: Path) -> None:
    dead, living, other = (
        Spool(tmp_path, "cpu-host-7", "cpu-host-"),
        Spool(tmp_path, "cpu-host-8", "cpu-host-"),
        Spool(tmp_path, "x-7"),
    )
    for spool, task in ((dead, "of the dead"), (living, "of the living"), (other, "of another")):
        spool.keep(_entry(task))
    dead.close()
    other.close()

    heir = Spool(tmp_path, "cpu-host-9", "cpu-host-")
    assert [entry.task_id for entry in heir.entries()] == ["of the dead"]
    heir.drop(_entry("of the dead"))
    heir.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu-host-8", "x-7"]


def test_a_folder_that_cannot_be_used_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="WORKER_SPOOL_DIR"):
        Spool(tmp_path / "file" / "below", "w")


def test_the_default_is_the_users_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "avtomatika-spool"

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    assert default_root() == tmp_path / "tmp" / f"avtomatika-spool-{os.getuid()}"
