"""Commands, scripts and web hooks: real programs, real requests, and what a policy does not allow."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, PolicyError
from tests.support.operation_calls import call, make_call
from tests.support.polling import eventually_async
from tests.support.processes import free_port

CONFIG = """
[credentials.hook]
token_env = "HOOK_TOKEN"
[policy.default]
operations = ["custom_command", "custom_script", "custom_webhook"]
commands = ["{python} -c *", "{folder}/*.sh *", "/bin/sh {folder}/*.sh *", "gone-program", "{folder}/data"]
local_roots = ["{folder}"]
credentials = ["hook"]
[policy.default.options]
env_names = ["GREETING"]
webhook_urls = ["http://127.0.0.1:{port}/hooks/*"]
[policy.free]
operations = ["custom_command"]
free_text = true
local_roots = ["{folder}"]
[policy.patterns]
operations = ["custom_*"]
commands = ["*"]
free_text = true
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    return CONFIG.format(python=sys.executable, folder=tmp_path, port=1)


def _python(text: str, **more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-c", text], **more}


async def test_a_program_runs_and_both_its_streams_are_kept(config: str) -> None:
    text = "import sys; print(sys.stdin.read()); print('\\x1b[31mwarn', file=sys.stderr)"
    one = make_call("custom_command", _python(text, stdin="hello"), config)
    result = await one.run()
    assert (result["stdout"], result["stderr"]) == ("hello\n", "\x1b[31mwarn\n")
    assert (result["exit_code"], result["signal"], result["truncated"]) == (0, None, False)
    assert sorted(one.lines) == ["hello", "stderr: ?[31mwarn"]


async def test_it_sees_nothing_of_the_workers_environment(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "a-secret-of-the-worker")
    result = await call(
        "custom_command", _python("import os, json; print(json.dumps(dict(os.environ)))", env={"GREETING": "hi"}), config
    )
    seen = json.loads(result["stdout"])
    assert seen["GREETING"] == "hi"
    assert set(seen) <= {"PATH", "LANG", "HOME", "GREETING", "LC_CTYPE", "PWD"}
    assert "a-secret-of-the-worker" not in result["stdout"]


async def test_a_failure_says_how_it_ended(config: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    with pytest.raises(OperationError) as failed:
        await call("custom_command", _python("import sys; print('why', file=sys.stderr); sys.exit(3)"), config)
    assert (failed.value.code, failed.value.kind) == (TaskErrorCode.CUSTOM_COMMAND_FAILED, "PERMANENT_ERROR")
    assert (failed.value.details["exit_code"], failed.value.details["stderr"]) == (3, "why\n")
    assert (await call("custom_command", _python("import sys; sys.exit(3)", ok_codes=[0, 3]), config))["exit_code"] == 3

    with pytest.raises(OperationError) as failed:
        await call("custom_command", _python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), config)
    assert failed.value.code == TaskErrorCode.SYSTEM_PROCESS_KILLED
    assert failed.value.details["signal"] == "SIGKILL"

    with pytest.raises(OperationError) as failed:
        await call("custom_command", {"command": "gone-program"}, config)
    assert (failed.value.code, failed.value.kind) == (TaskErrorCode.CUSTOM_COMMAND_FAILED, "PERMANENT_ERROR")
    with pytest.raises(OperationError) as failed:
        await call("custom_command", {"command": str(tmp_path / "data")}, config)
    assert failed.value.code == TaskErrorCode.SYSTEM_PERMISSION_DENIED


async def test_output_is_bounded(config: str) -> None:
    one = make_call("custom_command", _python("print('a' * 3_000_000); print('the end')", output_limit=10_000), config)
    result = await one.run()
    assert result["truncated"] is True
    assert len(result["stdout"]) < 10_200
    assert result["stdout"].startswith("aaaa")
    assert result["stdout"].endswith("the end\n")
    assert sum(map(len, one.lines)) < 10_000


async def test_a_cancel_ends_the_whole_group(config: str, tmp_path: Path) -> None:
    text = (
        "import subprocess, sys, time, signal;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"  # it does not want to go
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    from avtomatika.operations import programs

    work = make_call("custom_command", _python(text), config).start()

    async def pid() -> int:
        return int((tmp_path / "pid").read_text() or 0)

    child = await eventually_async(pid, retry=(OSError, ValueError))
    grace, programs.GRACE = programs.GRACE, 0.3
    try:
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    finally:
        programs.GRACE = grace

    async def is_gone() -> bool:
        return not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE

    await eventually_async(is_gone, retry=(psutil.NoSuchProcess,))


async def test_what_a_program_leaves_behind_does_not_keep_it(config: str) -> None:
    text = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('done')"
    result = await asyncio.wait_for(call("custom_command", _python(text), config), 30)
    assert result["stdout"] == "done\n"


async def test_scripts(config: str, tmp_path: Path) -> None:
    script = tmp_path / "say.sh"
    script.write_text('#!/bin/sh\npwd\necho "$1-$#"\n')
    with pytest.raises(OperationError) as failed:
        await call("custom_script", {"script_path": "say.sh", "script_args": ["x"]}, config)
    assert failed.value.code == TaskErrorCode.SYSTEM_PERMISSION_DENIED  # it is not executable

    params = {"script_path": "say.sh", "script_args": ["a b; id"], "interpreter": "/bin/sh", "working_dir": "."}
    result = await call("custom_script", params, config)
    assert result["stdout"] == f"{tmp_path}\na b; id-1\n"
    script.chmod(0o700)
    result = await call("custom_script", {"script_path": "say.sh"}, config)
    folder, said = result["stdout"].splitlines()
    assert said == "-0"
    assert not os.path.exists(folder)  # a folder of its own, gone afterwards
    script.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(OperationError) as failed:
        await call("custom_script", {"script_path": "say.sh"}, config)
    assert failed.value.code == TaskErrorCode.CUSTOM_SCRIPT_FAILED


async def test_a_shell_needs_free_text(config: str) -> None:
    result = await call("custom_command", {"command": "echo $1 | tr a b", "args": ["a;a"], "shell": True}, config, role="free")
    assert result["stdout"] == "b;b\n"
    with pytest.raises(PolicyError, match="free_text"):
        make_call("custom_command", {"command": "echo x", "shell": True}, config)


@pytest.mark.parametrize(
    ("name", "params", "role"),
    [
        ("custom_command", {"command": "id"}, "default"),
        ("custom_command", {"command": "./id"}, "free"),
        ("custom_command", {"command": sys.executable, "args": ["-m", "x"]}, "default"),
        ("custom_command", _python("1", cwd="/etc"), "default"),
        ("custom_command", _python("1", env={"LD_PRELOAD": "/tmp/x.so"}), "default"),
        ("custom_script", {"script_path": "/etc/passwd"}, "default"),
        ("custom_script", {"script_path": "../x.sh"}, "default"),
        ("custom_script", {"script_path": "data.csv"}, "default"),  # beneath a root, and yet no command
        ("custom_script", {"script_path": "x.sh", "interpreter": "/usr/bin/perl"}, "default"),
        ("custom_command", {"command": "id"}, "patterns"),  # a pattern names no privileged operation
        ("custom_script", {"script_path": "x.sh"}, "free"),
        ("custom_command", {"command": "id"}, "unknown"),
    ],
)
def test_what_is_not_allowed(config: str, name: str, params: dict[str, Any], role: str) -> None:
    with pytest.raises(PolicyError):
        make_call(name, params, config, role=role)


# Web hooks


@asynccontextmanager
async def _hook(status: int = 200, body: bytes = b'{"ok": true}', **headers: str) -> AsyncIterator[tuple[int, list[Any]]]:
    got: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        got.append((request.method, request.path, dict(request.headers), await request.read()))
        return web.Response(status=status, body=body, headers={"Content-Type": "application/json", **headers})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], got
    finally:
        await runner.cleanup()


def _for(port: int, tmp_path: Path) -> str:
    return CONFIG.format(python=sys.executable, folder=tmp_path, port=port)


async def test_a_hook_is_sent_with_its_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "a-token-of-the-tests")
    async with _hook(body=b'{"echo": "a-token-of-the-tests"}') as (port, got):
        params = {
            "url": f"http://127.0.0.1:{port}/hooks/x",
            "json": {"a": 1},
            "headers": {"X-Kind": "test"},
            "credential": "hook",
        }
        one = make_call("custom_webhook", params, _for(port, tmp_path))
        result = await one.run()
    method, path, headers, body = got[0]
    assert (method, path, json.loads(body)) == ("POST", "/hooks/x", {"a": 1})
    assert headers["Authorization"] == "Bearer a-token-of-the-tests"
    assert (headers["X-Kind"], headers["Idempotency-Key"]) == ("test", one.op.key)
    assert result["status"] == 200
    assert result["json"] == {"echo": "***"}
    assert "a-token" not in one.log() + json.dumps(result)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, "TRANSIENT_ERROR"),
        (503, "TRANSIENT_ERROR"),
        (429, "TRANSIENT_ERROR"),
        (404, "PERMANENT_ERROR"),
        (401, "PERMANENT_ERROR"),
        (302, "PERMANENT_ERROR"),
    ],
)
async def test_what_a_status_means(tmp_path: Path, status: int, kind: str) -> None:
    async with _hook(status, **{"Retry-After": "7", "Location": "http://127.0.0.1:1/"}) as (port, got):
        params = {"url": f"http://127.0.0.1:{port}/hooks/x"}
        with pytest.raises(OperationError) as failed:
            await call("custom_webhook", params, _for(port, tmp_path))
        assert (failed.value.code, failed.value.kind) == (TaskErrorCode.CUSTOM_WEBHOOK_FAILED, kind)
        assert failed.value.details["retry_after"] == "7"
        assert (await call("custom_webhook", {**params, "expected_status": [status]}, _for(port, tmp_path)))["status"] == status
        assert len(got) == 2  # a redirect is not followed


