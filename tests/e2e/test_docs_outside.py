"""The examples of the pages on webhooks and on approval, as they stand there, with the commands that stand there."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Api
from tests.support.polling import eventually, eventually_async
from tests.support.processes import REPOSITORY, ManagedProcess, Processes, Up, clean_environment, free_port, port_is_open
from tests.support.receiver import SECRET

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("up"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

PAGES = {name: (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("webhooks", "approval")}


def _files(page: str) -> dict[str, str]:
    """Each Python block by the path that is named above it."""
    return dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE))


def _commands(page: str, program: str) -> list[str]:
    """The commands of the page's console blocks that begin so, as one line of shell each."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", PAGES[page], re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith(f"$ {program} ")]


@dataclass
class Shell:
    """Runs a page's commands against an `up`; what the page names is replaced by what is here."""

    up: Up
    folder: Path
    names: dict[str, str] = field(default_factory=dict)

    def run(self, command: str, **env: str) -> str:
        for name, here in {"http://127.0.0.1:8080": self.up.url, **self.names}.items():
            command = command.replace(name, here)
        given = {**clean_environment(), "AVTOMATIKA_URL": self.up.url, "CLIENT_TOKEN": self.up.token, **env}
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=given, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        return done.stdout.strip()


def _up(processes: Processes, folder: Path, files: Mapping[str, str], **env: str) -> Up:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in ("blueprints", "workers"):
        (folder / name).mkdir(exist_ok=True)
    return processes.make(Up, blueprints=folder / "blueprints", workers=folder / "workers", env=env)


class MailServer:
    """As much of SMTP as it takes to get a letter."""

    def __init__(self) -> None:
        self.letters: list[str] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            match line[:4].upper():
                case b"DATA":
                    writer.write(b"354 go on\r\n")
                    letter = email.message_from_bytes(await reader.readuntil(b"\r\n.\r\n"), policy=email.policy.default)
                    self.letters.append(letter.get_content())
                    writer.write(b"250 taken\r\n")
                case b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                case _:
                    writer.write(b"250 fine\r\n")
        writer.close()


def test_a_receiver_is_told_of_a_jobs_end(processes: Processes, tmp_path: Path) -> None:
    port = free_port()
    (receiver,) = _files("webhooks").items()
    files = {name: (REPOSITORY / name).read_text() for name in ("blueprints/hello.py", "workers/hello.py")}
    up = _up(processes, tmp_path, files, WEBHOOK_SECRET=SECRET, WEBHOOK_ALLOW_PRIVATE="true")
    path = tmp_path / receiver[0]
    path.write_text(receiver[1].replace("9000", str(port)))
    hooks = ManagedProcess("receiver", [sys.executable, str(path)], directory=tmp_path, env={"WEBHOOK_SECRET": SECRET})
    processes.start(hooks)
    eventually(lambda: port_is_open(port))
    (submit,) = _commands("webhooks", "curl")

    shell = Shell(up, tmp_path, {"https://example.com/hooks/jobs": f"http://127.0.0.1:{port}/hooks/jobs"})
    job_id = json.loads(shell.run(submit))["job_id"]

    hooks.wait_for_log(f"job.finished {job_id} {{'greeting': 'Hello, Ada!'}}")
    forged = f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/ -d '{{}}' -H 'X-Avtomatika-Signature: sha256=0'"
    assert shell.run(forged) == "403"
    knowing = {" ".join(process.cmdline()) for process in up.descendants() if SECRET in process.environ().values()}
    assert any("server" in words for words in knowing)
    assert any("orchestrator@" in words for words in knowing)
    assert not [words for words in knowing if "worker-1@" in words], "the secret is none of a worker's business"


async def test_people_decide_by_each_way_of_the_page(processes: Processes, tmp_path: Path) -> None:
    files = _files("approval")
    assert set(files) == {"blueprints/expense.py", "blueprints/mail.py"}
    by_mail = files["blueprints/expense.py"].replace(
        'Blueprint("expense", api_version="v1", api_endpoint="/expenses")', 'Blueprint("by_mail")'
    )
    by_mail = by_mail.replace('"log",', '"mail",').replace(
        "timeout_seconds=", 'options={"to": "boss@example.com"}, timeout_seconds='
    )
    mail = MailServer()
    server = await asyncio.start_server(mail.talk, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    up = _up(processes, tmp_path, {**files, "blueprints/by_mail.py": by_mail}, MAIL_SERVER=address)
    shell = Shell(up, tmp_path)
    submit, decide = _commands("approval", "avtomatika")
    by_client, by_token = _commands("approval", "curl")

    async with Api(up.url, up.token) as api:

        async def asked(blueprint: str) -> str:
            job_id = await asyncio.to_thread(shell.run, submit.replace("submit expense", f"submit {blueprint}"))
            await _reaches(api, job_id, "waiting_for_human")
            return job_id

        first = await asked("expense")
        told = f"avtomatika job decide {first} approved|rejected"
        await asyncio.to_thread(eventually, lambda: told in "".join(text for _, text in up.logs()))
        page_id = re.search(r"job decide (\S+)", decide)
        assert page_id is not None
        said = await asyncio.to_thread(shell.run, decide.replace(page_id[1], first))
        assert said == f"{first}: approved"
        second = await asked("expense")
        await asyncio.to_thread(shell.run, by_client, JOB_ID=second)
        third = await asked("by_mail")

        async def letter() -> str | None:
            return mail.letters[-1] if mail.letters else None

        token = re.search(r"token: (\S+)", str(await eventually_async(letter)))
        assert token is not None
        assert f"POST {up.url}/_public/webhooks/approval/{third}" in mail.letters[-1]
        answer = await asyncio.to_thread(shell.run, by_token, JOB_ID=third, TOKEN=token[1])
        assert json.loads(answer) == {"status": "approval_received", "job_id": third}

        ended = await api.ended([first, second, third])
    said_by = {job_id: job["result"]["approval"]["by"] for job_id, job in ended.items()}
    assert said_by == {first: "default", second: "default", third: "webhook:mail"}
    assert {job["result"]["approval"]["comment"] for job in ended.values()} == {"in the budget"}
    logs = "".join(text for _, text in up.logs())
    assert token[1] not in logs
    server.close()


async def _reaches(api: Api, job_id: str, status: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        job = await api.job(job_id)
        return job if job["status"] == status else None

    job = await eventually_async(look)
    assert job is not None
    return job
