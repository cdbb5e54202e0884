"""What a running operation may ask for and say. Everything here may be called from its thread and from the event loop."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from avtomatika.jobs import Client
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import HostEntry
from avtomatika.operations.credentials import Credential, resolve
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from avtomatika.operations.policy import Permit
from avtomatika.operations.secrets import Mask, printable
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Lines kept until they are sent; a flood loses its oldest ones.
_MAX_LINES = 1000


@dataclass
class Report:
    """What an operation said since it was last asked."""

    progress: float | None = None
    step: str = ""
    status: TaskStatus = TaskStatus.RUNNING
    lines: list[tuple[float, str]] = field(default_factory=list)


class OperationContext:
    """
    Attributes:
        task_id: of this attempt.
        job_id: the queue task's id, or that of the job whose blueprint dispatched the operation.
        key: the same for every attempt at this work, and for no other: names of part files are made of it.
        attempt: 1 for the first.
        permit: what its client may do.
        deadline: when its time is over, by `time.monotonic()`; None without one.
    """

    def __init__(
        self,
        type_: str,
        params: JSON,
        permit: Permit,
        *,
        task_id: str = "",
        job_id: str = "",
        attempt: int = 1,
        seconds: float | None = None,
    ) -> None:
        self.type = type_
        self.permit = permit
        self.task_id = task_id
        self.job_id = job_id
        self.attempt = attempt
        self.key = hashlib.sha256(json.dumps([job_id, type_, params], sort_keys=True).encode()).hexdigest()[:16]
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.mask = Mask()
        self._lock = threading.Lock()
        self._progress = 0.0
        self._step = ""
        self._status = TaskStatus.RUNNING
        self._changed = False
        self._lines: deque[tuple[float, str]] = deque(maxlen=_MAX_LINES)
        self._stop: StopReason | None = None
        self._stopped = threading.Event()
        self._on_stop: list[Callable[[], Any]] = []

    @property
    def client(self) -> Client:
        return self.permit.client

    # What it says

    def progress(self, value: float, step: str | None = None, status: TaskStatus | None = None) -> None:
        """How far it is, 0..1 (it never goes back), what it does, in words and as an intermediate status."""
        with self._lock:
            self._progress = max(self._progress, min(1.0, max(0.0, value)))
            self._step = self._step if step is None else step
            self._status = status or self._status
            self._changed = True

    @property
    def progress_so_far(self) -> float:
        return self._progress

    def log(self, text: str) -> None:
        """A line of the task's log, or several; secrets in it are masked, and control characters taken out."""
        now = time.time()
        with self._lock:
            self._lines.extend((now, self.mask(printable(line))) for line in text.splitlines() or [""])

    def take_report(self) -> Report | None:
        """What has changed since the last call; None where nothing has."""
        with self._lock:
            if not self._changed and not self._lines:
                return None
            report = Report(
                self._progress if self._changed else None, self.mask(printable(self._step)), self._status, list(self._lines)
            )
            self._changed = False
            self._lines.clear()
            return report

    # What it is told

    def checkpoint(self) -> None:
        """Call it often. Raises OperationStopped where the operation is to stop."""
        if self._stop is not None:
            raise OperationStopped(self._stop)

    def wait(self, seconds: float) -> None:
        """Sleeps in its thread, and wakes up with OperationStopped where the operation is to stop."""
        self._stopped.wait(seconds)
        self.checkpoint()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it is to stop; None while it is not."""
        return self._stop

    def stop(self, reason: StopReason) -> None:
        """Tells it to stop; the first reason counts."""
        with self._lock:
            if self._stop is not None:
                return
            self._stop = reason
            callbacks = list(self._on_stop)
        self._stopped.set()
        for callback in callbacks:
            with suppress(Exception):
                callback()

    @contextmanager
    def on_stop(self, callback: Callable[[], Any]) -> Iterator[None]:
        """While the block runs, a stop calls this: for what waits in a library, such as closing its socket."""
        with self._lock:
            self._on_stop.append(callback)
        try:
            self.checkpoint()
            yield
        finally:
            with self._lock:
                self._on_stop.remove(callback)

    def seconds_left(self, most: float | None = None) -> float | None:
        """Until its deadline, at most `most`; None where neither bounds it."""
        if self.deadline is None:
            return most
        left = max(0.0, self.deadline - time.monotonic())
        return left if most is None else min(left, most)

    # What it may use

    def host(self, name: str) -> HostEntry:
        """A host that its client may use; OperationError for any other."""
        return self.permit.host(name)

    def credential(self, name: str | None) -> Credential:
        """A credential, resolved now; what is secret in it is masked from now on wherever this operation is shown."""
        entry = self.permit.config.credentials.get(name or "")
        if entry is None:
            raise OperationError(
                TaskErrorCode.VALIDATION_INVALID_PARAMS,
                f"there is no credential {name!r}: add [credentials.{name}] to OPERATIONS_CONFIG_PATH",
            )
        found = resolve(entry)
        for secret in found.secrets:
            self.hide(secret)
        return found

    def hide(self, secret: str) -> None:
        """From now on this text is masked in what the operation says, logs, returns and fails with."""
        self.mask.add(secret)
