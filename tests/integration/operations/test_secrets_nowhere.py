"""Secrets of credentials are used, and found nowhere: in no store, queue, history, log, answer or list of processes."""

from __future__ import annotations

import base64
import codecs
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from avtomatika.client import Client
from avtomatika.errors import ApiError, BadRequestError
from avtomatika.operations.secrets import forms_of
from tests.support.operations import Site, make_site
from tests.support.polling import eventually
from tests.support.processes import CeleryWorkerProcess, Facade, Processes
from tests.support.servers import Broker
from tests.support.ssh_server import Door, serving

#: What forms of a secret are made for: quotes, blanks, what URLs and JSON escape, letters beyond ASCII.
PASSWORD = "canary-1 pä$s/w0rd+'%&\\="
WRONG = 'canary-2 wr0ng"pa$$&'
PLAIN = "canary-3-in-plain"
TOKEN = "canary-4-token/of+a=provider"


class Monitored:
    """All that is sent to a Redis: every command with its arguments, those of scripts as well."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=None)
        self.commands: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        connection = self._client.connection_pool.get_connection()
        connection.send_command("MONITOR")
        assert connection.read_response() == b"OK"

        def watch() -> None:
            with suppress(redis.ConnectionError, OSError, ValueError):
                while True:
                    line = connection.read_response()
                    # Redis writes quotes, backslashes and what is no ASCII as escapes.
                    self.commands.append(codecs.escape_decode(line)[0].decode(errors="replace"))  # type: ignore[attr-defined]

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        yield
        assert thread.is_alive(), "nobody has listened"
        self._client.echo("all was sent")
        eventually(lambda: any("all was sent" in command for command in self.commands[-500:]), what="the end of what was sent")
        connection.disconnect()
        thread.join(10)

    def everything(self) -> Iterator[tuple[str, str]]:
        """What it holds now: each key, with its value as Redis dumps it and as it is read."""
        for key in self._client.scan_iter(count=1000):
            read: dict[bytes, Any] = {
                b"string": lambda key=key: self._client.get(key),
                b"hash": lambda key=key: self._client.hgetall(key),
                b"list": lambda key=key: self._client.lrange(key, 0, -1),
                b"set": lambda key=key: self._client.smembers(key),
                b"zset": lambda key=key: self._client.zrange(key, 0, -1),
                b"stream": lambda key=key: self._client.xrange(key),
            }
            value = read.get(self._client.type(key), lambda: None)()
            yield f"key {key!r}", f"{key.decode(errors='replace')} {_text(value)}"


def _text(value: Any) -> str:
    """Everything in it, as text that was bytes."""
    match value:
        case bytes():
            return value.decode(errors="replace")
        case dict():
            return " ".join(f"{_text(key)} {_text(item)}" for key, item in value.items())
        case list() | tuple() | set():
            return " ".join(map(_text, value))
    return str(value)


def _decoded(run: str) -> str:
    plain = run.rstrip("=")
    return base64.b64decode(plain[: len(plain) // 4 * 4]).decode(errors="replace")


@contextmanager
def listed_processes() -> Iterator[set[str]]:
    """The command lines of all processes of the machine, looked at again and again."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().decode(errors="replace").replace("\0", " "))
                except OSError:
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join(10)


def config(box: str, wrong: str) -> str:
    return f"""
audit_file = "audit.jsonl"
[credentials.from_env]
username = "ada"
password_env = "CANARY_PASSWORD"
token_env = "CANARY_TOKEN"
[credentials.from_file]
username = "ada"
password_file = "wrong"
{box}
{wrong}
[policy.default]
operations = ["ssh_execute"]
hosts = ["*"]
commands = ["reveal"]
"""


def submit(client: Client, host: str, **more: Any) -> str:
    params = {"host": host, "command": "reveal", **more}
    return client.submit("operation", {"task_type": "ssh_execute", "params": params, "max_retries": 0})


