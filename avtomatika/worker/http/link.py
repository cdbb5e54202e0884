"""This worker's standing with one orchestrator: registered, heartbeating, and whether it answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from avtomatika.results import JSON
from avtomatika.worker.http.backoff import Backoff
from avtomatika.worker.http.client import Client, NotRegistered, Refused, Unavailable
from avtomatika.worker.http.outbox import Outbox

logger = logging.getLogger(__name__)

#: Between two reports of changes while changes go on; the first one is told at once, and so is what may come now.
CHANGES_SECONDS = 0.5


class Link:
    """
    Args:
        describe: what the worker is, as it registers.
        state: what changes: load, status, supported tasks, models.
        cancel: is told of tasks that a heartbeat's answer cancels.
        on_change: called when the orchestrator is found or lost.

    Attributes:
        connected: it answered last time, and knows this worker.
        broken: it did not answer at all last time.
        tried: it has answered once, or failed to; until then nobody knows whether it is there.
        last_seen: when it answered last, seconds since the epoch.
        refused: why it did not let this worker in, where it has never done so.
        paused_until: no polls before this time of the loop: it said 429.
    """

    def __init__(
        self,
        client: Client,
        outbox: Outbox,
        *,
        describe: Callable[[], JSON],
        state: Callable[[], JSON],
        cancel: Callable[[str], object],
        on_change: Callable[[], None],
        interval: float,
    ) -> None:
        self.client = client
        self.outbox = outbox
        self._describe = describe
        self._state = state
        self._cancel = cancel
        self._on_change = on_change
        self._interval = interval
        self._backoff = Backoff(0.5, min(15.0, interval))
        self._told: JSON | None = None  # None: what it knows is not what it should
        self._looked_at = self._beaten_at = float("-inf")
        self._changed = asyncio.Event()
        self._patching = asyncio.Lock()
        self._registered = False
        self._was_registered = False
        self.connected = False
        self.broken = False
        self.tried = False
        self.last_seen: float | None = None
        self.refused: str | None = None
        self.paused_until = float("-inf")

    @property
    def url(self) -> str:
        return self.client.url

    def changed(self) -> None:
        """The state may have changed; call it on the loop."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong with one call, the next one comes."""
        while True:
            try:
                if not self._registered:
                    await self._register()
                else:
                    await self._next_beat()
            except NotRegistered as exc:
                logger.warning("%s; it registers again", exc, extra={"action": "register"})
                self.not_registered()
                await asyncio.sleep(self._backoff.next())
            except Unavailable as exc:
                self.lost(exc)
                await asyncio.sleep(min(self._interval, self._backoff.next(exc.retry_after)))  # silence means death
            except Refused as exc:
                self._refuse(exc)
                await asyncio.sleep(self._backoff.next())

    def lost(self, exc: Unavailable) -> None:
        """A call failed: here, or a poll. Where it asked for patience only, it is still there."""
        if exc.status == 401:
            self._refuse(Refused(str(exc), 401))
            return
        if exc.status == 429:
            self.paused_until = asyncio.get_running_loop().time() + (exc.retry_after or self._backoff.next())
            self._seen()
            return
        self.broken = not exc.answered
        if self.connected:
            logger.warning("%s; it is tried again", exc, extra={"action": "connection_lost"})
        else:
            logger.debug("%s", exc, extra={"action": "connect"})
        self._disconnect()

    def not_registered(self) -> None:
        """It does not know this worker: from the next turn of `run` on it does again."""
        self._registered = False
        self._disconnect()

    async def tell(self) -> None:
        """Makes sure that it knows which tasks could start now: no other may come. Raises what the client raises."""
        async with self._patching:
            state = self._state()
            if self._takes_others(state):
                await self._patch(state)

    async def _register(self) -> None:
        await self.outbox.round()  # before it registers, which ends what its predecessor had been given
        async with self._patching:
            state = self._state()
            await self.client.register({**self._describe(), **state})
            self._told = state
            self._registered = self._was_registered = True
            self.refused = None
            self._beat_now()
        logger.info("registered with %s", self.url, extra={"action": "register"})
        self._connect()

    async def _next_beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = self._beaten_at + self._interval if self.connected else loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._wait_for_news()
        self._looked_at = loop.time()
        self._changed.clear()
        async with self._patching:
            state = self._state()
            if state != self._told:
                await self._patch(state)
            elif not self.connected or loop.time() >= self._beaten_at + self._interval:
                await self._patch(None)
        self._connect()

    async def _wait_for_news(self) -> None:
        """Until there is something to tell, and it is time to: what may come now is told at once, a load can wait a moment."""
        await self._changed.wait()
        loop = asyncio.get_running_loop()
        while not self._takes_others(self._state()) and (left := self._looked_at + CHANGES_SECONDS - loop.time()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _takes_others(self, state: JSON) -> bool:
        """Whether other tasks could start now than the orchestrator knows of."""
        return self._told is None or self._told["supported_tasks"] != state["supported_tasks"]

    async def _patch(self, state: JSON | None) -> None:
        self._told, told = None, self._told  # until it has answered, nobody knows what it knows
        answer = await self.client.patch(state)
        self._told = told if state is None else state
        self._beat_now()
        cancels = answer.get("cancel_tasks")
        for task_id in cancels if isinstance(cancels, list) else ():
            self._cancel(str(task_id))

    def _beat_now(self) -> None:
        self._beaten_at = asyncio.get_running_loop().time()
        self._seen()

    def _seen(self) -> None:
        self.last_seen = time.time()

    def _connect(self) -> None:
        self._backoff.reset()
        self.broken = False
        if not self.connected:
            self.connected = self.tried = True
            logger.info("connected with %s", self.url, extra={"action": "connect"})
            self.outbox.kick()
            self._on_change()

    def _disconnect(self) -> None:
        if self.connected or not self.tried:
            self.connected, self.tried = False, True
            self._changed.set()  # `run` may be waiting for the next heartbeat
            self._on_change()

    def _refuse(self, exc: Refused) -> None:
        logger.error("this worker is refused: %s", exc, extra={"action": "register"})
        if not self._was_registered:
            self.refused = str(exc)
            self._on_change()
        self._disconnect()
