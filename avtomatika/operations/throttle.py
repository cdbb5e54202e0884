"""What holds a transfer to its bandwidth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SAVED_SECONDS = 0.25


class Throttle:
    """A token bucket for all threads of an operation. What is taken beyond the rate is waited for.

    A transfer that stood still does not catch up: it saves up a quarter of a second's worth, not more.

    Args:
        rate: bytes a second; None for no limit.
    """

    def __init__(self, rate: int | None, wait: Callable[[float], None]) -> None:
        self._rate = rate
        self._wait = wait
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, size: int) -> None:
        """Waits until so many bytes more may go."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - _SAVED_SECONDS)
            self._free_at = until = start + size / self._rate
        if until > now:
            self._wait(until - now)
