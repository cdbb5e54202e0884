"""docs/api.md: every call is on it, and its examples are answered as they say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import requests

from tests.support.processes import REPOSITORY, Facade, Processes
from tests.support.servers import RedisServer

PAGE = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")


def _examples() -> Iterator[tuple[str, str, dict[str, str], str, int, str]]:
    """(method, path, headers, body, status, answer) of each block."""
    for block in re.findall(r"^```http\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        asked, said = block.split("\n\n", 1)
        first, *rest = asked.splitlines()
        headers = dict(line.split(": ", 1) for line in rest if not line.startswith("{"))
        status, _, answer = said.partition("\n")
        method, path = first.split()
        yield method, path, headers, "\n".join(line for line in rest if line.startswith("{")), int(status), answer


def _same(said: Any, found: Any) -> bool:
    """Whether an answer is what the page says; `…` stands for anything."""
    if said == "…":
        return True
    if isinstance(said, dict) and isinstance(found, dict):
        return said.keys() == found.keys() and all(_same(said[name], found[name]) for name in said)
    if isinstance(said, list) and isinstance(found, list):
        return len(said) == len(found) and all(map(_same, said, found))
    return bool(said == found)


def test_every_example_is_answered_as_it_says(processes: Processes, redis_server: RedisServer, namespace: str) -> None:
    env = {"REDIS_URL": redis_server.url, "NAMESPACE": namespace, "BLUEPRINTS_DIR": str(REPOSITORY / "blueprints")}
    env["WORKER_POLL_TIMEOUT_SECONDS"] = "0.2"
    facade = processes.make(Facade, env=env)
    job_id = ""
    count = 0
    for method, path, headers, body, status, answer in _examples():
        headers = {"X-Avtomatika-Token": facade.token, "X-Worker-Token": f"worker-{facade.token}", **headers}
        url = facade.url + path.replace("{id}", job_id)
        response = requests.request(method, url, headers=headers, data=body.encode() or None, timeout=30)
        assert response.status_code == status, (method, path, response.text)
        if answer.strip():
            assert _same(json.loads(answer.replace("{id}", job_id)), response.json()), (method, path, response.text)
        job_id = job_id or response.json()["job_id"]
        count += 1
    assert count > 15


def test_every_call_is_on_the_page(processes: Processes, redis_server: RedisServer, namespace: str) -> None:
    facade = processes.make(Facade, env={"REDIS_URL": redis_server.url, "NAMESPACE": namespace, "DEBUG": "true"})
    document = requests.get(f"{facade.url}/_public/openapi.json", timeout=30).json()
    calls = {f"{method.upper()} {path}" for path, operations in document["paths"].items() for method in operations}
    assert {call for call in calls if f"`{call}`" not in PAGE} == set()
