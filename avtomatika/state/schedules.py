"""What a state store promises about schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from avtomatika.schedules.records import Firing, Pause, ScheduleRecord
from avtomatika.state.values import Commit, CommitResult


class ScheduleStore(Protocol):
    """Which schedules there are, and how each stands. A digest (`Schedule.digest`) names what one says."""

    async def schedule_digests(self) -> dict[str, str]:
        """The digest of every schedule, by name."""

    async def schedules(self, *, limit: int = 1000, offset: int = 0) -> Sequence[ScheduleRecord]:
        """Schedules by name."""

    async def schedule(self, name: str) -> ScheduleRecord | None: ...

    async def put_schedule(self, record: ScheduleRecord, was: str, *, retimed: bool) -> bool:
        """Adds a schedule (`was` is ""), or replaces the one with the digest `was`; false where another one is there.

        Its pause and its last firing stay, also those of one that was dropped less than a week ago. With `retimed` (a new one
        is), its anchor and its next due time are the record's, else they stay.
        """

    async def drop_schedule(self, name: str, digest: str) -> bool:
        """It stops; false where another one is there."""

    async def due_schedules(self, now: float, limit: int = 100) -> Sequence[ScheduleRecord]:
        """Schedules that are due and not paused, the longest due first."""

    async def fire_schedule(
        self, record: ScheduleRecord, then: float | None, commit: Commit | None = None, firing: Firing | None = None
    ) -> CommitResult:
        """In one call: the job comes into being, the firing is noted, and the schedule is due next at `then`.

        Nothing happens where meanwhile the schedule says something else, is paused, or is due at another time than the record's,
        or the job is there: so that of any number of callers one makes the job of a due time. Without a commit it moves on only.
        """

    async def pause_schedule(self, record: ScheduleRecord, pause: Pause) -> bool:
        """It is due no more; false where it is paused, or says something else than the record."""

    async def resume_schedule(self, record: ScheduleRecord, next_due: float | None) -> bool:
        """It is due again; false where it is not paused, or says something else than the record."""
