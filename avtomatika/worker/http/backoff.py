"""How long to wait before the next try."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime


@dataclass(slots=True)
class Backoff:
    """Waits that double up to a longest one, each between a half and all of that.

    Attributes:
        first, longest: seconds.
    """

    first: float = 0.5
    longest: float = 30.0
    chance: Callable[[], float] = random.random
    _tries: int = field(default=0, init=False)

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait now; `at_least` is what the other side asked for."""
        whole = min(self.longest, self.first * 2.0 ** min(self._tries, 60))
        self._tries += 1
        return max(at_least or 0.0, whole * (0.5 + 0.5 * self.chance()))

    def reset(self) -> None:
        self._tries = 0


#: Nobody is made to wait longer than this by a Retry-After.
LONGEST_RETRY_AFTER = 600.0


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it holds neither."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
