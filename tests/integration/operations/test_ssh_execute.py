"""ssh_execute against a real sshd."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, PolicyError, StopReason
from avtomatika.operations.ssh.pool import pool
from tests.support.polling import eventually
from tests.support.processes import MARK
from tests.support.requirements import missing
from tests.support.ssh_server import Door, serving
from tests.support.sshd import POLICY, Sshd, config_of, context, perform, running, told

MIB = 1024 * 1024
Execute = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    yield
    pool().close()


@pytest.fixture
def execute(sshd: Sshd, tmp_path: Path) -> Execute:
    """Runs a command on the sshd under a policy that allows every text."""
    config = config_of(sshd.config(), tmp_path)
    return lambda command, **params: perform(context(config), **{"host": "box", "command": command, **params})


def failure(execute: Execute, *args: Any, **params: Any) -> OperationError:
    with pytest.raises(OperationError) as raised:
        execute(*args, **params)
    return raised.value


def processes_with(mark: str) -> list[psutil.Process]:
    """The living processes of this machine with a text in their command line, this test's own left out."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        alive = process.info["status"] != psutil.STATUS_ZOMBIE and process.info["pid"] != os.getpid()
        if alive and mark in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_what_a_command_leaves_is_in_its_result(execute: Execute, sshd: Sshd) -> None:
    result = execute("echo out; echo err >&2; exit 3", ok_codes=[0, 3])
    assert (result["exit_code"], result["signal"], result["stdout"], result["stderr"]) == (3, None, "out\n", "err\n")
    assert result["truncated"] is False
    assert result["duration"] > 0
    assert (result["host"], result["username"], result["cipher"]) == ("box", sshd.username, "aes128-gcm@openssh.com")
    assert result["fingerprint"].startswith("SHA256:")


def test_another_exit_code_is_a_failure_with_the_end_of_its_output(execute: Execute) -> None:
    failed = failure(execute, "echo some; echo 'no such thing' >&2; exit 7")
    assert (failed.code, failed.kind) == (TaskErrorCode.SSH_COMMAND_FAILED, ErrorCode.PERMANENT)
    assert "ended with 7: no such thing" in str(failed)
    details = failed.details
    assert (details["exit_code"], details["stdout"], details["stderr"]) == (7, "some\n", "no such thing\n")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV"])
def test_the_signal_that_ended_a_command_is_named(execute: Execute, name: str) -> None:
    failed = failure(execute, f"kill -s {name.removeprefix('SIG')} $$")
    assert failed.code is TaskErrorCode.SSH_COMMAND_FAILED
    assert (failed.details["exit_code"], failed.details["signal"]) == (None, name)


def test_four_megabytes_on_stderr_do_not_block(execute: Execute) -> None:
    result = execute("head -c 4194304 /dev/zero | tr '\\0' e >&2; echo done", max_output=MIB)
    assert result["stdout"] == "done\n"
    assert result["truncated"] is True
    assert len(result["stderr"]) < MIB + 200
    assert f"[{4 * MIB - MIB} bytes left out]" in result["stderr"]


def test_standard_input_is_given_whole(execute: Execute) -> None:
    text = "line of text\n" * 60_000
    assert execute(["wc", "-c"], stdin=text)["stdout"].strip() == str(len(text))
    assert execute(["cat"], stdin="")["stdout"] == ""
    assert execute(["head", "-n", "1"], stdin=text)["stdout"] == "line of text\n"  # it does not read the rest
    assert execute(["cat"])["stdout"] == ""


def test_lines_are_logged_while_it_runs_without_escapes_and_secrets(sshd: Sshd, tmp_path: Path) -> None:
    op = context(config_of(sshd.config(), tmp_path))
    op.hide("hunter2")
    command = "printf '\\033[31mred\\033[0m hunter2\\n'; echo careful >&2; sleep 60"

    def run() -> None:
        with pytest.raises(OperationStopped):
            perform(op, host="box", command=command)

    thread = threading.Thread(target=run)
    thread.start()
    seen: list[str] = []
    eventually(lambda: bool(seen.append(told(op))) or "careful" in "".join(seen), what="the second line")
    op.stop(StopReason.CANCEL)
    thread.join()
    text = "\n".join(seen)
    assert "stderr: careful" in text
    assert "red ***" in text or ("red " in text and "hunter2" not in text)
    assert "\x1b" not in text


