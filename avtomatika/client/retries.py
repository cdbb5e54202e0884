"""When a call is sent again, and after what pause."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx

from avtomatika.client.calls import Call

_TRY_LATER = frozenset({429, 502, 503, 504})
_NOTHING_WAS_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
#: However long an answer's Retry-After asks to wait, it is no longer than this.
MAX_ASKED = 60.0

Outcome = httpx.Response | httpx.TransportError


@dataclass(frozen=True, slots=True)
class Retries:
    """
    Attributes:
        attempts: how often a call is sent at most.
        base, cap: seconds of the first pause, which doubles, and of the longest one; each is shortened at random by up to half.
    """

    attempts: int = 5
    base: float = 0.2
    cap: float = 5.0

    def patient(self) -> Retries:
        """For streams: they come back after a restart of the facade."""
        return replace(self, attempts=self.attempts * 3)

    def pause(self, attempt: int, outcome: Outcome, chance: Callable[[], float] = random.random) -> float | None:
        """Seconds until the next attempt; None where this one (1 for the first) was the last."""
        if attempt >= self.attempts:
            return None
        backoff = min(self.cap, self.base * 2.0 ** (attempt - 1)) * (0.5 + chance() / 2)
        asked = _retry_after(outcome)
        # All who were told the same time do not come at the same moment.
        return backoff if asked is None else max(backoff, asked + self.base * chance())


def may_repeat(call: Call[Any], outcome: Outcome) -> bool:
    """Whether sending it again can help, and can do no harm: an order may only be repeated where it was surely not taken."""
    if isinstance(outcome, httpx.Response):
        return outcome.status_code == 429 or (call.repeatable and outcome.status_code in _TRY_LATER)
    return call.repeatable or isinstance(outcome, _NOTHING_WAS_SENT)


def _retry_after(outcome: Outcome) -> float | None:
    if not isinstance(outcome, httpx.Response):
        return None
    text = outcome.headers.get("Retry-After", "").strip()
    return min(MAX_ASKED, float(text)) if text.isascii() and text.isdigit() else None
