"""The queue through real processes: docs/queue.md as it stands there, the command line, and a task on many hosts."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.operations import Site, make_site
from tests.support.polling import eventually
from tests.support.processes import REPOSITORY, Facade, Processes, clean_environment, free_port
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

PAGE = (REPOSITORY / "docs" / "queue.md").read_text(encoding="utf-8")
FINAL = ("completed", "failed", "cancelled", "timeout")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@dataclass
class Served:
    site: Site
    facade: Facade
    folder: Path

    def ask(self, command: str, body: dict[str, Any], expect: int = 200) -> Any:
        url, headers = f"{self.facade.url}/api/v1/queue/{command}", {"X-Avtomatika-Token": self.facade.token}
        response = requests.post(url, json=body, headers=headers, timeout=30)
        assert response.status_code == expect, response.text
        return response.json()

    def ended(self, task_id: str) -> Any:
        def look() -> Any:
            found = self.ask("queue_task_status", {"task_id": task_id})
            return found if found["task"]["status"] in FINAL else None

        return eventually(look, deadline=90)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {**clean_environment(), "AVTOMATIKA_URL": self.facade.url, "CLIENT_TOKEN": self.facade.token}
        env["OPERATIONS_CONFIG_PATH"] = str(self.site.config)
        command = [sys.executable, "-m", "avtomatika", "queue", *words]
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def served(redis_broker: Broker, processes: Processes, tmp_path: Path) -> Served:
    (config,) = _blocks("toml")
    site = make_site(redis_broker, processes, tmp_path, config)
    facade = processes.make(Facade, env=site.env)
    site.orchestrator()
    site.worker("network")
    return Served(site, facade, tmp_path)


@pytest.fixture
def open_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def _same(said: Any, found: Any) -> bool:
    if isinstance(said, dict) and isinstance(found, dict):
        return said.keys() == found.keys() and all(_same(said[name], found[name]) for name in said)
    return said == "…" or bool(said == found)


def test_the_page(served: Served, open_port: int) -> None:
    for block in _blocks("http"):
        asked, _, said = block.partition("\n\n")
        first, _, body = asked.partition("\n")
        status, _, answer = said.partition("\n")
        found = served.ask(first.rpartition("/")[2], json.loads(body), int(status))
        assert _same(json.loads(answer), found), found

    (code,) = _blocks("python")
    script = served.folder / "example.py"
    script.write_text(f"{code}\n\nprint(asyncio.run(main({open_port})))\n")
    done = subprocess.run(
        [sys.executable, str(script)], env={**clean_environment(), **served.site.env}, cwd=served.folder,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first_line, *_, last = done.stdout.splitlines()
    assert first_line.startswith("completed {")
    assert "'reachable': True" in first_line
    assert last == "completed"

    task = next(task for task in served.ask("queue_status", {"tag": "checks"})["queue_status"]["tasks"] if task["result"])
    assert (task["priority"], task["category"]) == (5.0, "network")


def test_the_command_line(served: Served, open_port: int) -> None:
    good = served.cli("push", "network_test", '{"host": "web-1"}', "-p", f"port={open_port}", "--tag", "mine", "--watch")
    assert good.returncode == 0, good.stderr
    assert '"reachable": true' in good.stdout

    bad = served.cli("push", "network_test", "-p", "host=web-1", "-p", f"port={free_port()}", "--watch")
    assert bad.returncode == 1
    assert "NETWORK_CONNECTION_FAILED" in bad.stderr
    assert "- Check that something listens on that port" in bad.stderr
    listed = served.cli("status", "--tag", "mine")
    assert listed.returncode == 0
    (row,) = [line for line in listed.stdout.splitlines() if "network_test" in line]
    assert "completed" in row
    here = json.loads(served.cli("operations", "--json").stdout)
    (operation,) = [row for row in here["operations"] if row["type"] == "network_test"]
    assert (operation["allowed"], operation["lacks"]) == (True, None)


def test_many_hosts_and_again_those_that_failed(served: Served) -> None:
    """The hosts are one machine; while nobody listens all fail, and each batch stops the task."""
    port = free_port()
    params = {"group": "web", "port": port, "serial": 1, "any_errors_fatal": True}
    task_id = served.ask("queue_push", {"task_type": "network_test", "params": params})["task_id"]

    found = served.ended(task_id)
    assert (found["task"]["status"], found["error_info"]["code"]) == ("failed", "NETWORK_CONNECTION_FAILED")
    stopped = "1 of 1 hosts of a batch failed, and any error is fatal"
    counts = {"total": 2, "succeeded": 0, "failed": 1, "skipped": 1, "stopped": stopped}
    assert found["task"]["result"]["summary"] == counts

    with closing(socket.create_server(("127.0.0.1", port))):
        served.ask("queue_manage", {"action": "retry", "task_id": task_id})
        found = served.ended(task_id)
    assert found["task"]["status"] == "completed", found
    assert {host: row["status"] for host, row in found["task"]["result"]["hosts"].items()} == {
        "web-1": "completed",
        "web-2": "completed",
    }
    assert any("a batch of 1 hosts begins" in line for line in found["logs"])
    assert served.ask("queue_manage", {"action": "retry", "task_id": task_id}, 409)["details"]["current_status"] == "completed"
