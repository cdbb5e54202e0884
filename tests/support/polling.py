"""Waiting for something to become true, with a deadline instead of a sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 60.0
"""Seconds; generous, for a slow and shared machine. Nothing waits longer than it has to."""


class NotInTime(AssertionError):
    """What a test waited for did not happen before the deadline."""

    def __init__(self, what: str, deadline: float, last: object) -> None:
        super().__init__(f"{what} did not happen within {deadline:g} s; the last look gave {last!r}")


def eventually(
    look: Callable[[], T],
    *,
    deadline: float = DEADLINE,
    interval: float = 0.05,
    what: str | None = None,
    retry: tuple[type[BaseException], ...] = (AssertionError, OSError),
) -> T:
    """Calls `look` until it returns something true, and returns that. Exceptions in `retry` count as "not yet"."""
    end = time.monotonic() + deadline
    while True:
        last: object
        try:
            value = look()
        except retry as exc:
            last = exc
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= end:
            raise NotInTime(what or _name(look), deadline, last) from (last if isinstance(last, BaseException) else None)
        time.sleep(interval)


async def eventually_async(
    look: Callable[[], Awaitable[T]],
    *,
    deadline: float = DEADLINE,
    interval: float = 0.05,
    what: str | None = None,
    retry: tuple[type[BaseException], ...] = (AssertionError, OSError),
) -> T:
    """The same for a coroutine function."""
    end = time.monotonic() + deadline
    while True:
        last: object
        try:
            value = await look()
        except retry as exc:
            last = exc
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= end:
            raise NotInTime(what or _name(look), deadline, last) from (last if isinstance(last, BaseException) else None)
        await asyncio.sleep(interval)


def _name(look: object) -> str:
    return getattr(look, "__qualname__", repr(look))
