"""Schedules in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from avtomatika.jobs import Message
from avtomatika.schedules.records import Firing, Pause, ScheduleRecord
from avtomatika.state.base import Commit, CommitResult
from avtomatika.state.memory_jobs import MemoryJobs


class MemorySchedules(MemoryJobs):
    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        super().__init__(push)
        self._schedules: dict[str, ScheduleRecord] = {}
        self._dropped_schedules: dict[str, ScheduleRecord] = {}

    async def schedule_digests(self) -> dict[str, str]:
        return {name: record.schedule.digest for name, record in self._schedules.items()}

    async def schedules(self, *, limit: int = 1000, offset: int = 0) -> Sequence[ScheduleRecord]:
        return [self._schedules[name] for name in sorted(self._schedules)[offset : offset + limit]]

    async def schedule(self, name: str) -> ScheduleRecord | None:
        return self._schedules.get(name)

    async def put_schedule(self, record: ScheduleRecord, was: str, *, retimed: bool) -> bool:
        name = record.schedule.name
        stored = self._schedules.get(name)
        if stored is not None and stored.schedule.digest == record.schedule.digest:
            return True
        if (stored.schedule.digest if stored is not None else "") != was:
            return False
        known = stored or self._dropped_schedules.pop(name, None)
        if known is not None:
            record = replace(record, pause=known.pause, last=known.last)
            if not retimed:
                record = replace(record, anchor=known.anchor, next_due=known.next_due)
        self._schedules[name] = record
        return True

    async def drop_schedule(self, name: str, digest: str) -> bool:
        stored = self._schedules.get(name)
        if stored is None or stored.schedule.digest != digest:
            return False
        self._dropped_schedules[name] = self._schedules.pop(name)
        return True

    async def due_schedules(self, now: float, limit: int = 100) -> Sequence[ScheduleRecord]:
        due = [
            (record.next_due, name)
            for name, record in self._schedules.items()
            if record.pause is None and record.next_due is not None and record.next_due <= now
        ]
        return [self._schedules[name] for _, name in sorted(due)[:limit]]

    async def fire_schedule(
        self, record: ScheduleRecord, then: float | None, commit: Commit | None = None, firing: Firing | None = None
    ) -> CommitResult:
        stored = self._as_it_stands(record)
        if stored is None or stored.pause != record.pause or stored.next_due != record.next_due:
            return CommitResult(False)
        done = CommitResult(True) if commit is None else await self.commit(commit)
        if done.applied:
            self._schedules[record.schedule.name] = replace(stored, next_due=then, last=firing or stored.last)
        return done

    async def pause_schedule(self, record: ScheduleRecord, pause: Pause) -> bool:
        stored = self._as_it_stands(record)
        if stored is None or stored.pause is not None:
            return False
        self._schedules[record.schedule.name] = replace(stored, pause=pause)
        return True

    async def resume_schedule(self, record: ScheduleRecord, next_due: float | None) -> bool:
        stored = self._as_it_stands(record)
        if record.pause is None or stored is None or stored.pause != record.pause:
            return False
        self._schedules[record.schedule.name] = replace(stored, pause=None, next_due=next_due)
        return True

    def _as_it_stands(self, record: ScheduleRecord) -> ScheduleRecord | None:
        """The stored one, where it says what the record says."""
        stored = self._schedules.get(record.schedule.name)
        return stored if stored is not None and stored.schedule.digest == record.schedule.digest else None