def test_a_secret_in_the_output_is_masked_in_the_result(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOX_PASSWORD", "correct-horse")
    text = sshd.credential(password_env="BOX_PASSWORD") + sshd.host() + POLICY
    op = context(config_of(text, tmp_path))
    result = perform(op, host="box", command=["echo", "it is correct-horse"])
    assert "correct-horse" not in str(result)
    assert "correct-horse" not in told(op)


ATTACKS = [
    "'; touch {harm}; '",
    '"; touch {harm}; "',
    "$(touch {harm})",
    "`touch {harm}`",
    "a\ntouch {harm}\n",
    "--help; touch {harm}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_injections_do_nothing(execute: Execute, tmp_path: Path, attack: str) -> None:
    harm = tmp_path / "harm"
    attack = attack.format(harm=harm)
    assert execute(["printf", "%s", attack])["stdout"] == attack
    assert execute(["printenv", "WORD"], env={"WORD": attack})["stdout"] == f"{attack}\n"
    if "\n" not in attack:
        assert failure(execute, ["true"], cwd=f"/{attack}").code is TaskErrorCode.SSH_COMMAND_FAILED
    for wrong in ({"env": {attack: "x"}}, {"env": {f"A={attack}": "x"}}, {"username": attack}, {"host": attack}, {"cwd": attack}):
        with pytest.raises(OperationError) as raised:
            execute(["true"], **wrong)
        assert raised.value.code in (TaskErrorCode.VALIDATION_INVALID_PARAMS, TaskErrorCode.VALIDATION_INVALID_FORMAT)
    assert not harm.exists()


@pytest.mark.parametrize(
    "params",
    [
        {"command": []},
        {"command": ""},
        {"command": ["-rf"]},
        {"command": ["echo", "a\0b"]},
        {"command": "echo \0"},
        {"command": ["true"], "cwd": "relative"},
        {"command": ["true"], "env": {"A": "\0"}},
        {"command": ["true"], "password": "secret"},
        {"command": ["true"], "become": {"method": "doas", "credential": "key"}},
    ],
)
def test_what_can_mean_no_command_is_refused(execute: Execute, params: dict[str, Any]) -> None:
    command = params.pop("command")
    assert failure(execute, command, **params).kind is ErrorCode.INVALID_INPUT


PATTERNS = """
[policy.default]
operations = ["ssh_execute"]
hosts = ["box"]
commands = ["echo *", "printenv LANG"]
remote_roots = ["/tmp"]
[policy.default.options]
env = ["LANG"]
"""


@pytest.mark.parametrize(
    ("command", "params", "allowed"),
    [
        (["echo", "$HOME"], {}, True),
        ("echo 'a b'", {}, True),
        ("echo a; reboot", {}, False),
        ("echo $(reboot)", {}, False),
        ("echo a > /etc/passwd", {}, False),
        ("echo a\nreboot", {}, False),
        (["reboot"], {}, False),
        (["printenv", "LANG"], {"env": {"LANG": "C"}}, True),
        (["echo", "a"], {"env": {"LD_PRELOAD": "/tmp/harm.so"}}, False),
        (["echo", "a"], {"env": {"PATH": "/tmp/harm"}}, False),
        (["echo", "a"], {"cwd": "/tmp"}, True),
        (["echo", "a"], {"cwd": "/etc"}, False),
        (["echo", "a"], {"cwd": "/tmp/../etc"}, False),
        (["echo", "a"], {"become": {}}, False),
        (["echo", "a"], {"username": "nobody"}, False),
        (["echo", "a"], {"credential": "other"}, False),
        (["echo", "a"], {"port": 1}, False),
        (["echo", "a"], {"host": "elsewhere"}, False),
    ],
)
def test_only_what_the_policy_names_is_run(
    sshd: Sshd, tmp_path: Path, command: Any, params: dict[str, Any], allowed: bool
) -> None:
    text = sshd.credential() + sshd.credential("other") + sshd.host() + PATTERNS
    op = context(config_of(text, tmp_path))
    if allowed:
        assert perform(op, **{"host": "box", "command": command, **params})["exit_code"] == 0
    else:
        with pytest.raises(PolicyError):
            perform(op, **{"host": "box", "command": command, **params})


STUBBORN = "trap '' TERM; sleep {mark} & sleep {mark} & wait; sleep {mark}"


WILLING = "sleep {mark} & sleep {mark}; sleep {mark}"


@pytest.mark.parametrize(
    ("reason", "command"), [*((reason, WILLING) for reason in StopReason if reason != "pause"), (StopReason.CANCEL, STUBBORN)]
)
def test_a_stop_ends_the_whole_process_group(sshd: Sshd, tmp_path: Path, command: str, reason: StopReason) -> None:
    mark = str(10_000_000 + time.monotonic_ns() % 1_000_000_000)
    op = context(config_of(sshd.config(), tmp_path))
    _stopped(op, command.format(mark=mark), mark, reason)


def _stopped(op: OperationContext, command: str, mark: str, reason: StopReason, *, secret: str = "", **params: Any) -> None:
    """Stops a command when it runs, and looks that nothing of it is left when its operation has ended."""

    shown: list[psutil.Process] = []

    def stop() -> None:
        eventually(lambda: len(processes_with(f"sleep {mark}")) >= 2, what="the remote processes")
        if secret:
            shown.extend(processes_with(secret))
        op.stop(reason)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(OperationStopped) as raised:
        perform(op, host="box", command=command, **params)
    stopper.join()
    assert raised.value.reason is reason
    assert not processes_with(mark)
    assert not shown


def test_a_server_that_allows_one_session_does_not_keep_it_alive(tmp_path: Path) -> None:
    with running(Sshd(tmp_path / "sshd", {"MaxSessions": "1"})) as server:
        op = context(config_of(server.config(), tmp_path))
        mark = str(10_000_000 + time.monotonic_ns() % 1_000_000_000)
        _stopped(op, f"sleep {mark} & sleep {mark}", mark, StopReason.CANCEL)


def test_its_own_timeout_ends_it(execute: Execute) -> None:
    mark = str(10_000_000 + time.monotonic_ns() % 1_000_000_000)
    failed = failure(execute, f"echo begun; while true; do echo more; sleep 0.1; done; sleep {mark}", timeout=3)
    assert (failed.code, failed.kind) == (TaskErrorCode.SSH_TIMEOUT, ErrorCode.TRANSIENT)
    assert failed.details["stdout"].startswith("begun\nmore\n")
    assert not processes_with(mark)
    once = failure(execute, ["sleep", mark], timeout=0.2, idempotent=False)
    assert (once.code, once.kind) == (TaskErrorCode.SSH_TIMEOUT, ErrorCode.PERMANENT)
    silent = failure(execute, ["sleep", mark], idle_timeout=0.2)
    assert silent.code is TaskErrorCode.SSH_TIMEOUT
    assert "said nothing for 0.2 s" in str(silent)
    assert not processes_with(mark)


def test_what_a_command_leaves_behind_does_not_hold_it(execute: Execute) -> None:
    assert execute("sleep 20 & echo left; exit 0")["stdout"] == "left\n"


def test_the_login_shell_reads_a_text(execute: Execute) -> None:
    assert execute("for i in 1 2 3; do\n  echo $i\ndone | paste -sd+ - # a comment")["stdout"] == "1+2+3\n"


def test_another_user_without_a_password(sshd: Sshd, tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("su") is None:
        missing("su", "only root becomes another user without a password")
    op = context(config_of(sshd.config(POLICY + 'options = {become = ["nobody"]}\n'), tmp_path))
    become = {"user": "nobody", "method": "su"}
    result = perform(
        op, host="box", command="id -un; cat; echo $WORD", become=become, stdin="given\n", env={"WORD": "a'b"}, cwd="/"
    )
    assert result["stdout"] == "nobody\ngiven\na'b\n"
    mark = str(10_000_000 + time.monotonic_ns() % 1_000_000_000)
    op = context(config_of(sshd.config(POLICY + 'options = {become = ["nobody"]}\n'), tmp_path))
    _stopped(op, f"sleep {mark} & sleep {mark}", mark, StopReason.CANCEL, become=become)


#: Asks and refuses as sudo does, for machines that have none: -S reads a line of standard input, -n asks nothing.
SUDO = """#!/bin/sh
while [ "$1" != -- ]; do
    case "$1" in -p) shift; prompt=$1 ;; -u) shift ;; -n) echo "sudo: a password is required" >&2; exit 1 ;; esac
    shift
done
shift
for attempt in 1 2 3; do
    printf %s "$prompt" >&2
    IFS= read -r word || exit 1
    if [ "$word" = "open sesame" ]; then BECAME=root exec "$@"; fi
    echo "Sorry, try again." >&2
done
exit 1
"""


@pytest.mark.parametrize(("password", "right"), [("open sesame", True), ("guess", False), (None, False)])
def test_a_password_is_answered_once_and_seen_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None, right: bool
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sudo").write_text(SUDO)
    (tmp_path / "bin" / "sudo").chmod(0o755)
    server = Sshd(tmp_path / "sshd")
    server.options["SetEnv"] = f"{MARK}={server.env[MARK]} SHLVL=2 PATH={tmp_path / 'bin'}:/usr/bin:/bin"
    monkeypatch.setenv("SUDO_PASSWORD", password or "x")
    text = server.config(POLICY + 'credentials = ["root"]\noptions = {become = ["root"]}\n')
    become = {"credential": "root"} if password else {}
    with running(server):
        op = context(config_of(text + '[credentials.root]\npassword_env = "SUDO_PASSWORD"\n', tmp_path))
        command = "echo $BECAME; cat"
        if not right:
            with pytest.raises(OperationError) as raised:
                perform(op, host="box", command=command, become=become)
            assert (raised.value.code, raised.value.kind) == (TaskErrorCode.SSH_AUTHENTICATION_FAILED, ErrorCode.PERMANENT)
            assert "guess" not in str(raised.value)
            return
        result = perform(op, host="box", command=command, become=become, stdin="given\n")
        assert (result["stdout"], result["stderr"]) == ("root\ngiven\n", "")
        assert "sesame" not in str(result) + told(op)
        mark = str(10_000_000 + time.monotonic_ns() % 1_000_000_000)
        _stopped(op, f"sleep {mark} & sleep {mark}", mark, StopReason.CANCEL, secret="open sesame", become=become)


def test_sudo_itself_without_a_password(sshd: Sshd, tmp_path: Path) -> None:
    if shutil.which("sudo") is None or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        missing("sudo", "there is none that asks for no password")
    op = context(config_of(sshd.config(POLICY + 'options = {become = ["root"]}\n'), tmp_path))
    assert perform(op, host="box", command=["id", "-u"], become={})["stdout"] == "0\n"


def test_a_user_that_cannot_be_become_is_a_failed_login(sshd: Sshd, tmp_path: Path) -> None:
    op = context(config_of(sshd.config(POLICY + 'options = {become = ["no-such-user"]}\n'), tmp_path))
    with pytest.raises(OperationError) as raised:
        perform(op, host="box", command=["true"], become={"user": "no-such-user", "method": "su"})
    assert (raised.value.code, raised.value.kind) == (TaskErrorCode.SSH_AUTHENTICATION_FAILED, ErrorCode.PERMANENT)
    assert "no-such-user" in str(raised.value)


def test_a_server_that_is_no_openssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOX_PASSWORD", "sesame")
    credential = '[credentials.password]\nusername = "somebody"\npassword_env = "BOX_PASSWORD"\n'
    with serving(tmp_path, Door()) as server:
        config = config_of(credential + server.host() + POLICY, tmp_path)
        for command, expected in (("exit 4", (4, None)), ("signal INT", (None, "SIGINT"))):
            with pytest.raises(OperationError) as raised:
                perform(context(config), host="box", command=command)
            assert (raised.value.details["exit_code"], raised.value.details["signal"]) == expected
        with pytest.raises(OperationError) as raised:
            perform(context(config), host="box", command="drop")
        assert raised.value.code is TaskErrorCode.SSH_CONNECTION_FAILED
