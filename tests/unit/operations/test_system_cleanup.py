"""system_cleanup over real trees."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationStopped
from avtomatika.operations.system.cleanup import seconds_of
from tests.support.children import in_child, open_folder_for_all
from tests.support.local_operations import Bench, stop_at

DAY = 86400


def age(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then), follow_symlinks=False)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "logs"
    (root / "inner").mkdir(parents=True)
    for name, days in [("old.log", 10), ("new.log", 1), ("old.txt", 10), ("inner/older.log", 20)]:
        (root / name).write_text(name)
        age(root / name, days)
    (tmp_path / "outside").mkdir()
    age_of = tmp_path / "outside" / "kept.log"
    age_of.write_text("kept")
    age(age_of, 30)
    (root / "to-outside").symlink_to(tmp_path / "outside")
    (root / "to-file.log").symlink_to(age_of)
    age(root / "to-file.log", 30)
    return root


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_a_dry_run_is_the_default_and_changes_nothing(tree: Path, tmp_path: Path) -> None:
    before = left(tmp_path)
    found = Bench(tmp_path).run("system_cleanup", {"paths": ["logs"], "older_than": "7d"})

    assert (found["dry_run"], found["matched"], found["deleted"]) == (True, 3, 0)
    assert {Path(file["path"]).name for file in found["files"]} == {"old.log", "old.txt", "older.log"}
    assert found["bytes"] == sum(file["size"] for file in found["files"])
    assert left(tmp_path) == before


def test_what_is_old_goes_and_no_link_is_followed(tree: Path, tmp_path: Path) -> None:
    found = Bench(tmp_path).run("system_cleanup", {"paths": ["logs"], "older_than": "7d", "pattern": "*.log", "dry_run": False})

    assert (found["deleted"], found["failed"]) == (2, [])
    assert left(tree) == {"inner", "new.log", "old.txt", "to-outside", "to-file.log"}
    assert (tmp_path / "outside" / "kept.log").exists()


@pytest.mark.parametrize(
    ("more", "gone"),
    [
        ({"recursive": False}, {"old.log", "old.txt"}),
        ({"exclude": ["inner"]}, {"old.log", "old.txt"}),
        ({"older_than": "15d"}, {"inner/older.log"}),
        ({"pattern": "inner/*"}, {"inner/older.log"}),
        ({"paths": ["logs/old.log"]}, {"old.log"}),
        ({"paths": ["logs", "logs/inner"]}, {"old.log", "old.txt", "inner/older.log"}),
    ],
)
def test_what_is_chosen(tree: Path, tmp_path: Path, more: dict[str, Any], gone: set[str]) -> None:
    before = left(tree)
    found = Bench(tmp_path).run("system_cleanup", {"paths": ["logs"], "older_than": "7d", "dry_run": False, **more})

    assert before - left(tree) == gone
    assert found["deleted"] == len(gone)


def test_files_of_the_configuration_stay(tree: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, credentials={"deploy": {"key_file": tree / "old.log"}})
    found = bench.run("system_cleanup", {"paths": ["logs"], "older_than": "7d", "dry_run": False})

    assert found["deleted"] == 2
    assert (tree / "old.log").exists()


def test_more_than_max_delete_is_nothing_at_all(tree: Path, tmp_path: Path) -> None:
    before = left(tree)
    error = Bench(tmp_path).fails("system_cleanup", {"paths": ["logs"], "older_than": "7d", "max_delete": 2, "dry_run": False})

    assert error.code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
    assert left(tree) == before


def test_a_file_that_has_changed_since_it_was_found_stays(tree: Path, tmp_path: Path) -> None:
    def before(op: Any) -> None:
        progress = op.progress

        def touching(value: float, step: str | None = None, *more: Any) -> None:
            if step == "deleting":
                (tree / "old.log").write_text("news")
            progress(value, step, *more)

        op.progress = touching

    found = Bench(tmp_path).run("system_cleanup", {"paths": ["logs"], "older_than": "7d", "dry_run": False}, before=before)

    assert found["deleted"] == 2
    assert [failure["path"] for failure in found["failed"]] == [str(tree / "old.log")]
    assert (tree / "old.log").read_text() == "news"


def test_a_stop_while_looking_deletes_nothing(tree: Path, tmp_path: Path) -> None:
    before = left(tree)
    with pytest.raises(OperationStopped):
        Bench(tmp_path).run("system_cleanup", {"paths": ["logs"], "older_than": "7d", "dry_run": False}, before=stop_at(3))
    assert left(tree) == before


def test_files_that_may_not_be_deleted() -> None:
    with open_folder_for_all() as folder:
        (folder / "logs").mkdir()
        age((folder / "logs" / "a.log"), 0) if (folder / "logs" / "a.log").exists() else (folder / "logs" / "a.log").touch()
        age(folder / "logs" / "a.log", 9)
        (folder / "logs").chmod(0o555)
        params = {"paths": ["logs"], "older_than": "7d", "dry_run": False}

        assert in_child(lambda: Bench(folder).fails("system_cleanup", params).code, nobody=True) == "SYSTEM_PERMISSION_DENIED"
        assert (folder / "logs" / "a.log").exists()
        (folder / "logs").chmod(0o777)
        assert in_child(lambda: Bench(folder).run("system_cleanup", params)["deleted"], nobody=True) == 1


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"paths": ["logs"]}, TaskErrorCode.VALIDATION_MISSING_REQUIRED),
        ({"paths": ["logs"], "older_than": "soon"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["logs"], "older_than": "-1d"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["logs"], "older_than": "1d", "max_delete": 0}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"paths": ["nowhere"], "older_than": "1d"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"paths": ["/etc"], "older_than": "1d"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ({"paths": ["logs/../.."], "older_than": "1d"}, TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
    ],
)
def test_params_that_do_not_fit(tree: Path, tmp_path: Path, params: dict[str, Any], code: TaskErrorCode) -> None:
    assert Bench(tmp_path).fails("system_cleanup", params).code is code


def test_a_link_out_of_the_roots_is_refused(tree: Path) -> None:
    assert Bench(tree).fails("system_cleanup", {"paths": ["to-outside"], "older_than": "1d"}).code is (
        TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
    )


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("7d", 604800), ("2w", 1209600)])
def test_ages(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
