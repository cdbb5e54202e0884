"""The demo's own machine: `avtomatika up` as a child process on a temporary data directory and a free port."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from avtomatika.errors import AvtomatikaError
from avtomatika.processes import Process, end, spawn

START_SECONDS = 150.0  # `up` itself gives up after 120, and says which process is missing
STOP_SECONDS = 20.0

# Settings of the user's own installation: the demo must touch neither their Redis nor their tokens.
_THEIRS = (
    "API_HOST",
    "API_PORT",
    "AVTOMATIKA_SETTINGS",
    "AVTOMATIKA_URL",
    "BLUEPRINTS_DIR",
    "BROKER_URL",
    "CELERY_",
    "CLIENTS_CONFIG_PATH",
    "CLIENT_TOKEN",
    "GLOBAL_WORKER_TOKEN",
    "HISTORY_DATABASE_URI",
    "NAMESPACE",
    "QUEUE_PREFIX",
    "RATE_LIMIT",
    "REDIS_",
    "WORKERS_CONFIG_PATH",
    "WORKERS_DIR",
)


class DemoError(AvtomatikaError):
    """The demo could not do what it shows."""


@dataclass
class Machine:
    """Starts everything on entering, stops all of it on leaving. The data directory is removed unless something failed.

    Attributes:
        workers: how many worker processes.
        keep: leave the data directory in place, whatever happens.
    """

    examples: Path
    workers: int = 1
    keep: bool = False
    data_dir: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="avtomatika-demo-")))
    url: str = ""
    _up: Process | None = None

    @property
    def log(self) -> Path:
        return self.data_dir / "up.log"

    @property
    def token(self) -> str:
        return (self.data_dir / "client-token").read_text(encoding="utf-8").strip()

    async def __aenter__(self) -> Machine:
        try:
            await self._start()
        except BaseException as exc:
            await self.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        up, self._up = self._up, None
        if up is not None:
            await asyncio.to_thread(end, [up], (signal.SIGTERM, STOP_SECONDS))
        if not self.keep and not isinstance(exc, Exception):
            await asyncio.to_thread(shutil.rmtree, self.data_dir, ignore_errors=True)

    async def _start(self) -> None:
        argv = [sys.executable, "-m", "avtomatika", "up", "--port", "0", "--data-dir", str(self.data_dir)]
        argv += ["--blueprints", str(self.examples / "blueprints"), "--workers", str(self.examples / "workers")]
        argv += ["--worker-count", str(self.workers)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(_THEIRS)}
        with self.log.open("wb") as log:
            # Not in the caller's folder: an avtomatika.toml there is not the demo's.
            self._up = await asyncio.to_thread(spawn, argv, sig=signal.SIGTERM, env=env, stdout=log, cwd=self.data_dir)
        deadline = time.monotonic() + START_SECONDS
        while not self.url:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"`avtomatika up` was not ready after {START_SECONDS:.0f} s; {self.where_to_look()}")
            found = re.search(r"^ready (http://\S+)$", self._log_text(), re.MULTILINE)
            self.url = found[1].rstrip("/") if found else ""
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Raises DemoError where `up` has ended by itself."""
        if self._up is not None and self._up.poll() is not None:
            raise DemoError(f"`avtomatika up` ended with code {self._up.returncode}; {self.where_to_look()}")

    def where_to_look(self) -> str:
        """Names the logs, and quotes the end of the first one."""
        said = [line for line in self._log_text().splitlines() if not line.startswith(("token ", "worker-token "))]
        lines = "\n".join(said[-8:])
        return f"the logs are {self.log} and {self.data_dir / 'logs'}" + (f"\n{lines}" if lines else "")

    def _log_text(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