async def test_an_answer_is_bounded_and_no_answer_is_for_another_time(tmp_path: Path) -> None:
    async with _hook(body=b"x" * 300_000) as (port, _):
        result = await call("custom_webhook", {"url": f"http://127.0.0.1:{port}/hooks/x", "method": "GET"}, _for(port, tmp_path))
    assert (len(result["body"]), result["truncated"]) == (65536, True)
    port = free_port()
    with pytest.raises(OperationError) as failed:
        await call("custom_webhook", {"url": f"http://127.0.0.1:{port}/hooks/x"}, _for(port, tmp_path))
    assert (failed.value.code, failed.value.kind) == (TaskErrorCode.CUSTOM_WEBHOOK_FAILED, "TRANSIENT_ERROR")


@pytest.mark.parametrize(
    "params",
    [
        {"url": "http://127.0.0.1:1/other"},
        {"url": "http://127.0.0.1:1/hooks/../other"},
        {"url": "http://127.0.0.1:1/hooks/%2e%2e/other"},
        {"url": "http://127.0.0.1:2/hooks/x"},
        {"url": "https://127.0.0.1:1/hooks/x"},
        {"url": "http://localhost:1/hooks/x"},
        {"url": "http://169.254.169.254/latest/meta-data"},
        {"url": "https://example.com/hooks/x", "credential": "hook"},
        {"url": "http://127.0.0.1:1/hooks/x", "credential": "other"},
    ],
)
def test_where_hooks_may_not_go(config: str, params: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        make_call("custom_webhook", params, config)


async def test_a_name_that_leads_inside_is_refused_when_it_is_connected_to(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)  # the name server is the attacker's
    with pytest.raises(PolicyError, match="leads inside"):
        await call("custom_webhook", {"url": "http://rebind.example/x"}, config)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"url": "ftp://example.com/"}, TaskErrorCode.CUSTOM_VALIDATION_FAILED),
        ({"url": "https://user:pass@example.com/"}, TaskErrorCode.CUSTOM_VALIDATION_FAILED),
        ({"url": "https://example.com/", "headers": {"Authorization": "Bearer x"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"url": "https://example.com/", "headers": {"X": "a\r\nY: b"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"url": "https://example.com/", "headers": {"Host": "b"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"url": "https://example.com/", "json": 1, "body": "x"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"url": "https://example.com/", "method": "TRACE"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({}, TaskErrorCode.VALIDATION_MISSING_REQUIRED),
    ],
)
def test_requests_that_are_none(config: str, params: dict[str, Any], code: TaskErrorCode) -> None:
    with pytest.raises(OperationError) as refused:
        make_call("custom_webhook", params, config)
    assert refused.value.code == code
