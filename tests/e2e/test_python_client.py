"""The page on the Python client, example by example, against `avtomatika up`; and the command line on the same machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avtomatika.client import AsyncClient, Client
from tests.support.processes import REPOSITORY, Processes, Up, clean_environment

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("up")]

PAGE = (REPOSITORY / "docs" / "client.md").read_text(encoding="utf-8")
_FILE = re.compile(r"^`((?:blueprints|workers)/\w+\.py)`:\n\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def up(processes: Processes, tmp_path: Path) -> Up:
    for name, text in _FILE.findall(PAGE):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return processes.make(Up, blueprints=tmp_path / "blueprints", workers=tmp_path / "workers")


def _run(up: Up, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**clean_environment(), "AVTOMATIKA_URL": up.url, "CLIENT_TOKEN": up.token}
    return subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True, timeout=180, check=False)


def test_the_examples_run(up: Up, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", _FILE.sub("", PAGE), re.DOTALL | re.MULTILINE)
    script = tmp_path / "examples.py"
    script.write_text("\n".join(blocks), encoding="utf-8")

    done = _run(up, str(script))

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == ["{'lines': ['SPRING']}", "quarantined PERMANENT_ERROR: a poster needs a title", "False", "True"]
    assert lines[4] == "job_created draw None"
    watched = lines[4 : lines.index("[{'lines': ['AUTUMN']}, {'lines': ['WINTER']}]")]
    assert "50% the letters" in watched
    rest = lines[4 + len(watched) + 1 :]
    assert rest.pop(3) in ("paused", "pause_requested")
    assert rest == [
        "approval_received",
        "printed",
        "cancellation_request_accepted",
        "resumed",
        "poster finished",
        "PERMANENT_ERROR: a poster needs a title retry_accepted",
    ]


async def test_a_watch_outlasts_a_restart_of_everything(up: Up) -> None:
    async with AsyncClient(up.url, up.token) as client:
        job_id = await client.submit("poster", {"title": "night", "asks": True})
        seen: list[str] = []
        async for said in client.watch(job_id):
            seen += [said.id] if hasattr(said, "id") else []
            if getattr(said, "event_type", "") == "approval_requested":
                up.terminate()
                up.start()
                up.wait_ready()
                assert await client.decide(job_id, "rejected") == "approval_received"
        assert seen == [event.id for event in await client.history(job_id)]
        assert (await client.get(job_id)).current_state == "dropped"


def test_the_command_line(up: Up) -> None:
    watched = _run(up, "-m", "avtomatika", "job", "submit", "poster", '{"title": "moon"}', "--watch", "--json")
    assert watched.returncode == 0, watched.stderr
    *events, ended = map(json.loads, watched.stdout.splitlines())
    assert (ended["status"], ended["result"]) == ("finished", {"lines": ["MOON"]})
    with Client(up.url, up.token) as client:
        history = [event.id for event in client.history(ended["id"])]
    assert [event["id"] for event in events if event["event_type"] != "progress"] == history
    assert any(event["event_type"] == "progress" and event["message"] == "the letters" for event in events)

    failed = _run(up, "-m", "avtomatika", "job", "submit", "poster", '{"title": ""}', "--watch")
    assert (failed.returncode, failed.stderr) == (1, "quarantined: PERMANENT_ERROR: a poster needs a title\n")
    listed = _run(up, "-m", "avtomatika", "quarantine", "ls")
    assert "a poster needs a title" in listed.stdout
    retried = _run(up, "-m", "avtomatika", "quarantine", "retry", "--all")
    assert (retried.returncode, retried.stdout.split()[1:]) == (0, ["retry_accepted"])
