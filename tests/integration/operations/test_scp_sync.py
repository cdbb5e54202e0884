"""scp_sync against a real sshd: both trees are the same in the end, a second run does nothing, and nothing is lost by mistake."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.ssh import sync_lock
from tests.support.polling import eventually
from tests.support.sshd import Sshd, running
from tests.support.transfers import MIB, Bed, bed_on, content, make_tree, parts_in, stopped_at, tree_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture
def bed(server: Sshd, tmp_path: Path) -> Bed:
    return bed_on(server, tmp_path / "bed")


def sync(bed: Bed, direction: str = "up", **params: Any) -> dict[str, Any]:
    here, there = f"{bed.here}/tree", f"{bed.there}/tree"
    source, target = (here, there) if direction == "up" else (there, here)
    return bed.run("scp_sync", source_path=source, destination_path=target, direction=direction, **params)


def counts(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result[name] for name in ("created", "updated", "deleted", "skipped", "failed"))


SOURCE = {
    **{f"same/{number}": content(100, number) for number in range(12)},
    "new/deep/file": "new",
    "changed": "changed",
    "was a directory": "now a file",
    "was a file/inner": "now in a directory",
    "cache/mine": "excluded here",
}
TARGET = {
    **{f"same/{number}": content(100, number) for number in range(12)},
    "changed": "before",
    "was a directory/inner": "x",
    "was a file": "x",
    "old/deep/file": "old",
    "cache/theirs": "excluded there",
}


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("tools", [True, False])
def test_one_becomes_like_the_other(bed: Bed, direction: str, tools: bool) -> None:
    source, target = (bed.here, bed.there) if direction == "up" else (bed.there, bed.here)
    make_tree(source / "tree", SOURCE)
    make_tree(target / "tree", TARGET)
    params: dict[str, Any] = {"delete": True, "exclude": ["cache/"], "remote_tools": tools}

    plan = sync(bed, direction, **params, dry_run=True)
    rows = {row["path"]: (row["action"], row["reason"]) for row in plan["plan"]}
    assert rows == {
        "new": ("create", "not in the destination"),
        "new/deep": ("create", "not in the destination"),
        "new/deep/file": ("create", "not in the destination"),
        "changed": ("update", "size"),
        "was a directory": ("update", "a directory is in its place"),
        "was a directory/inner": ("delete", "in the way"),
        "was a file": ("update", "a file is in its place"),
        "was a file/inner": ("create", "not in the destination"),
        "old": ("delete", "not in the source"),
        "old/deep": ("delete", "not in the source"),
        "old/deep/file": ("delete", "not in the source"),
    }
    assert sorted(tree_of(target / "tree")) == sorted({*TARGET, "same", "was a directory", "old", "old/deep", "cache"})

    result = sync(bed, direction, **params)

    assert counts(result) == counts(plan) == (4, 3, 4, 12, 0)
    assert result["bytes"] == plan["bytes"] == len("new" + "changed" + "now a file" + "now in a directory")
    shutil.rmtree(source / "tree/cache")
    assert (target / "tree/cache/theirs").read_text() == "excluded there"
    shutil.rmtree(target / "tree/cache")
    wanted, found = tree_of(source / "tree"), tree_of(target / "tree")
    assert {path: about[:2] for path, about in found.items()} == {path: about[:2] for path, about in wanted.items()}
    assert counts(sync(bed, direction, **params)) == (0, 0, 0, 16, 0)
    assert parts_in(target) == []


def test_without_preserve_a_second_run_does_nothing_either(bed: Bed) -> None:
    make_tree(bed.here / "tree", {f"{number}": "x" * number for number in range(20)})
    for tools in (True, False):
        assert counts(sync(bed, preserve=False, remote_tools=tools)) == (20, 0, 0, 0, 0)
        assert counts(sync(bed, preserve=False, remote_tools=tools)) == (0, 0, 0, 20, 0)
        shutil.rmtree(bed.there / "tree")


@pytest.mark.parametrize("tools", [True, False])
def test_a_checksum_finds_what_size_and_time_hide(bed: Bed, tools: bool) -> None:
    names = ["a", "with space", "back\\slash", "line\nbreak", "-n", "größe"]
    make_tree(bed.here / "tree", dict.fromkeys(names, "one"))
    make_tree(bed.there / "tree", {name: "two" if name in names[:4] else "one" for name in names})
    assert counts(sync(bed, remote_tools=tools)) == (0, 0, 0, 6, 0)
    assert counts(sync(bed, compare="checksum", remote_tools=tools)) == (0, 4, 0, 2, 0)
    assert (bed.there / "tree/line\nbreak").read_text() == "one"


@pytest.mark.parametrize(("most", "refused"), [(2, True), (3, False), ("20%", True), ("30%", False), (0, True)])
def test_more_deletions_than_allowed_are_none(bed: Bed, most: int | str, refused: bool) -> None:
    make_tree(bed.here / "tree", {f"{number}": "x" for number in range(7)} | {"new": "new"})
    make_tree(bed.there / "tree", {f"{number}": "x" for number in range(10)})
    if refused:
        with pytest.raises(OperationError, match="max_delete") as caught:
            sync(bed, delete=True, max_delete=most)
        assert caught.value.kind == ErrorCode.PERMANENT
        assert caught.value.details["would_delete"] == 3
        assert len(tree_of(bed.there / "tree")) == 10
    else:
        assert counts(sync(bed, delete=True, max_delete=most)) == (1, 0, 3, 7, 0)


def test_an_empty_source_empties_nothing(bed: Bed) -> None:
    (bed.here / "tree").mkdir()
    make_tree(bed.there / "tree", {"precious": "x"})
    with pytest.raises(OperationError, match="is empty"):
        sync(bed, delete=True)
    shutil.rmtree(bed.here / "tree")
    with pytest.raises(OperationError) as caught:
        sync(bed, delete=True)
    assert caught.value.code is TaskErrorCode.SCP_FILE_NOT_FOUND
    assert (bed.there / "tree/precious").exists()


def test_a_link_out_of_the_source_does_not_hide_a_file(bed: Bed) -> None:
    """What the source has as a link that is not copied stays in the destination, too."""
    make_tree(bed.here / "tree", {"a": "a", "link": "->/etc/passwd"})
    make_tree(bed.there / "tree", {"link": "a file", "gone": "x"})
    assert counts(sync(bed, delete=True)) == (1, 0, 1, 0, 0)
    assert sorted(tree_of(bed.there / "tree")) == ["a", "link"]


def test_links_of_the_destination_are_not_followed(bed: Bed) -> None:
    make_tree(bed.here / "tree", {"sub/a": "a"})
    make_tree(bed.folder / "outside", {"a": "keep", "b": "keep"})
    make_tree(bed.there / "tree", {"sub": f"->{bed.folder}/outside"})
    assert counts(sync(bed, delete=True))[4] == 0
    assert not (bed.there / "tree/sub").is_symlink()
    assert (bed.there / "tree/sub/a").read_text() == "a"
    assert sorted(tree_of(bed.folder / "outside")) == ["a", "b"]


def test_two_at_a_time_do_not_meet(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_lock, "COUNT_SECONDS", 0.2)
    make_tree(bed.here / "tree", {"big": content(4 * MIB), "a": "a"})
    done: list[Any] = []
    first = threading.Thread(
        target=lambda: done.append(sync(bed, bandwidth_limit="1500KiB", op=bed.op("scp_sync", job_id="one")))
    )
    first.start()
    eventually(lambda: parts_in(bed.there / "tree") and any("big" in name for name in parts_in(bed.there / "tree")))
    with pytest.raises(OperationError) as caught:
        sync(bed, op=bed.op("scp_sync", job_id="two"))
    assert (caught.value.code, caught.value.kind) == (TaskErrorCode.QUEUE_TASK_ALREADY_RUNNING, ErrorCode.TRANSIENT)
    first.join()
    assert counts(done[0]) == (2, 0, 0, 0, 0)
    assert counts(sync(bed, op=bed.op("scp_sync", job_id="two"))) == (0, 0, 0, 2, 0)


def test_a_lock_that_nobody_holds_any_more_is_taken_over(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_lock, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(sync_lock, "COUNT_SECONDS", 0.3)
    make_tree(bed.here / "tree", {"a": "a"})
    make_tree(bed.there / "tree", {sync_lock.NAME[0]: '{"key": "of another task", "number": 7}'})
    assert counts(sync(bed)) == (1, 0, 0, 0, 0)
    assert parts_in(bed.there) == []


@pytest.mark.parametrize("direction", ["up", "down"])
def test_after_a_pause_it_goes_on(bed: Bed, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.operations.ssh.meter._EVERY", 0.0)
    source, target = (bed.here, bed.there) if direction == "up" else (bed.there, bed.here)
    make_tree(source / "tree", {f"{number}": content(2 * MIB, number) for number in range(4)})
    with pytest.raises(OperationStopped):
        sync(bed, direction, op=stopped_at(bed.op("scp_sync"), StopReason.PAUSE, 0.6), channels=1)
    result = sync(bed, direction, op=bed.op("scp_sync"))
    assert result["created"] + result["skipped"] == 4
    assert result["bytes"] < 5 * MIB
    assert tree_of(target / "tree") == tree_of(source / "tree")
    assert parts_in(target) == []
