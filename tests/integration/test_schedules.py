"""An orchestrator whose schedules do not fit does not start, and says which line to mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.engine import APPS
from tests.support.processes import clean_environment


def test_a_wrong_file_refuses_the_start(tmp_path: Path) -> None:
    path = tmp_path / "schedules.toml"
    path.write_text('[a]\nblueprint = "echo"\nevery = "often"\n')

    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "avtomatika", "worker", "-Q", "orchestrator"],
        env={**clean_environment(), "BLUEPRINTS_DIR": str(APPS / "api" / "blueprints"), "SCHEDULES_CONFIG_PATH": str(path)},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode != 0
    assert f"the worker cannot start: {path}:3: every 'often' is no interval; write seconds" in done.stderr
