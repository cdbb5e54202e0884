"""Child processes that never outlive this one, and their orderly end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, ClassVar

Process = subprocess.Popen[bytes]
_LAUNCHER = Path(__file__).with_name("_child.py")


def spawn(
    argv: Sequence[str],
    *,
    sig: int = signal.SIGKILL,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] = subprocess.STDOUT,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Starts a program in a session (and so a process group) of its own; it gets `sig` when this process dies, however it dies.

    Its stderr goes to its stdout, unless told otherwise. The terminal's Ctrl-C does not reach it.
    """

    def start() -> Process:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(_LAUNCHER), str(int(sig)), str(os.getpid()), *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )

    return _Starter.instance().run(start)


def signal_group(process: Process, sig: int) -> None:
    """Sends a signal to all of a child's process group, which may outlive the child itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sig)


def end(processes: Sequence[Process], *steps: tuple[int, float], hurry: Callable[[], bool] = lambda: False) -> bool:
    """Ends children together by steps of (signal, seconds to wait), then kills what is left of their groups.

    `hurry` goes straight to the kill. Returns whether all ended without it.
    """
    for sig, patience in steps:
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(sig)
        deadline = time.monotonic() + patience
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline and not hurry():
            time.sleep(0.02)
    orderly = all(process.poll() is not None for process in processes)
    for process in processes:
        signal_group(process, signal.SIGKILL)
        process.wait()
    return orderly


def alive(pid: int) -> bool:
    """Whether a process of this id exists (and is more than a zombie, where that can be told)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.02) -> bool:
    """Polls until the condition holds; false where it did not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(step)
    return True


class _Starter:
    """The one thread in which children are started: for the kernel a child's parent is a thread, so it must never end."""

    _current: ClassVar[tuple[int, _Starter] | None] = None
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Process], Future[Process]]] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="avtomatika-children", daemon=True).start()

    @classmethod
    def instance(cls) -> _Starter:
        with cls._guard:
            # A forked process inherits the object, but not the thread.
            if cls._current is None or cls._current[0] != os.getpid():
                cls._current = (os.getpid(), cls())
            return cls._current[1]

    def run(self, start: Callable[[], Process]) -> Process:
        future: Future[Process] = Future()
        self._jobs.put((start, future))
        return future.result()

    def _loop(self) -> None:
        while True:
            start, future = self._jobs.get()
            try:
                future.set_result(start())
            except BaseException as exc:
                future.set_exception(exc)