def test_secrets_are_nowhere(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    forms = {form for secret in (PASSWORD, WRONG, PLAIN, TOKEN) for form in forms_of(secret) if len(form) >= 8}
    answers = {
        "exec reveal": "the password is\n" + "\n".join(forms_of(PASSWORD)) + "\nand the token " + " ".join(forms_of(TOKEN))
    }
    door = Door(password=PASSWORD, answers=answers)
    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text(WRONG + "\n")
    monitored = Monitored(redis_broker.redis_url)
    shown: list[tuple[str, str]] = []
    with serving(tmp_path, door) as server, monitored.watching(), listed_processes() as listed:
        text = config(server.host(credential="from_env"), server.host("shut", credential="from_file"))
        history = f"sqlite:///{tmp_path / 'history.sqlite3'}"
        site = make_site(redis_broker, processes, tmp_path, text, HISTORY_DATABASE_URI=history, LOG_LEVEL="DEBUG")
        facade = _start(site)
        with Client(facade.url, facade.token) as client:
            right = client.wait(submit(client, "box"), 120)
            wrong = client.wait(submit(client, "shut"), 120)
            with pytest.raises(BadRequestError, match="secret in plain at password"):
                submit(client, "box", password=PLAIN)
            with pytest.raises(ApiError):
                submit(client, "box", command=["reveal", f"--token={PLAIN}"])

            assert right.is_finished, right
            assert "the password is\n***" in right.result["stdout"]
            assert not wrong.is_finished
            assert (("ada", PASSWORD) in door.logins, ("ada", WRONG) in door.logins) == (True, True)

            eventually(lambda: (tmp_path / "history.sqlite3").exists(), what="the history")
            for job in (right, wrong):
                shown += [("events", str(list(client.messages(job.id)))), ("history", str(client.history(job.id)))]
        headers = {"X-Avtomatika-Token": facade.token}
        for path in ("jobs", f"jobs/{right.id}", f"jobs/{wrong.id}", f"jobs/{wrong.id}/history", "jobs/quarantined", "workers"):
            shown.append((path, httpx.get(f"{facade.url}/api/v1/{path}", headers=headers).text))
        for job in (right, wrong):
            body = {"task_id": job.id, "include_logs": True, "detailed": True}
            answer = httpx.post(f"{facade.url}/api/v1/queue/queue_task_status", json=body, headers=headers)
            assert answer.json()["status"] == "success", answer.text
            shown.append(("queue_task_status", answer.text))
        body = {"include_logs": True, "detailed": True}
        shown.append(("queue_status", httpx.post(f"{facade.url}/api/v1/queue/queue_status", json=body, headers=headers).text))
        time.sleep(1)  # for the history to come after
        shown += monitored.everything()
    shown += [(f"command line {line!r}"[:80], line) for line in listed]
    shown += [("sent to Redis", command) for command in monitored.commands]
    # Celery's messages hold their body in base64.
    for where, text in [pair for pair in shown if pair[0].startswith(("key", "sent"))]:
        bodies = [_decoded(run) for run in re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text)]
        shown.append((f"base64 in {where}", " ".join(bodies)))
    assert any('"reveal"' in text for where, text in shown if where == "base64 in sent to Redis")
    shown += processes.logs()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in ("wrong",):
            shown.append((path.name, path.read_bytes().decode(errors="replace")))

    assert len(monitored.commands) > 100
    assert len(listed) > 3
    assert any("ssh_execute" in text for where, text in shown if where == "sent to Redis")
    assert {"audit.jsonl", "history.sqlite3"} <= {where for where, _ in shown}
    leaks = sorted({(where, form) for where, text in shown for form in forms if form in text})
    assert leaks == []


def _start(site: Site) -> Facade:
    """With the most talkative logs that there are."""
    site.orchestrator()
    env = {**site.env, "CANARY_PASSWORD": PASSWORD, "CANARY_TOKEN": TOKEN}
    node = f"ssh@{site.env['NAMESPACE']}"
    site.processes.make(
        CeleryWorkerProcess, "avtomatika", node=node, queues=["ssh"], env=env, options=["-l", "DEBUG"], wait=False
    )
    facade = site.processes.make(Facade, env=site.env, wait=False)
    site.processes.wait_ready()
    return facade
