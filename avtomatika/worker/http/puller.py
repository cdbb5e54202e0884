"""Polls: as many as there is room for, one at an orchestrator, at those whose turn it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from avtomatika.worker.http.backoff import Backoff
from avtomatika.worker.http.client import NotRegistered, Refused, Task, Unavailable
from avtomatika.worker.http.link import Link
from avtomatika.worker.http.rotation import Rank, Rotation
from avtomatika.worker.http.slots import Slots

logger = logging.getLogger(__name__)

#: How long a poll is held where others have to get their turn.
SHORT_SECONDS = 2.0
#: Between two polls of an orchestrator that has nothing and answers sooner than it should.
LEAST_SECONDS = 1.0
#: One that had nothing rests for so many times as long as it was asked, while others have work: it takes a fifth at most.
REST = 4


class Puller:
    """
    Args:
        start: runs a task that a link gave.
        backlog: an orchestrator that has not taken so many results is not asked for more work.
    """

    def __init__(
        self, links: Sequence[Link], ranks: Sequence[Rank], slots: Slots, start: Callable[[Task, Link], object], backlog: int
    ) -> None:
        self._links = {link.url: link for link in links}
        self._rotation = Rotation(dict(zip(self._links, ranks, strict=True)))
        self._slots = slots
        self._start = start
        self._backlog = backlog
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._backoffs = {url: Backoff(LEAST_SECONDS, 30.0) for url in self._links}
        self._rests_until = dict.fromkeys(self._links, float("-inf"))
        self._changed = asyncio.Event()
        self._closing = False

    def changed(self) -> None:
        """A slot was taken or given back, an orchestrator was found or lost; call it on the loop."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled, with all its polls."""
        try:
            while True:
                self._changed.clear()
                self._end_lost()
                wait = self._begin()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait)
        finally:
            polls = tuple(self._polls.values())
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)

    async def close(self, seconds: float) -> None:
        """Asks for nothing more. All are told so before polls are given up: what comes until then still runs."""
        self._closing = True
        telling = [asyncio.ensure_future(link.tell()) for link in self._links.values() if link.connected]
        try:
            if telling:
                await asyncio.wait(telling, timeout=seconds)
        finally:
            for one in telling:
                one.cancel()
            await asyncio.gather(*telling, return_exceptions=True)

    def _end_lost(self) -> None:
        """A connection that is broken half-way would hold its poll for long."""
        for url, poll in self._polls.items():
            if self._links[url].broken:
                poll.cancel()

    def _begin(self) -> float | None:
        """Begins the polls that there is room for; seconds until a paused orchestrator may be asked again."""
        if self._closing:
            return None
        now = asyncio.get_running_loop().time()
        tier = self._rotation.tier([url for url, link in self._links.items() if link.connected or not link.tried])
        waiting = [
            url
            for url in tier
            if self._links[url].connected and url not in self._polls and self._links[url].outbox.backlog < self._backlog
        ]
        paused = {url: self._links[url].paused_until for url in waiting if self._links[url].paused_until > now}
        candidates = [url for url in waiting if url not in paused]
        room = self._slots.room - len(self._polls)
        while room > 0 and candidates:
            awake = [url for url in candidates if self._rests_until[url] <= now]
            url = self._rotation.next(awake or candidates)
            candidates.remove(url)
            shared = len(tier) > self._slots.room or not self._rotation.is_first(url)
            self._polls[url] = asyncio.get_running_loop().create_task(self._poll(self._links[url], shared))
            room -= 1
        return min(paused.values()) - now if paused else None

    async def _poll(self, link: Link, short: bool) -> None:
        loop = asyncio.get_running_loop()
        backoff = self._backoffs[link.url]
        began = loop.time()
        try:
            await link.tell()
            task = await link.client.next_task(SHORT_SECONDS if short else None)
            backoff.reset()
            if task is not None:
                self._rests_until[link.url] = began
                self._start(task, link)
            else:
                self._rests_until[link.url] = loop.time() + REST * (loop.time() - began)
                link.paused_until = max(link.paused_until, began + LEAST_SECONDS)
        except NotRegistered:
            link.not_registered()
        except (Unavailable, Refused) as exc:
            logger.debug("a poll failed: %s", exc, extra={"action": "poll"})
            failure = exc if isinstance(exc, Unavailable) else Unavailable(str(exc), answered=True)
            link.paused_until = loop.time() + backoff.next(failure.retry_after)
            link.lost(failure)
        finally:
            self._polls.pop(link.url, None)
            self._changed.set()
