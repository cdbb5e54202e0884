"""One file, up and down: what arrives, under which name, and what of it is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, PolicyError, StopReason
from tests.support.sshd import Sshd, running
from tests.support.transfers import MIB, Bed, bed_on, content, parts_in, policy_for, stopped_at


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


@pytest.mark.parametrize("size", [0, 1, 32768, 261120, 261121, 3 * MIB + 7])
def test_a_file_goes_up_and_comes_down(bed: Bed, size: int) -> None:
    data = content(size)
    source = bed.here / "data.bin"
    source.write_bytes(data)
    source.chmod(0o750)
    os.utime(source, (1_600_000_000, 1_600_000_001))

    up = bed.up("data.bin", "new/deep/data.bin", checksum=True)
    down = bed.down("new/deep/data.bin", "back/again.bin", checksum=True)

    for result, path in ((up, bed.there / "new/deep/data.bin"), (down, bed.here / "back/again.bin")):
        assert path.read_bytes() == data
        assert (path.stat().st_mode & 0o777, int(path.stat().st_mtime)) == (0o750, 1_600_000_001)
        assert (result["files_transferred"], result["bytes_transferred"]) == (1, size)
        assert result["sha256"] == hashlib.sha256(data).hexdigest()
        assert result["fingerprint"].startswith("SHA256:")
    assert parts_in(bed.folder) == []


def test_the_bits_that_give_rights_away_are_not_kept(bed: Bed) -> None:
    (bed.there / "tool").write_text("x")
    (bed.there / "tool").chmod(0o6777)
    bed.down("tool")
    assert (bed.here / "tool").stat().st_mode & 0o7777 == 0o775
    bed.down("tool", "plain", preserve=False)
    assert (bed.here / "plain").stat().st_mode & 0o7777 == 0o644
    bed.down("tool", "asked", mode="0600")
    assert (bed.here / "asked").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(
    "name", ["with space", "-rf", 'it\'s "quoted" $(x)', "új fájl", "line\nbreak", os.fsdecode(b"latin-\xe9")]
)
def test_any_name_is_only_a_name(bed: Bed, name: str) -> None:
    (bed.here / name).write_text("content")
    params = {"source_path": f"{bed.here}/{name}", "destination_path": f"{bed.there}/"}
    if "\udce9" in name:
        # JSON has no such name; it comes with the directory that it is in.
        (bed.here / "dir").mkdir()
        os.rename(bed.here / name, bed.here / "dir" / name)
        params |= {"source_path": f"{bed.here}/dir", "recursive": True}
    bed.run("scp_upload", **params)
    found = [path for path in bed.there.rglob("*") if path.is_file()]
    assert [(path.name, path.read_text()) for path in found] == [(name, "content")]


def test_a_slash_at_the_end_means_into_it(bed: Bed) -> None:
    (bed.here / "a").write_text("a")
    (bed.there / "box").mkdir()

    bed.up("a", "box/")
    assert (bed.there / "box/a").read_text() == "a"
    with pytest.raises(OperationError, match="is a directory: write a /"):
        bed.up("a", "box")


def test_the_other_names_of_the_paths(bed: Bed) -> None:
    (bed.here / "a").write_text("a")
    up = bed.run("scp_upload", local_path=f"{bed.here}/a", remote_path=f"{bed.there}/b")
    assert (up["source_path"], up["destination_path"]) == (f"{bed.here}/a", f"{bed.there}/b")
    bed.run("scp_download", remote_path=f"{bed.there}/b", local_path=f"{bed.here}/c")
    assert (bed.here / "c").read_text() == "a"
    with pytest.raises(OperationError) as caught:
        bed.run("scp_upload", local_path=f"{bed.here}/a")
    assert caught.value.code is TaskErrorCode.VALIDATION_MISSING_REQUIRED


@pytest.mark.parametrize(
    ("rule", "newer", "copied"),
    [("always", False, True), ("never", True, False), ("newer", True, True), ("newer", False, False), ("different", False, True)],
)
def test_what_is_there_already(bed: Bed, rule: str, newer: bool, copied: bool) -> None:
    for path, text, mtime in ((bed.here / "a", "new", 2000), (bed.there / "a", "old", 1000 if newer else 3000)):
        path.write_text(text)
        os.utime(path, (mtime, mtime))

    result = bed.up("a", overwrite=rule)

    assert (bed.there / "a").read_text() == ("new" if copied else "old")
    assert (result["files_transferred"], result["files_skipped"]) == (int(copied), int(not copied))


def test_fail_leaves_it_alone(bed: Bed) -> None:
    (bed.here / "a").write_text("new")
    (bed.there / "a").write_text("old")
    with pytest.raises(OperationError, match="overwrite is 'fail'"):
        bed.up("a", overwrite="fail")
    assert (bed.there / "a").read_text() == "old"


def test_fail_does_not_meet_what_the_attempt_before_has_copied(bed: Bed) -> None:
    (bed.here / "a").write_text("new")
    bed.up("a", overwrite="fail")
    op = bed.op("scp_upload")
    op.attempt = 2
    assert bed.up("a", op=op, overwrite="fail")["files_transferred"] == 0
    (bed.here / "a").write_text("newer")
    with pytest.raises(OperationError, match="overwrite is 'fail'"):
        bed.up("a", op=op, overwrite="fail")


# Going on


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("tools", [True, False])
def test_after_a_pause_it_goes_on_where_it_stopped(bed: Bed, way: str, tools: bool) -> None:
    data = content(6 * MIB)
    source, target = (bed.here, bed.there) if way == "up" else (bed.there, bed.here)
    (source / "big").write_bytes(data)
    params = {"remote_tools": tools, "checksum": True}
    op = stopped_at(bed.op("scp"), StopReason.PAUSE, 0.3)

    with pytest.raises(OperationStopped):
        getattr(bed, way)("big", op=op, **params)
    (part,) = parts_in(target)
    stopped = (target / part).stat().st_size
    assert 0.3 * len(data) <= stopped < len(data)
    assert not (target / "big").exists()

    result = getattr(bed, way)("big", op=bed.op("scp"), **params)

    assert (result["resumed_at"], result["bytes_transferred"]) == (stopped, len(data) - stopped)
    assert (target / "big").read_bytes() == data
    assert parts_in(target) == []


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_size_alone_proves_nothing(bed: Bed, way: str) -> None:
    data = content(4 * MIB)
    source, target = (bed.here, bed.there) if way == "up" else (bed.there, bed.here)
    (source / "big").write_bytes(data)
    op = bed.op("scp_upload")
    (target / f".big.part-{op.key}").write_bytes(content(2 * MIB, seed=1))

    result = getattr(bed, way)("big", op=op)

    assert result["resumed_at"] == 0
    assert (target / "big").read_bytes() == data


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_cancelled_one_leaves_nothing(bed: Bed, way: str) -> None:
    source, target = (bed.here, bed.there) if way == "up" else (bed.there, bed.here)
    (source / "big").write_bytes(content(6 * MIB))
    op = stopped_at(bed.op("scp_upload"), StopReason.CANCEL, 0.3)
    with pytest.raises(OperationStopped):
        getattr(bed, way)("big", op=op)
    assert list(target.iterdir()) == []


# What the policy says


def test_nothing_outside_the_roots(bed: Bed) -> None:
    (bed.here / "a").write_text("a")
    for params in (
        {"source_path": "/etc/passwd", "destination_path": f"{bed.there}/a"},
        {"source_path": f"{bed.here}/../there/x", "destination_path": f"{bed.there}/a"},
        {"source_path": f"{bed.here}/a", "destination_path": "/etc/cron.d/a"},
        {"source_path": f"{bed.here}/a", "destination_path": f"{bed.there}/../a"},
    ):
        with pytest.raises(PolicyError):
            bed.run("scp_upload", **params)
    with pytest.raises(PolicyError):
        bed.run("scp_download", source_path=f"{bed.there}/a", destination_path="/etc/cron.d/a")


def test_a_link_leads_nowhere_outside_the_roots(bed: Bed) -> None:
    (bed.folder / "secret").mkdir()
    (bed.folder / "secret/key").write_text("secret")
    (bed.here / "a").write_text("a")
    for side in (bed.here, bed.there):
        (side / "out").symlink_to(bed.folder / "secret")
    for way, params in (("up", {}), ("down", {})):
        with pytest.raises(PolicyError):
            getattr(bed, way)("out/key", "stolen", **params)
        with pytest.raises(PolicyError):
            getattr(bed, way)("a", "out/a", **params)
    assert sorted(path.name for path in (bed.folder / "secret").iterdir()) == ["key"]


def test_the_shell_can_be_forbidden(server: Sshd, tmp_path: Path) -> None:
    folder = tmp_path / "bed"
    bed = bed_on(server, folder, policy_for(folder, "options = {remote_tools = false}"))
    for number in range(20):
        (bed.here / f"{number}").write_text(str(number))
    before = server.log().count("Starting session: command")
    bed.run("scp_upload", source_path=str(bed.here), destination_path=f"{bed.there}/tree", recursive=True)
    assert len(list((bed.there / "tree").iterdir())) == 20
    assert server.log().count("Starting session: command") == before
