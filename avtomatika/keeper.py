"""Keeps child processes alive: starts them, starts again what dies, gives up on what dies too often, ends them in order."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from avtomatika.errors import AvtomatikaError
from avtomatika.processes import Process, end, signal_group, spawn

logger = logging.getLogger(__name__)

DEATHS_ALLOWED = 5
DEATHS_WITHIN = 30.0
LOG_SIZE = 20 * 1024 * 1024


class ChildFailedError(AvtomatikaError):
    """A child process dies again and again; the message holds the last lines of its log."""


@dataclass(slots=True)
class Child:
    """A child process, how to start it (again), and when it died lately.

    Attributes:
        role: what it is one of; children of a role are ended together.
        started_at: seconds since the epoch, of the last start.
    """

    name: str
    role: str
    argv: Sequence[str]
    env: dict[str, str]
    log: Path
    process: Process | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS_ALLOWED))

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 16_000))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Keeper:
    """Children of one process. It has no thread of its own: call `check` now and then.

    Args:
        show: gets every line that a child writes, with the child's name before it; the lines go to its log file anyway.
    """

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self.children: list[Child] = []
        self._show = show

    def start(self, child: Child) -> None:
        """Starts a child and keeps it from now on."""
        if child not in self.children:
            self.children.append(child)
        child.restart_at = None
        child.started_at = time.time()
        child.log.parent.mkdir(exist_ok=True, mode=0o700)
        if child.log.exists() and child.log.stat().st_size > LOG_SIZE:
            child.log.replace(child.log.with_suffix(".log.1"))
        if self._show is None:
            with child.log.open("ab") as log:
                child.process = spawn(child.argv, env=child.env, stdout=log)
            return
        child.process = spawn(child.argv, env=child.env, stdout=subprocess.PIPE)
        assert child.process.stdout is not None
        threading.Thread(target=_pump, args=(child, child.process.stdout, self._show), daemon=True).start()

    def check(self) -> None:
        """Starts again what has died; raises ChildFailedError where a child dies too often."""
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._bury(child, child.process, now)
            if child.restart_at is not None and now >= child.restart_at:
                self.start(child)

    def end(self, roles: Collection[str], steps: Sequence[tuple[int, float]], hurry: Callable[[], bool] = lambda: False) -> None:
        """Ends the children of these roles together, by steps of (signal, seconds to wait), then kills what is left of them."""
        leaving = [child for child in self.children if child.role in roles]
        self.children = [child for child in self.children if child.role not in roles]
        if not end([child.process for child in leaving if child.process is not None], *steps, hurry=hurry):
            names = ", ".join(child.name for child in leaving)
            logger.warning("killed what did not end in time, of %s", names, extra={"action": "killed"})

    def _bury(self, child: Child, process: Process, now: float) -> None:
        code = process.returncode
        signal_group(process, signal.SIGKILL)  # what it had started itself
        child.process = None
        child.deaths.append(now)
        lately = [at for at in child.deaths if now - at <= DEATHS_WITHIN]
        if len(lately) >= DEATHS_ALLOWED:
            raise ChildFailedError(
                f"{child.name} ended {len(lately)} times in {DEATHS_WITHIN:.0f} s, last with code {code}; "
                f"the end of {child.log}:\n{child.tail()}"
            )
        child.restart_at = now + 0.1 * 2 ** len(lately)
        logger.warning(
            "%s ended with code %s and is started again",
            child.name,
            code,
            extra={"action": "child_restart", "child": child.name},
        )


def _pump(child: Child, lines: IO[bytes], show: Callable[[str], None]) -> None:
    with lines, child.log.open("ab", buffering=0) as log:
        for line in lines:
            log.write(line)
            # A terminal that is gone must not stop the reading: the child would wait for it for ever.
            with contextlib.suppress(OSError):
                show(f"{child.name.partition('@')[0]:>14} | {line.decode(errors='replace').rstrip()}")
