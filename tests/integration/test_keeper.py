"""Children that are kept alive, given up on, and ended: real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avtomatika.keeper import DEATHS_ALLOWED, Child, ChildFailedError, Keeper
from avtomatika.processes import alive, spawn, wait_until

READY = "import sys, time; print('ready', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, sys, time; [signal.signal(s, signal.SIG_IGN) for s in (15, 3)]; print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.end({child.role for child in keeper.children}, ())


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(code: str, name: str = "child", role: str = "worker") -> Child:
        return Child(name, role, [sys.executable, "-c", code], dict(os.environ), tmp_path / "logs" / f"{name}.log")

    return make


def is_ready(child: Child) -> bool:
    return "ready" in child.tail()


def test_a_dead_child_is_started_again(keeper: Keeper, child: Callable[..., Child]) -> None:
    one = child(READY)
    keeper.start(one)
    assert wait_until(lambda: is_ready(one), 10)
    assert one.process is not None
    first = one.process.pid
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        keeper.check()
        return one.process is not None and one.process.pid != first

    assert wait_until(again, 10)
    assert keeper.children == [one]


def test_one_that_dies_again_and_again_is_given_up_with_its_last_lines(keeper: Keeper, child: Callable[..., Child]) -> None:
    keeper.start(child("import sys; print('this is why'); sys.exit(3)"))
    with pytest.raises(ChildFailedError, match=rf"child ended {DEATHS_ALLOWED} times.* last with code 3(.|\n)*this is why"):
        wait_until(lambda: keeper.check() is not None, 30)


def test_an_end_takes_the_grandchildren_too(keeper: Keeper, child: Callable[..., Child]) -> None:
    one = child(
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); print(p.pid, flush=True); p.wait()"
    )
    keeper.start(one)
    assert wait_until(lambda: is_ready(one), 10)
    grandchild = int(one.tail().split()[0])
    keeper.end({"worker"}, [(signal.SIGTERM, 10)])
    assert wait_until(lambda: not alive(grandchild), 10)
    assert keeper.children == []


def test_one_that_ignores_its_signals_is_killed(keeper: Keeper, child: Callable[..., Child]) -> None:
    one, other = child(STUBBORN, "stubborn"), child(READY, "facade", "facade")
    for each in (one, other):
        keeper.start(each)
        assert wait_until(lambda each=each: is_ready(each), 10)
    process = one.process
    keeper.end({"worker"}, [(signal.SIGTERM, 0.1), (signal.SIGQUIT, 0.1)])
    assert process is not None
    assert process.returncode == -signal.SIGKILL
    assert keeper.children == [other]
    assert other.process is not None
    assert other.process.poll() is None


def test_a_hurry_does_not_wait(keeper: Keeper, child: Callable[..., Child]) -> None:
    one = child(STUBBORN)
    keeper.start(one)
    assert wait_until(lambda: is_ready(one), 10)
    process = one.process
    keeper.end({"worker"}, [(signal.SIGTERM, 600)], hurry=lambda: True)
    assert process is not None
    assert process.returncode == -signal.SIGKILL


def test_lines_are_shown_and_kept(child: Callable[..., Child]) -> None:
    shown: list[str] = []
    keeper = Keeper(show=shown.append)
    one = child(READY, "worker-1@here")
    keeper.start(one)
    assert wait_until(lambda: bool(shown), 10)
    keeper.end({"worker"}, [(signal.SIGTERM, 10)])
    assert shown == ["      worker-1 | ready"]
    assert one.tail() == "ready"


def test_a_large_log_is_set_aside(keeper: Keeper, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.keeper.LOG_SIZE", 10)
    one = child(READY)
    one.log.parent.mkdir()
    one.log.write_text("x" * 11)
    keeper.start(one)
    assert wait_until(lambda: is_ready(one), 10)
    assert one.tail() == "ready"
    assert one.log.with_suffix(".log.1").read_text() == "x" * 11


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_parent_takes_its_children_along() -> None:
    code = (
        "import sys, threading, time; from avtomatika.processes import spawn; made = []; "
        f"t = threading.Thread(target=lambda: made.append(spawn([sys.executable, '-c', {READY!r}]))); "
        "t.start(); t.join(); time.sleep(0.1); print(made[0].pid, made[0].poll(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lines = iter(parent.stdout.readline, "")
        pid, code_so_far = next(line for line in lines if line[0].isdigit()).split()
        assert code_so_far == "None"  # it outlived the thread that asked for it
        assert alive(int(pid))
        parent.kill()
        assert wait_until(lambda: not alive(int(pid)), 10)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = spawn(["/no/such/program"], stdout=log)
    assert process.wait(10) == 1
    assert "/no/such/program: No such file" in (tmp_path / "log").read_text()
