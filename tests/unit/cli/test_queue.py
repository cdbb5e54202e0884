"""`avtomatika queue`, against a real facade over the engine in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fetching import QueueFetcher
from tests.support.queue import QueueMachine, failing
from tests.unit.cli.conftest import TOKEN, Here, Run, serving


@dataclass
class Site:
    run: Run
    here: Here
    machine: QueueMachine

    def __call__(self, *words: str) -> Any:
        return self.run("queue", *words, env={"AVTOMATIKA_URL": self.here.url, "CLIENT_TOKEN": TOKEN})

    def drive(self) -> None:
        self.here.do(self.machine.drive())

    def push(self, *words: str) -> str:
        done = self("push", "network_test", "-p", "host=h0", "-p", "port=1", *words)
        assert done.exit_code == 0, done.output
        return str(done.stdout.strip())


@pytest.fixture
def site(run: Run, tmp_path: Path) -> Iterator[Site]:
    machine = QueueMachine(tmp_path, lambda **params: machine.answer(**params), client_token=TOKEN)

    async def make() -> Any:
        await machine.start()
        service = machine.service
        service.make_hub = lambda *args: type(service).make_hub(service, *args, fetcher=QueueFetcher([]))  # type: ignore[method-assign]
        return service

    with serving(make) as here:
        yield Site(run, here, machine)


def test_a_task_is_pushed_and_shown(site: Site) -> None:
    task_id = site.push("--priority", "4", "--tag", "mine", "--category", "checks", "--timeout", "9", "--max-retries", "2")
    shown = site("task-status", task_id)
    assert shown.exit_code == 0
    assert "place 1" in shown.stdout
    site.drive()

    shown = site("task-status", task_id, "--logs")
    assert shown.exit_code == 0
    for text in ("network_test host=h0 port=1", "completed", "checks", "mine", '"reachable": true', "] queued"):
        assert text in shown.stdout
    found = json.loads(site("task-status", task_id, "--json").stdout)["task"]
    assert (found["priority"], found["timeout_seconds"], found["max_retries"]) == (4.0, 9.0, 2)


def test_params_from_a_file_and_a_note(site: Site, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"host": "h1", "port": 1}')
    site.here.do(site.machine.end_worker("worker"))
    pushed = site("push", "network_test", "@params.json", "-p", "timeout=2.5", "--json")
    assert "note: no live worker offers network_test" in pushed.stderr
    task_id = json.loads(pushed.stdout)["task_id"]
    assert json.loads(site("task-status", task_id, "--json").stdout)["task"]["params"] == {
        "host": "h1",
        "port": 1,
        "timeout": 2.5,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["network_test", "[]"], "PARAMS must be a JSON object"),
        (["network_test", "-p", "host"], "write it as key=value"),
        (["network_scan", "-p", "ports=[1]"], "targets: Field required"),
        (["network_tset"], "did you mean 'network_test'?"),
        (["network_test", "-p", "host=forbidden", "-p", "port=1"], "the policy does not allow the host 'forbidden'"),
    ],
)
def test_what_does_not_fit_is_exit_code_2(site: Site, words: list[str], said: str) -> None:
    refused = site("push", *words)
    assert refused.exit_code == 2
    assert said in refused.stderr


def test_a_failure_is_watched_and_told(site: Site) -> None:
    site.machine.answer = lambda **_: failing("NETWORK_DNS_ERROR")
    task_id = site.push()
    site.drive()

    watched = site("task-status", task_id, "--watch")
    assert watched.exit_code == 1
    assert "failed: cannot connect (NETWORK_DNS_ERROR)" in watched.stderr
    assert "  - Check the spelling" in watched.stderr
    shown = site("task-status", task_id)
    assert shown.exit_code == 1
    assert "The name cannot be resolved" in shown.stdout
    lines = [json.loads(line) for line in site("task-status", task_id, "--watch", "--json").stdout.splitlines()]
    assert lines[0]["event_type"] == "job_created"
    assert lines[-1]["task"]["status"] == "failed"


def test_the_queue(site: Site) -> None:
    assert site("status").exit_code == 0
    done = site.push("--tag", "a")
    site.drive()
    site.machine.now += 1
    waiting = site.push("--tag", "a")

    listed = site("status")
    assert "0 running, 1 waiting, 2 in all; 1 completed, 0 failed" in listed.stdout
    assert done in listed.stdout
    assert waiting in listed.stdout
    assert [line.split()[0] for line in site("status", "--status", "completed").stdout.splitlines()[2:]] == [done]
    found = json.loads(site("status", "--tag", "a", "--limit", "1", "--json").stdout)["queue_status"]
    assert [task["id"] for task in found["tasks"]] == [waiting]
    assert found["summary"]["total_tasks"] == 2


def test_orders_to_several(site: Site) -> None:
    first, second = site.push(), site.push()

    paused = site("manage", "pause", first, second, "nothing")
    assert paused.exit_code == 1
    assert len(paused.stdout.splitlines()) == 2
    assert "unknown task 'nothing'" in paused.stderr
    assert site("manage", "resume", first).exit_code == 0
    refused = json.loads(site("manage", "retry", first, "--json").stdout)
    assert "cannot be tried again" in refused[0]["error"]
    assert site("cancel", first, second).exit_code == 0
    again = site("cancel", first)
    assert again.exit_code == 1
    assert "already cancelled" in again.stderr
    assert json.loads(site("cancel", first, "--force", "--json").stdout)[0]["cancelled"] is False
    assert site("manage", "remove", first, second).exit_code == 0


def test_many_hosts_are_a_table(site: Site) -> None:
    site.machine.answer = lambda **params: failing() if params["host"] == "h1" else {"reachable": True}
    task_id = site("push", "network_test", '{"hosts": ["h0", "h1"], "port": 1}').stdout.strip()
    site.drive()

    shown = site("task-status", task_id)
    assert shown.exit_code == 1
    assert "1 of 2 hosts failed" in shown.stdout
    rows = {line.split()[0]: line.split()[1] for line in shown.stdout.splitlines() if line.startswith(("h0", "h1"))}
    assert rows == {"h0": "completed", "h1": "failed"}


def test_operations(site: Site, tmp_path: Path) -> None:
    listed = site.run("queue", "operations", env={"OPERATIONS_CONFIG_PATH": str(tmp_path / "operations.toml")})
    assert listed.exit_code == 0
    (row,) = [line for line in listed.stdout.splitlines() if line.startswith("network_test")]
    assert row.split()[:5] == ["network_test", "network", "yes", "yes", "no"]
    one = site("operations", "network_scan")
    assert [line.split()[:2] for line in one.stdout.splitlines() if line.startswith(("targets ", "rate "))] == [
        ["targets", "yes"],
        ["rate", "no"],
    ]
    assert "properties" in json.loads(site("operations", "network_test", "--json").stdout)["params"]
    assert site("operations", "moon").exit_code == 1
