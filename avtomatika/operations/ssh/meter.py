"""How far a transfer is, and how fast it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from avtomatika.operations.context import OperationContext
from avtomatika.operations.types import TaskStatus

#: Seconds between two reports.
_EVERY = 0.4
#: The rate is that of about so many seconds.
_MEMORY_SECONDS = 3.0


class Meter:
    """Counts what all threads of an operation have moved, and reports it.

    Attributes:
        bytes, files: moved now; what was there already does not count.
    """

    def __init__(
        self, op: OperationContext, status: TaskStatus, total: int, files: int = 1, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._op = op
        self._status = status
        self._total = total
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._there_bytes = 0
        self._there_files = 0
        self._said_at = 0.0
        self._rate = 0.0
        self._at = (clock(), 0)
        self.bytes = 0
        self.files = 0

    def add(self, size: int) -> None:
        with self._lock:
            self.bytes += size
            self._say()

    def file_done(self) -> None:
        with self._lock:
            self.files += 1
            self._say()

    def there(self, size: int, files: int = 0) -> None:
        """So many bytes (and whole files) need not be moved."""
        with self._lock:
            self._there_bytes += size
            self._there_files += files
            self._say()

    @property
    def fraction(self) -> float:
        if self._total:
            return min(1.0, (self.bytes + self._there_bytes) / self._total)
        return min(1.0, (self.files + self._there_files) / self._files) if self._files else 1.0

    @property
    def text(self) -> str:
        done = self.bytes + self._there_bytes
        parts = [f"{size_text(done)} of {size_text(self._total)}"]
        if self._files > 1:
            parts.append(f"{self.files + self._there_files} of {self._files} files")
        if self._rate > 0:
            parts.append(f"{size_text(int(self._rate))}/s")
            if self._total > done:
                parts.append(f"{_seconds_text((self._total - done) / self._rate)} left")
        return ", ".join(parts)

    def _say(self) -> None:
        now = self._clock()
        if now - self._said_at < _EVERY:
            return
        self._said_at = now
        before, moved = self._at
        if now > before:
            rate = (self.bytes - moved) / (now - before)
            weight = min(1.0, (now - before) / _MEMORY_SECONDS)
            self._rate = rate if not self._rate else self._rate + weight * (rate - self._rate)
            self._at = (now, self.bytes)
        self._op.progress(self.fraction, self.text, self._status)


def size_text(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _seconds_text(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
