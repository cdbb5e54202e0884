"""Calls that share a round trip: what is asked for while one is on its way goes together with the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: A call that takes longer holds up no other one: its connection may be dead, and nobody knows yet.
HOLD_SECONDS = 0.1


class SharedCalls(Generic[T, R]):
    """Many callers, one call at a time, as a database groups commits: a call alone goes at once, those that come until its answer
    is there go together after it. A caller that gives up leaves the calls of the others alone.

    Args:
        send: makes one call for some items, and gives what came of each, in their order. What it raises, all their callers get.
        most: how many items go together.
        most_bytes: where they have so many bytes together, no further one is added.
    """

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int, most_bytes: int) -> None:
        self._send = send
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()
        self._late: asyncio.TimerHandle | None = None  # when those that wait go, though the call before has no answer
        self._awaited: object | None = None  # names the call whose end lets the next ones go
        self._calls: set[asyncio.Task[None]] = set()  # else they might be collected

    async def __call__(self, item: T, size: int) -> R:
        """What came of this item, which has so many bytes."""
        if self._awaited is None:
            turn = self._awaited = object()
            try:
                [result] = await self._send([item])
                return result
            finally:
                self._ended(turn)
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, size, answer))
        self._limit_wait()
        return await answer

    def _limit_wait(self) -> None:
        if self._late is None and self._waiting:
            self._late = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._go)

    def _ended(self, call: object) -> None:
        if self._awaited is call:  # else it was late, and the next ones are on their way
            self._awaited = None
            self._go()

    def _go(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if batch := self._next():
            call = self._awaited = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            call.add_done_callback(self._ended)
            self._limit_wait()

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        size = 0
        while self._waiting and len(batch) < self._most and size < self._most_bytes:
            item, own, answer = self._waiting.popleft()
            if not answer.done():  # else its caller has given up
                batch.append((item, answer))
                size += own
        return batch

    async def _call(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._send([item for item, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except Exception as exc:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(exc)
        except asyncio.CancelledError:  # the loop ends
            for _, answer in batch:
                answer.cancel()
            raise
