"""Writes the history, by one orchestrator at a time: from the feed of all events into SQL, and what is too old out of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.exc import DBAPIError

from avtomatika.engine.leadership import Leadership
from avtomatika.engine.results import Engine
from avtomatika.errors import HistoryUnavailableError, StoreUnavailableError
from avtomatika.history.archive import Archive
from avtomatika.history.retention import STEPS
from avtomatika.history.writing import (
    Batch,
    Tail,
    read_position,
    read_tails,
    skip_entry,
    write_batch,
    write_workers,
)
from avtomatika.jobs import Event, WorkerRecord
from avtomatika.state.base import FeedEntry

logger = logging.getLogger(__name__)

LOCK = "history"
LOCK_SECONDS = 10.0
#: How often the feed is looked at while nothing happens.
PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
BATCH = 1000
#: What has been written stays in the feed for so long: facades, too, read there what happens.
KEPT_SECONDS = 60.0
_WORKERS_SECONDS = 30.0
_RETENTION_SECONDS = 60.0
DELETES_AT_ONCE = 20
_BETWEEN_DELETES = 0.05
#: Not that the database is away: something in a batch is none that it takes.
_MISFITS = (DBAPIError, ArithmeticError, TypeError, ValueError)


class Historian:
    """
    Args:
        batch: events in one transaction, at most.
        kept: seconds for which written events stay in the feed.
    """

    def __init__(self, engine: Engine, archive: Archive, *, batch: int = BATCH, kept: float = KEPT_SECONDS) -> None:
        self._store = engine.store
        self._settings = engine.settings
        self._engine = engine
        self._archive = archive
        self._database = archive.database
        self._namespace = engine.settings.namespace
        self._batch = batch
        self._kept = min(kept, engine.settings.job_retention_seconds)
        self._leadership = Leadership(self._store, LOCK, engine.boot_id, LOCK_SECONDS, lambda: engine.clock())
        self._position: str | None = None
        self._workers: dict[str, WorkerRecord] = {}
        self._next_workers = self._next_retention = self._next_trim = 0.0
        self._full = False

    async def run(self) -> None:
        """Until cancelled. A database or a store that is away is waited for, longer and longer."""
        pause = PAUSE_SECONDS
        try:
            while True:
                try:
                    if await self._leadership.take():
                        await self._leadership.during(self._write())
                    pause = PAUSE_SECONDS
                except HistoryUnavailableError as exc:
                    logger.warning("the history waits %.3g s: %s", pause, exc, extra={"action": "history_waits"})
                    await self._warn_if_full()
                    pause = min(MAX_PAUSE_SECONDS, pause * 2)
                except StoreUnavailableError as exc:
                    logger.warning("the history waits for the state store: %s", exc, extra={"action": "history_waits"})
                except Exception:
                    logger.exception("the history's writer failed and begins again", extra={"action": "history_failed"})
                    pause = min(MAX_PAUSE_SECONDS, pause * 2)
                self._position = None
                await asyncio.sleep(pause)
        finally:
            await asyncio.shield(self._leadership.leave())
            await self._archive.close()

    async def _write(self) -> None:
        """For as long as this process leads and the database answers."""
        await self._archive.prepare()
        logger.info("this orchestrator writes the history now", extra={"action": "lead"})
        while True:
            written = await self.step()
            await self.tidy()
            if written < self._batch:
                await asyncio.sleep(PAUSE_SECONDS)

    async def step(self) -> int:
        """Writes the next batch; returns how many entries it took from the feed."""
        await self._look_at_workers()
        if self._position is None:
            self._position = await self._database.read(read_position, self._namespace)
        entries = await self._store.feed(self._position, self._batch)
        if not entries:
            return 0
        try:
            await self._write_entries(entries)
        except _MISFITS:
            logger.exception(
                "a batch of events could not be written; each is tried by itself", extra={"action": "history_failed"}
            )
            for entry in entries:
                await self._write_or_skip(entry)
        self._full = False
        return len(entries)

    async def _write_entries(self, entries: Sequence[FeedEntry], *, whole: bool = True) -> None:
        assert self._position is not None
        batch = await self._gather(self._position, entries)
        if not whole:
            batch = replace(batch, earlier={})
        if await self._database.write(write_batch, self._namespace, batch, self._workers):
            self._position = entries[-1].id
        else:
            logger.info("somebody else has written from here: the history goes on from there", extra={"action": "history_moved"})
            self._position = await self._database.read(read_position, self._namespace)

    async def _write_or_skip(self, entry: FeedEntry) -> None:
        for whole in (True, False):  # then without what was skipped before it
            try:
                return await self._write_entries([entry], whole=whole)
            except _MISFITS as exc:
                reason = type(exc).__name__
        logger.error(
            "event %s cannot be written, the history goes on without it: %s", entry.event.id, reason,
            extra={"action": "history_skipped", "job_id": entry.event.job_id},
        )  # fmt: skip
        if await self._database.write(skip_entry, self._namespace, Batch(self._position or "", [entry])):
            self._position = entry.id
        return None

    async def _gather(self, after: str, entries: Sequence[FeedEntry]) -> Batch:
        """The batch with what it lacks: events that the feed has lost, and records of jobs that began before the history did."""
        first: dict[str, int] = {}
        for entry in entries:
            first.setdefault(entry.event.job_id, entry.place)
        tails = await self._database.read(read_tails, set(first))
        earlier: dict[str, Sequence[tuple[int, Event]]] = {}
        for job_id, place in first.items():
            known = tails.get(job_id, Tail()).count
            if place > known + 1:
                told = await self._store.events(job_id, known)
                earlier[job_id] = list(enumerate(told[: place - known - 1], known + 1))
        told_of = {entry.event.job_id for entry in entries if entry.job is not None}
        missing = [job_id for job_id in first if job_id not in tails and job_id not in told_of]
        records = {job.id: job for job in await self._store.load_many(missing)}
        return Batch(after, entries, tails, earlier, records)

    async def tidy(self) -> None:
        """Drops from the feed what is written, and from the database what is too old."""
        now = self._engine.clock()
        if self._position and now >= self._next_trim:
            self._next_trim = now + 1
            await self._store.trim_feed(self._position, now - self._kept)
        keep = self._settings.history_retention_seconds
        if keep and now >= self._next_retention:
            done = await self.forget(now - keep)
            self._next_retention = now + (_RETENTION_SECONDS if done else 0)

    async def forget(self, before: float, most: int = DELETES_AT_ONCE) -> bool:
        """Deletes jobs that ended before a time, with their events, in so many small transactions; false: there is more."""
        for step in STEPS:
            while await self._database.write(step, before):
                most -= 1
                if most <= 0:  # events are waiting to be written
                    return False
                await asyncio.sleep(_BETWEEN_DELETES)  # others want to write, too
        return True

    async def _look_at_workers(self) -> None:
        now = self._engine.clock()
        if now < self._next_workers:
            return
        self._next_workers = now + _WORKERS_SECONDS
        records = await self._store.workers(now)
        self._workers = {record.id: record for record in records}
        await self._database.write(write_workers, records, now)

    async def _warn_if_full(self) -> None:
        """Says once that the feed is at its bound: from then on the oldest events leave it unwritten."""
        try:
            length = await self._store.feed_length()
        except StoreUnavailableError:
            return
        if length >= self._settings.event_stream_length and not self._full:
            self._full = True
            logger.error(
                "the history is %d events behind, which is EVENT_STREAM_LENGTH: the oldest ones leave the stream; those of jobs "
                "that still have events in it are read from the jobs' own lists later, others are lost to the history",
                length, extra={"action": "history_full"},
            )  # fmt: skip
