"""The audit: what it says of a request, that many processes write it, and that what is changed in it shows."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from avtomatika.cli.main import main
from avtomatika.errors import ErrorCode
from avtomatika.jobs import Client
from avtomatika.operations.auditfile import BEGINNING, AuditError, Verified, append, verify
from avtomatika.operations.base import Family, Params
from avtomatika.operations.blueprint import operation
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.policy import Permit
from avtomatika.operations.registry import Registry
from avtomatika.settings import read_settings

family = Family("test")


class Anything(Params):
    host: str = ""
    command: str = ""
    credential: str | None = None
    text: str = ""


def _guard(params: Anything, permit: Permit) -> None:
    permit.host(params.host)
    permit.command(params.command)


@family.operation("test_run", guard=_guard)
def run(params: Anything, op: OperationContext) -> dict[str, Any]:
    return {}


@family.operation("test_privileged", privileged=True)
def privileged(params: Anything, op: OperationContext) -> dict[str, Any]:
    return {}


@family.operation("test_named", privileged=True)
def named(params: Anything, op: OperationContext) -> dict[str, Any]:
    return {}


CONFIG = """
[credentials.deploy]
username = "deployer"
agent = true
[hosts.box]
address = "10.0.0.5"
credential = "deploy"
[hosts.other]
[policy.ops]
operations = ["test_*", "test_named"]
hosts = ["box"]
commands = ["uptime"]
[policy.silent]
operations = ["test_run"]
queue = ["status"]
"""


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Registry([family])
    for module in ("admission", "audit", "configfile"):
        target = "avtomatika.operations.registry" if module == "configfile" else f"avtomatika.operations.{module}"
        monkeypatch.setattr(f"{target}.registry", lambda: found)


class Desk:
    """Where tasks are pushed, by clients of an installation with this audit."""

    def __init__(self, folder: Path, audit_file: Path | None) -> None:
        self.audit_file = audit_file
        path = folder / "operations.toml"
        path.write_text((f'audit_file = "{audit_file}"\n' if audit_file else "") + CONFIG)
        self.settings = read_settings(operations_config_path=path)

    def push(self, task_type: str, role: str = "ops", **params: Any) -> None:
        assert operation.admit is not None
        operation.admit({"task_type": task_type, "params": params}, Client("acme", role=role), self.settings)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def problems(path: Path, expected: str | None = None) -> list[tuple[int, str]]:
    return [(problem.line, problem.what) for problem in verify(path, Verified(), expected)]


def test_what_is_asked_for_is_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    desk = Desk(tmp_path, path)

    desk.push("test_run", host="box", command="uptime", text="x" * 1000)
    with pytest.raises(PolicyError):
        desk.push("test_run", host="other", command="uptime", credential="deploy")
    with pytest.raises(OperationError, match="secret in plain at password"):
        desk.push("test_run", host="box", password="hunter2-hunter2")
    with pytest.raises(PolicyError, match="on the queue"):
        desk.push("test_run", "silent", host="box", command="uptime")
    with pytest.raises(OperationError, match="task_type: "):
        desk.push("test_nothing" + "g" * 1000)

    queued, host, secret, queue, unknown = found = lines(path)
    assert (queued["event"], queued["decision"], queued["rule"]) == ("queued", "allowed", "policy.ops: test_*")
    assert (queued["who"], queued["role"], queued["operation"]) == ("acme", "ops", "test_run")
    assert (queued["hosts"], queued["addresses"]) == (["box"], ["10.0.0.5"])
    assert (queued["user"], queued["credential"]) == ("deployer", "deploy")
    assert queued["params"]["text"] == "x" * 500 + "… (1000 characters)"
    assert queued["time"].endswith("+00:00")
    assert len(queued["params_sha256"]) == 64
    assert (host["decision"], host["error_code"], host["credential"]) == ("refused", "VALIDATION_CONSTRAINT_VIOLATION", "deploy")
    assert "the host 'other'" in host["rule"]
    assert secret["params"] == {"host": "box", "password": "***"}
    assert (queue["outcome"], queue["role"]) == ("refused", "silent")
    assert (unknown["outcome"], len(unknown["operation"])) == ("refused", 100)
    assert [line["seq"] for line in found] == [1, 2, 3, 4, 5]
    assert problems(path) == []
    assert path.stat().st_mode & 0o777 == 0o600
    records = [record for record in caplog.records if record.name == "avtomatika.audit"]
    assert [record.__dict__["audit"] for record in records] == found
    assert "hunter2" not in path.read_text() + caplog.text


def test_a_log_record_is_written_without_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("avtomatika"), "level", logging.ERROR)
    Desk(tmp_path, None).push("test_run", host="box", command="uptime")
    assert json.loads(caplog.records[-1].getMessage())["event"] == "queued"


def test_a_privileged_operation_needs_its_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, path in enumerate((Path("/dev/full"), tmp_path / "no" / "folder", tmp_path)):
        (tmp_path / str(number)).mkdir()
        desk = Desk(tmp_path / str(number), path)
        with pytest.raises(OperationError, match="privileged, and does not begin without its line") as caught:
            desk.push("test_named")
        assert caught.value.kind is ErrorCode.TRANSIENT
        desk.push("test_run", host="box", command="uptime")
    assert "cannot be written: No space left on device" in caplog.text
    desk = Desk(tmp_path, tmp_path / "audit")
    desk.push("test_named")
    with pytest.raises(PolicyError, match="test_privileged"):  # no pattern allows it
        desk.push("test_privileged")


def _write_many(path: Path, name: str) -> None:
    for number in range(50):
        append(path, {"who": name, "number": number, "text": "ä" * 200})


def test_many_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, f"w{number}")) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert [writer.exitcode for writer in writers] == [0] * 4
    found = lines(path)
    assert [line["seq"] for line in found] == list(range(1, 201))
    for name in ("w0", "w1", "w2", "w3"):
        assert [line["number"] for line in found if line["who"] == name] == list(range(50))
    assert problems(path) == []


def test_a_file_that_is_put_away_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    append(path, {"n": 1})
    path.rename(tmp_path / "audit.jsonl.1")
    assert append(path, {"n": 2})["prev"] == BEGINNING
    assert problems(path) == problems(tmp_path / "audit.jsonl.1") == []


def test_a_line_that_was_cut_off_is_told_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(2):
        append(path, {"n": number})
    with path.open("ab") as file:
        file.write(b'{"n": 2, "se')
    append(path, {"n": 3})
    append(path, {"n": 4})
    assert [line for line, _ in problems(path)] == [3]
    assert [line for line, _ in problems(tmp_path / "audit.jsonl")] == [3]


def test_long_lines_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(3):
        append(path, {"text": "x" * 200_000})
    assert problems(path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError):
        append(tmp_path / "link", {})
    assert not (tmp_path / "elsewhere").exists()


def _edit(raw: list[bytes]) -> list[bytes]:
    return [raw[0], raw[1].replace(b'"n": 1', b'"n": 7'), *raw[2:]]


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (_edit, 2, "was edited"),
        (lambda raw: [raw[0], *raw[2:]], 2, "does not follow"),
        (lambda raw: [raw[1], raw[0], *raw[2:]], 1, "does not follow"),
        (lambda raw: raw[1:], 1, "does not follow"),
        (lambda raw: [*raw[:2], b"\n", *raw[2:]], 3, "no whole record"),
        (lambda raw: [raw[0], raw[0], *raw[1:]], 2, "does not follow"),
        (lambda raw: raw[:-1], 3, "cut off"),
    ],
)
def test_what_is_changed_shows(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int, words: str) -> None:
    path = tmp_path / "audit.jsonl"
    last = [append(path, {"n": number})["hash"] for number in range(4)][-1]
    assert problems(path, last) == []
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    found = problems(path, last)

    assert found[0][0] == line
    assert words in found[0][1]
    shown = CliRunner().invoke(main, ["audit", "verify", str(path), "--contains", last])
    assert shown.exit_code == 1
    assert f"audit.jsonl:{line}: {found[0][1]}" in shown.output


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    last = append(path, {"n": 1})["hash"]
    shown = CliRunner().invoke(main, ["audit", "verify", str(path), "--json"])
    assert (shown.exit_code, json.loads(shown.output)) == (0, {"lines": 1, "last_hash": last, "problems": []})
    assert (
        CliRunner().invoke(main, ["audit", "verify", str(path)]).output
        == f"1 lines: no problems; the hash of the last one is {last}\n"
    )
    assert CliRunner().invoke(main, ["audit", "verify", str(tmp_path / "none")]).exit_code == 1
    assert os.path.exists(path)
