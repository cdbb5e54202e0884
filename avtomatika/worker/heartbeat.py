"""The heartbeat of a process: an empty one at an interval, and one with the record as soon as something in it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import WorkerRecord

if TYPE_CHECKING:
    from avtomatika.runtime import Runtime

logger = logging.getLogger(__name__)

#: Between two looks at the record while changes go on; the first change is told at once.
CHANGES_SECONDS = 0.5


class Heartbeat:
    """
    Args:
        record: makes the record of what the process is now.
        stop: cancels the attempts of these ids: those of which no control message may have told this process.
        replaced: ends this process: another one lives under its name.
    """

    def __init__(
        self,
        runtime: Runtime,
        record: Callable[[], WorkerRecord],
        stop: Callable[[Sequence[str]], object],
        replaced: Callable[[], object],
    ) -> None:
        self._runtime = runtime
        self._record = record
        self._stop = stop
        self._replaced = replaced
        self._loop = runtime.loop
        self._told: WorkerRecord | None = None  # None: what the store knows is not what it should
        self._looked_at = float("-inf")
        self._beaten_at = float("-inf")
        self._changed = asyncio.Event()
        self._pending = False

    def changed(self) -> None:
        """The record may have changed. Any thread may say so, on the way of every task: mostly it costs a look at a flag."""
        if not self._pending:
            self._pending = True
            with suppress(RuntimeError):  # the loop has ended: so has the process, nearly
                self._loop.call_soon_threadsafe(self._changed.set)

    async def register(self) -> WorkerRecord:
        """Registers the process, and publishes what there is room for with it. Raises what the store raises."""
        record = self._record()
        done = await self._runtime.store.register(record, record.seen_at, self._runtime.settings.silence)
        self._told = record
        self._beaten_at = self._loop.time()
        if done.outbox:
            await self._runtime.publisher.flush(done.outbox)
        return record

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong with one heartbeat, the next one comes: silence means death."""
        while True:
            due = self._beaten_at + self._runtime.settings.heartbeat
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
                    await asyncio.sleep(self._looked_at + CHANGES_SECONDS - self._loop.time())
            now = self._loop.time()
            try:
                record = self._news(now) if self._told is None or self._changed.is_set() else None
                if record is None and now < due:
                    continue
                self._beaten_at = now  # also where it fails: the next one then comes an interval later
                await self._beat(record)
            except StoreUnavailableError as exc:
                self._told = None
                logger.warning("a heartbeat is lost: %s", exc, extra={"action": "heartbeat"})
            except Exception:
                self._told, self._beaten_at = None, now
                logger.exception("a heartbeat failed", extra={"action": "heartbeat"})

    def _news(self, now: float) -> WorkerRecord | None:
        """The record, where it says something else than what was told."""
        self._looked_at = now
        self._changed.clear()
        self._pending = False  # before the record is made: what changes from now on is told by the next one
        record = self._record()
        same = self._told is not None and replace(self._told, seen_at=record.seen_at) == record
        return None if same else record

    async def _has_successor(self, now: float) -> bool:
        """Whether a live process of another boot has this one's id: registering again would end it."""
        runtime = self._runtime
        workers = await runtime.store.workers(now)
        return any(worker.id == runtime.worker_id and worker.boot_id != runtime.boot_id for worker in workers)

    async def _beat(self, record: WorkerRecord | None) -> None:
        runtime = self._runtime
        now = runtime.clock()
        if await runtime.store.heartbeat(runtime.worker_id, runtime.boot_id, now, runtime.settings.silence, record):
            self._told = record or self._told
        elif await self._has_successor(now):
            logger.critical(
                "another process is registered as %s: this one stops; each worker process needs a name of its own (-n)",
                runtime.worker_id,
                extra={"action": "replaced", "worker_id": runtime.worker_id},
            )
            self._replaced()
        else:
            logger.warning("this process was counted as dead; it registers again", extra={"action": "register"})
            await self.register()
        stops = await runtime.store.take_stops(runtime.boot_id)
        if stops:
            self._stop(stops)
