"""system_update: a package manager of the test's own on PATH, which behaves as the real one; and the real one, in a dry run."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.system.update import _look_at_lock
from avtomatika.processes import alive
from tests.support.local_operations import Bench

APT = """#!/bin/sh
echo "$@" >> {calls}
env > {env}
case "$*" in
  *" -s "*) echo "Inst libx [1.0-1] (1.0-2 Debian:12/stable [amd64])"; echo "Conf libx (1.0-2 Debian:12/stable [amd64])" ;;
  *" -y "*) {update} ;;
esac
"""
DNF = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *check-update*) echo; echo "kernel.x86_64    6.1-2    updates"; exit {checked} ;;
  *upgrade*) echo Complete! ;;
esac
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program on PATH, before all others; gives the file that its calls are written to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("A_SECRET", "s3cret-of-the-worker")

    def put(name: str, text: str, **values: Any) -> Path:
        values = {"calls": tmp_path / "calls", "env": tmp_path / "env", **values}
        (folder / name).write_text(text.format(**values))
        (folder / name).chmod(0o755)
        return tmp_path / "calls"

    return put


def bench(**options: Any) -> Bench:
    return Bench(options=options)


def test_a_dry_run_says_what_would_change(program: Any) -> None:
    calls = program("apt-get", APT, update="echo no; exit 1")
    found = bench().run("system_update", {"manager": "apt"})

    assert (found["dry_run"], found["count"]) == (True, 1)
    assert found["packages"] == [{"name": "libx", "from": "1.0-1", "to": "1.0-2"}]
    assert calls.read_text().splitlines() == ["-q -s --no-remove upgrade"]


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are updated by root")
def test_an_update_with_a_minimal_environment(program: Any, tmp_path: Path) -> None:
    calls = program("apt-get", APT, update="echo Setting up libx")
    tester = bench()
    found = tester.run("system_update", {"manager": "apt", "packages": ["libx"], "dry_run": False})

    assert found["packages"] == [{"name": "libx", "from": "1.0-1", "to": "1.0-2"}]
    assert found["output"] == ["Setting up libx"]
    refresh, plan, update = calls.read_text().splitlines()
    assert refresh == "-q update"
    assert plan == "-q -s --no-remove install --only-upgrade -- libx"
    assert update.startswith("-q -y --no-remove")
    assert update.endswith("install --only-upgrade -- libx")
    environment = (tmp_path / "env").read_text()
    assert "DEBIAN_FRONTEND=noninteractive" in environment
    assert "s3cret" not in environment


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are updated by root")
@pytest.mark.parametrize(
    ("update", "code"),
    [
        ("echo E: nothing there; exit 100", TaskErrorCode.EXTERNAL_SERVICE_ERROR),
        ("kill -9 $$", TaskErrorCode.SYSTEM_PROCESS_KILLED),
    ],
)
def test_exit_codes(program: Any, update: str, code: TaskErrorCode) -> None:
    program("apt-get", APT, update=update)
    error = bench().fails("system_update", {"manager": "apt", "dry_run": False, "refresh": False})

    assert error.code is code
    assert error.details["exit_code"] in (100, -9)


@pytest.mark.parametrize(("checked", "count"), [(100, 1), (0, 0)])
def test_dnf(program: Any, checked: int, count: int) -> None:
    calls = program("dnf", DNF, checked=checked)
    found = bench().run("system_update", {"manager": "dnf", "packages": ["kernel"]})

    assert found["count"] == count
    assert calls.read_text().splitlines() == ["-q --refresh check-update kernel"]


def test_dnf_fails(program: Any) -> None:
    program("dnf", DNF, checked=1)
    assert bench().fails("system_update", {"manager": "dnf"}).code is TaskErrorCode.EXTERNAL_SERVICE_ERROR


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are updated by root")
def test_a_cancel_ends_the_whole_group(program: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program("apt-get", APT, update=f"sleep 600 & echo $! > {pids}; echo $$ >> {pids}; wait")
    stopped: list[BaseException] = []
    contexts: list[Any] = []

    def work() -> None:
        try:
            bench().run("system_update", {"manager": "apt", "dry_run": False, "refresh": False}, before=contexts.append)
        except OperationStopped as exc:
            stopped.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 30
    while not (pids.exists() and len(pids.read_text().split()) == 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    contexts[0].stop(StopReason.CANCEL)
    thread.join(30)

    assert len(stopped) == 1
    both = [int(pid) for pid in pids.read_text().split()]
    assert len(both) == 2
    assert not any(alive(pid) for pid in both)


def test_it_has_to_be_named_in_full() -> None:
    for operations, allowed in [(("system_*",), False), (("*",), False), (("system_update",), True)]:
        tester = Bench(operations=operations)
        if allowed:
            tester.permit.check(
                __import__("avtomatika.operations.registry", fromlist=["registry"]).registry().get("system_update")
            )
        else:
            assert tester.fails("system_update", {"manager": "apt"}).code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION


@pytest.mark.parametrize(("packages", "allowed"), [(["libssl3"], True), (["libssl3", "nginx"], False), ([], False)])
def test_a_policy_may_name_the_packages(program: Any, packages: list[str], allowed: bool) -> None:
    program("apt-get", APT, update="")
    tester = bench(packages=["libssl*"])
    params = {"manager": "apt", "packages": packages}
    if allowed:
        assert tester.run("system_update", params)["count"] == 1
    else:
        assert tester.fails("system_update", params).code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, TaskErrorCode.VALIDATION_MISSING_REQUIRED),
        ({"manager": "brew"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        *(
            ({"manager": "apt", "packages": [name]}, TaskErrorCode.VALIDATION_INVALID_FORMAT)
            for name in ("-o=x", "nginx-", "a b", "a;b", "*", "./x.deb", "")
        ),
    ],
)
def test_params_that_do_not_fit(params: dict[str, Any], code: TaskErrorCode) -> None:
    assert bench().fails("system_update", params).code is code


def test_a_manager_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench().fails("system_update", {"manager": "dnf"}).code is TaskErrorCode.CONFIGURATION_ERROR


def test_another_package_manager_is_at_work(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    _look_at_lock(lock)
    _look_at_lock(tmp_path / "none")
    child = os.fork()
    if child == 0:  # the lock is of a process
        with lock.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(0)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "held").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(OperationError) as found:
            _look_at_lock(lock)
        assert found.value.code is TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get on this machine")
def test_the_real_apt_in_a_dry_run() -> None:
    found = bench().run("system_update", {"manager": "apt", "packages": ["bash"], "refresh": False})

    assert found["dry_run"] is True
    assert found["count"] == len(found["packages"])
