"""Makes the jobs of schedules when they are due, and tells the store which schedules there are."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from avtomatika.engine.draft import new_job, new_job_commit
from avtomatika.engine.results import Engine
from avtomatika.engine.views import timestamp
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JSON, Job
from avtomatika.schedules.file import ScheduleBook, Schedules
from avtomatika.schedules.records import KEY, TAG, Firing, Schedule, ScheduleRecord, turn_of

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
LOOK_SECONDS = 2.0
#: A schedule is stopped once it has been out of the file for so long: a file that is just being written may look empty.
ABSENT_SECONDS = 5.0

# The work of one round is bounded: what is left is the next one's.
_PUT_A_ROUND = 500
_FIRED_A_ROUND = 1000
_AT_ONCE = 50


class Scheduler:
    """Works while this process does the housekeeping. Should two do so at once, the store lets one of them make each job.

    The leader's blueprints and schedules.toml say which schedules there are; the store keeps how each stands.
    """

    def __init__(self, engine: Engine, book: ScheduleBook) -> None:
        self.engine = engine
        self.store = engine.store
        self.book = book
        self._told: Schedules | None = None
        self._next_sync = 0.0
        self._absent: dict[str, float] = {}
        self._failed: dict[str, float] = {}

    async def run(self, leads: Callable[[], bool]) -> None:
        """Until cancelled. A store that is away is waited for."""
        looked = -math.inf
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() - looked >= LOOK_SECONDS:
                    looked = loop.time()
                    await asyncio.to_thread(self.book.refresh)
                if leads():
                    await self.round()
                else:
                    self._told = None  # whoever leads meanwhile may have told the store something else
            except StoreUnavailableError as exc:
                logger.warning("schedules wait for the state store: %s", exc, extra={"action": "schedule"})
            except Exception:
                logger.exception("a round of the schedules failed; the next one goes on", extra={"action": "schedule"})
            await asyncio.sleep(TICK_SECONDS)

    async def round(self) -> None:
        """Tells the store what is new, then makes the jobs that are due."""
        if self.book.current is not self._told or self.engine.clock() >= self._next_sync:
            await self._sync()
        await self._fire_due()

    async def _sync(self) -> None:
        """Makes the store's schedules those of the book."""
        wanted, now = self.book.current, self.engine.clock()
        stored = await self.store.schedule_digests()
        new = [schedule for name, schedule in wanted.items() if stored.get(name) != schedule.digest]
        for schedule in new[:_PUT_A_ROUND]:
            await self._put(schedule, stored.get(schedule.name, ""), now)
        self._absent = {name: self._absent.get(name, now) for name in stored if name not in wanted}
        for name, since in list(self._absent.items())[:_PUT_A_ROUND]:
            if now - since >= ABSENT_SECONDS:
                del self._absent[name]
                if await self.store.drop_schedule(name, stored[name]):
                    logger.info("schedule %s is no more", name, extra={"action": "schedule_dropped", "schedule": name})
        self._told = wanted if len(new) <= _PUT_A_ROUND else None
        self._next_sync = now + self.engine.settings.watcher_interval_seconds
        if self._absent:
            self._next_sync = min(self._next_sync, min(self._absent.values()) + ABSENT_SECONDS)

    async def _put(self, schedule: Schedule, was: str, now: float) -> None:
        known = await self.store.schedule(schedule.name) if was else None
        retimed = known is None or known.schedule.timing != schedule.timing
        anchor = float(math.floor(now))
        record = ScheduleRecord(schedule, anchor, schedule.timing.next_after(now, anchor))
        await self.store.put_schedule(record, was, retimed=retimed)

    async def _fire_due(self) -> None:
        """Makes the jobs that are due now; those of one schedule one after the other, oldest first."""
        now = self.engine.clock()
        self._failed = {name: until for name, until in self._failed.items() if until > now}
        left = _FIRED_A_ROUND
        while left > 0:
            found = await self.store.due_schedules(self.engine.clock(), _AT_ONCE + len(self._failed) + len(self._absent))
            ours = [record for record in found if self._is_ours(record)]
            if not ours:
                return
            done = await asyncio.gather(*(self._try(record) for record in ours), return_exceptions=True)
            for error in done:
                if error is not None:
                    raise error
            left -= len(ours)

    def _is_ours(self, record: ScheduleRecord) -> bool:
        """Whether it says what this process knows: else its blueprint may be none of ours, or it is about to be dropped."""
        known = self.book.current.get(record.schedule.name)
        return known is not None and known.digest == record.schedule.digest and known.name not in self._failed

    async def _try(self, record: ScheduleRecord) -> None:
        name = record.schedule.name
        try:
            await self._fire(record)
        except StoreUnavailableError:
            raise
        except Exception:  # it must not keep the others waiting
            logger.exception("schedule %s failed; it is tried again", name, extra={"action": "schedule", "schedule": name})
            self._failed[name] = self.engine.clock() + self.engine.settings.watcher_interval_seconds

    async def _fire(self, record: ScheduleRecord) -> None:
        now, schedule = self.engine.clock(), record.schedule
        turn = turn_of(record, now)
        if turn.missed:
            logger.warning(
                "schedule %s passes over at least %d due times, by catch_up = %s",
                schedule.name, turn.missed, schedule.catch_up,
                extra={"action": "schedule_missed", "schedule": schedule.name},
            )  # fmt: skip
        if turn.due is None:
            await self.store.fire_schedule(record, turn.then)
            return
        job = self._job(schedule, turn.due, now)
        firing = Firing(turn.due, now, job.id, turn.missed)
        done = await self.store.fire_schedule(record, turn.then, new_job_commit(job, self.engine.compiler, now), firing)
        if done.applied:
            await self.engine.after(done)
        elif await self.store.load(job.id) is not None:  # this due time has its job: nothing is left but to go on
            await self.store.fire_schedule(record, turn.then)

    def _job(self, schedule: Schedule, due: float, now: float) -> Job:
        blueprint = self.engine.blueprints.get(schedule.blueprint)
        return new_job(
            blueprint,
            self.engine.settings,
            now,
            id=schedule.job_id(self.engine.settings.namespace, due),
            initial_data=data_of(schedule, due),
            client=schedule.client,
            priority=schedule.priority,
            tags=tags_of(schedule),
        )


def data_of(schedule: Schedule, due: float, **more: str) -> JSON:
    """The initial data of a schedule's job: its own, and which schedule and due time made it."""
    return {**schedule.initial_data, KEY: {"name": schedule.name, "due_at": timestamp(due), **more}}


def tags_of(schedule: Schedule) -> tuple[str, ...]:
    """The tags of a schedule's job: its own, and the one that names it."""
    return (*schedule.tags, TAG + schedule.name)
