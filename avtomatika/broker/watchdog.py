"""Notices what has stopped without an error: a consumer that fetches no more, a hub or an event loop that does not turn.

A consumer is connected anew. A thread that hangs cannot be freed from outside: the log says where it is, and after a longer time
the process ends, so that whatever keeps it alive starts it again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from kombu.exceptions import ChannelError

from avtomatika.broker.consumer import CapabilityConsumer, CapabilityConsumerStep
from avtomatika.broker.slots import Lane
from avtomatika.settings import get_settings

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)


class Pulse:
    """Something that turns in a thread, and says so with each turn.

    Attributes:
        seen: when it last did; None while it is not expected to.
    """

    def __init__(self, name: str, ask: Callable[[Callable[[], None]], object] | None = None) -> None:
        """
        Args:
            ask: gets `beat`, to have it called at the next turn, where nothing calls it by itself.
        """
        self.name = name
        self.thread = 0
        self.seen: float | None = None
        self.told = False
        self._ask = ask

    def beat(self) -> None:
        """In its own thread, at each turn."""
        self.thread = threading.get_ident()
        self.seen = monotonic()

    def rest(self) -> None:
        """It is not expected to turn for now."""
        self.seen = None

    def ask(self) -> None:
        if self._ask is not None:
            self._ask(self.beat)

    def stack(self) -> str:
        """Where its thread is."""
        frame = sys._current_frames().get(self.thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"


class Watchdog:
    """Watches pulses, from a thread of its own.

    Args:
        seconds: after so long without a turn the log says where the thread is.
        exit_seconds: after so long the process ends; 0 for never.
        end: ends the process.
    """

    def __init__(self, seconds: float, exit_seconds: float, end: Callable[[], object] | None = None) -> None:
        self.pulses: list[Pulse] = []
        self._seconds = seconds
        self._exit_seconds = max(seconds, exit_seconds) if exit_seconds else float("inf")
        self._end = end or _end_process
        self._interval = min(1.0, seconds / 4)
        self._checked = self._since = monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="avtomatika-watchdog", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            for pulse in self.pulses:
                pulse.ask()
            sleep(self._interval)
            self.check(monotonic())

    def check(self, now: float) -> None:
        """Says what has not turned for too long."""
        if now - self._checked > 5 * self._interval:  # the whole process was stopped: nothing can have turned meanwhile
            self._since = now
        self._checked = now
        for pulse in self.pulses:
            seen = pulse.seen  # read once: its own thread changes it
            if seen is not None:
                self._judge(pulse, now - max(seen, self._since))

    def _judge(self, pulse: Pulse, silent: float) -> None:
        if silent < self._seconds:
            if pulse.told:
                logger.warning("the %s turns again", pulse.name, extra={"action": "watchdog"})
            pulse.told = False
            return
        if not pulse.told:
            pulse.told = True
            logger.error(
                "the %s has not turned for %.0f s; its thread is here:\n%s", pulse.name, silent, pulse.stack(),
                extra={"action": "watchdog"},
            )  # fmt: skip
        if silent >= self._exit_seconds:
            logger.critical(
                "the %s has not turned for %.0f s: the process ends, to be started again; its thread is here:\n%s",
                pulse.name, silent, pulse.stack(),
                extra={"action": "watchdog_exit"},
            )  # fmt: skip
            self._end()


def _end_process() -> None:
    """At once: whatever would be waited for at an orderly end may hang, too."""
    logging.shutdown()
    os._exit(os.EX_SOFTWARE)


class FetchWatch:
    """Whether a consumer fetches wherever it has room. Looks in the hub's thread."""

    def __init__(self, consumer: CapabilityConsumer, seconds: float) -> None:
        self._consumer = consumer
        self._seconds = seconds
        self._still: dict[str, tuple[Any, float]] = {}

    def look(self) -> None:
        """Raises ConnectionAbortedError, for which Celery connects anew, where a lane with room has not fetched for too long."""
        now = monotonic()
        for lane in self._consumer.open_lanes():
            sign = self._sign_of(lane)
            before, since = self._still.get(lane.name, (None, now))
            if sign is None or sign != before:
                since = now
            self._still[lane.name] = (sign, since)
            if sign is not None and now - since >= self._seconds and self._has_stopped(lane):
                logger.error(
                    "capability %s has free slots and fetches nothing: the consumer connects anew", lane.name,
                    extra={"action": "consumer_restart", "capability": lane.name},
                )  # fmt: skip
                raise ConnectionAbortedError(f"nothing was fetched for {lane.name} although it has free slots")

    def _sign_of(self, lane: Lane) -> Any:
        """What changes with each fetch; None where there is no room for one."""
        if not lane.may_fetch(lane.fetching):
            return None
        sent_at = getattr(lane.channel, "_brpop_sent_at", None)
        return ("sent", sent_at) if self._consumer.polls else ("start", lane.last_start)

    def _has_stopped(self, lane: Lane) -> bool:
        """On Redis fetches repeat every second. RabbitMQ sends by itself, and is asked whether it still knows this consumer."""
        if self._consumer.polls:
            return True
        try:
            counts = [lane.channel.queue_declare(name, passive=True).consumer_count for name in self._consumer.queues_of(lane)]
        except ChannelError:
            return True  # a queue is gone, and RabbitMQ has closed the channel
        self._still[lane.name] = (self._still[lane.name][0], monotonic())
        return 0 in counts


class WatchdogStep(bootsteps.StartStopStep):
    """Watches the hub and the pool's loop of a worker process, and its consumer, while it is connected."""

    requires = (CapabilityConsumerStep,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        settings = get_settings()
        self._seconds = settings.watchdog_seconds
        self.watchdog = Watchdog(self._seconds, settings.watchdog_exit_seconds)
        self.hub = Pulse("hub")
        self.watchdog.pulses.append(self.hub)
        loop: asyncio.AbstractEventLoop | None = getattr(c.pool, "loop", None)
        if loop is not None:
            pulse = Pulse("event loop", partial(_soon, loop))
            loop.call_soon_threadsafe(pulse.beat)
            self.watchdog.pulses.append(pulse)

    def start(self, c: Any) -> None:
        if c.hub is None:
            return
        self.hub.beat()
        watch = FetchWatch(c.task_consumer, self._seconds)
        c.hub.call_repeatedly(min(1.0, self._seconds / 4), self.hub.beat)
        c.hub.call_repeatedly(min(5.0, self._seconds / 4), watch.look)
        self.watchdog.start()

    def stop(self, c: Any) -> None:
        """Connecting anew, and draining, have their own bounds."""
        self.hub.rest()

    shutdown = terminate = stop


def _soon(loop: asyncio.AbstractEventLoop, beat: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(beat)
