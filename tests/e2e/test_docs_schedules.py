"""The examples of the page on schedules, as they stand there, with the commands that stand there; and the example file."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avtomatika.client import Client
from avtomatika.discovery import load_blueprints
from avtomatika.errors import ConfigurationError
from avtomatika.schedules.file import read_schedules
from avtomatika.settings import read_settings
from tests.support.polling import eventually
from tests.support.processes import REPOSITORY, Processes, Up, clean_environment

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("up")]

PAGE = (REPOSITORY / "docs" / "schedules.md").read_text(encoding="utf-8")


def _write_files(folder: Path) -> None:
    """Writes each block under the path that is named above it."""
    found = re.findall(r"^`([\w/]+\.(?:py|toml))`:\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in found] == ["blueprints/report.py", "schedules.toml"]
    for name, text in found:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_page_runs(processes: Processes, tmp_path: Path) -> None:
    _write_files(tmp_path)
    (tmp_path / "workers").mkdir()
    up = processes.make(
        Up,
        blueprints=tmp_path / "blueprints",
        workers=tmp_path / "workers",
        env={"SCHEDULES_CONFIG_PATH": str(tmp_path / "schedules.toml")},
    )
    env = {**clean_environment(), "AVTOMATIKA_URL": up.url, "CLIENT_TOKEN": up.token}

    def run(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "avtomatika", *words, "--json"],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), words
        return json.loads(done.stdout)

    ls, listed, show, pause, trigger, resume = (
        shlex.split(line) for line in re.findall(r"^\$ avtomatika (.*)$", PAGE, re.MULTILINE)
    )

    with Client(up.url, up.token) as client:
        eventually(lambda: len(client.schedules()) == 4)
        ended = eventually(lambda: next(client.list(tag="schedule:pulse", status="finished"), None))
        result = client.get(ended.id).result
    assert [item["name"] for item in run(*listed)] == ["acme.monthly", "nightly", "pulse", "quarterly"]
    assert all(job["tags"] == ["schedule:pulse"] for job in run(*ls)["jobs"])
    assert re.fullmatch(r"the tiny report of \d{4}-\d\d-\d\d, by pulse", result)
    shown = run(*show)
    assert len(shown["next_firings"]) == 3
    assert shown["next_firings"][0]["local"][10:19] in ("T02:30:00", "T03:00:00")
    assert run(*pause)["paused"] is True
    triggered = run(*trigger)["job_id"]
    made = run("job", "show", triggered)
    assert (made["initial_data"]["schedule"]["triggered_by"], made["tags"]) == ("default", ["schedule:nightly"])
    assert run(*resume)["paused"] is False


def test_the_error_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("schedules.toml").write_text('[broken]\nblueprint = "report"\ncron = "0 25 * * *"\n')

    with pytest.raises(ConfigurationError) as refused:
        read_schedules(read_settings(schedules_config_path=Path("schedules.toml")), load_blueprints(Path("blueprints")))

    assert f"```text\n{refused.value}\n```" in PAGE


def test_the_example_file_fits_the_example_blueprints() -> None:
    settings = read_settings(schedules_config_path=REPOSITORY / "examples" / "schedules.toml")

    found = read_schedules(settings, load_blueprints(REPOSITORY / "blueprints"))

    assert sorted(found) == ["good-morning", "heartbeat"]
    assert {schedule.blueprint for schedule in found.values()} == {"hello"}
