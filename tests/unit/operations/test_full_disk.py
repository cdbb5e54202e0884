"""What operations do on a disk that is full: a small one of the test's own, in a mount namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, clean_environment

SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.support.local_operations import Bench

small, source = Path(sys.argv[1]), Path(sys.argv[2])
bench = Bench(small, source)
codes = []
backup = {"paths": [str(source)], "destination": str(small / "backup"), "format": "zip"}
codes.append(bench.fails("system_backup", backup).code)
codes.append(bench.fails("system_backup", {**backup, "check_space": False}).code)
for name in ("x.csv", "x.json", "x.jsonl", "x.parquet"):
    params = {"source": {"path": str(source / "rows.jsonl")}, "target": {"path": str(small / name)}}
    codes.append(bench.fails("data_process", params).code)
print(json.dumps({"codes": codes, "left": os.listdir(small)}))
"""


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    small, source = tmp_path / "small", tmp_path / "source"
    small.mkdir()
    source.mkdir()
    (source / "rows.jsonl").write_text("".join(f'{{"a": "{os.urandom(500).hex()}"}}\n' for _ in range(3000)))
    unshare = [shutil.which("unshare") or "unshare", "-m", *(["-r"] if os.geteuid() else [])]
    mount = f'mount -t tmpfs -o size=1m none "{small}" && exec "$@"'
    command = [*unshare, "sh", "-c", mount, "sh"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        pytest.skip(f"no file system can be mounted here: {exc}")

    done = subprocess.run(
        [*command, sys.executable, "-c", SCRIPT, str(small), str(source)],
        env=clean_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"codes": ["SYSTEM_DISK_SPACE"] * 6, "left": []}
