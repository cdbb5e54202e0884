"""The page on testing and the example run as they stand there, by pytest and nothing else of ours."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, clean_environment

PAGE = (REPOSITORY / "docs" / "testing.md").read_text(encoding="utf-8")


def _pytest(folder: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(folder / "none.ini"), *args],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "none.ini").write_text("[pytest]\n")
    return tmp_path


def test_the_examples_of_the_page_run(folder: Path) -> None:
    files = dict(re.findall(r"^`((?:blueprints|tests)/\w+\.py)`[^\n]*\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    assert set(files) == {"blueprints/order.py", "tests/test_order.py"}
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    said = _pytest(folder, "-o", "asyncio_mode=auto", "-o", "pythonpath=blueprints", "tests")

    assert f"{len(re.findall('^(?:async )?def test_', files['tests/test_order.py'], re.MULTILINE)) + 1} passed" in said


def test_the_test_of_the_example_blueprint_runs_without_a_plugin(folder: Path) -> None:
    said = _pytest(folder, "-p", "no:asyncio", str(REPOSITORY / "examples" / "test_photo_report.py"))

    assert "5 passed" in said
