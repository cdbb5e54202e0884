"""The process of the README, as it stands there, runs by the commands that stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, Processes, Up, clean_environment

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("up")]

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def _write_files_of_the_readme(folder: Path) -> list[str]:
    """Writes each Python block under the path that is named above it."""
    found = re.findall(r"^`((?:blueprints|workers)/\w+\.py)`:\n\n```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for name, text in found:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [name for name, _ in found]


def _submit_command() -> list[str]:
    found = re.search(r"^avtomatika (job submit hello .*--watch)$", README, re.MULTILINE)
    assert found is not None, "the README submits no hello job"
    return shlex.split(found[1])


def test_the_hello_of_the_readme_runs(processes: Processes, tmp_path: Path) -> None:
    assert _write_files_of_the_readme(tmp_path) == ["blueprints/hello.py", "workers/hello.py"]
    up = processes.make(Up, blueprints=tmp_path / "blueprints", workers=tmp_path / "workers")

    done = subprocess.run(
        [sys.executable, "-m", "avtomatika", *_submit_command()],
        env={**clean_environment(), "AVTOMATIKA_URL": up.url, "CLIENT_TOKEN": up.token},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    shown, _, result = done.stdout.partition("{")
    assert shown.rstrip().endswith("finished finished")
    assert json.loads("{" + result) == {"greeting": "Hello, Ada!"}
