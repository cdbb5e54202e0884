"""The example of docs/http-workers.md, as it stands there, runs by the command that stands there, and as a script."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.orchestrator import TOKEN, WorkerAPI
from tests.support.processes import REPOSITORY, ManagedProcess, Processes

PAGE = (REPOSITORY / "docs" / "http-workers.md").read_text(encoding="utf-8")


@pytest.fixture
async def api() -> AsyncIterator[WorkerAPI]:
    api = WorkerAPI()
    await api.start()
    yield api
    await api.stop()


def _example(folder: Path) -> Path:
    found = re.search(r"^`(workers/\w+\.py)`:\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    path = folder / found[1]
    path.parent.mkdir()
    path.write_text(found[2], encoding="utf-8")
    return path


def _commands() -> tuple[dict[str, str], list[str]]:
    """The first console block: its exports, and what it starts."""
    found = re.search(r"```console\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    lines = [shlex.split(line.removeprefix("$ ")) for line in found[1].splitlines()]
    exports = dict(words[1].split("=", 1) for words in lines if words[0] == "export")
    (command,) = (words for words in lines if words[0] != "export")
    return exports, command


@pytest.mark.parametrize("how", ["command", "script"])
async def test_the_example_runs(api: WorkerAPI, processes: Processes, tmp_path: Path, how: str) -> None:
    path = _example(tmp_path)
    exports, command = _commands()
    assert command == ["avtomatika", "worker", "run"]
    assert sorted(exports) == ["ORCHESTRATOR_URL", "WORKER_TOKEN"]
    argv = [sys.executable, *(["-m", *command] if how == "command" else [str(path)])]
    env = {"ORCHESTRATOR_URL": api.url, "WORKER_TOKEN": TOKEN, "WORKER_SPOOL_DIR": str(tmp_path / "spool")}
    processes.start(ManagedProcess("worker", argv, directory=tmp_path, env=env))

    result = await api.result(await api.give("make_thumbnail", {"path": "a", "width": 80}), deadline=60)

    assert result == {"status": "success", "data": {"thumbnail": "a.80.png"}}
    assert api.registrations[0]["worker_type"] == "thumbnails"
