"""The records of schedules: what one says, how it stands, and what it does about due times that have passed."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import islice, takewhile
from typing import Any

from avtomatika.jobs import Client
from avtomatika.results import JSON
from avtomatika.schedules.timing import Cron, Every, Timing

#: A due time that is at most this many seconds late is no missed one: somebody else has just taken over, say.
GRACE_SECONDS = 60.0
#: Of the due times that were missed, `catch_up="all"` makes up for so many, the latest.
MOST_CAUGHT_UP = 100

#: Beginning of the tag that names a job's schedule.
TAG = "schedule:"
#: Under this name a job's initial data say which schedule and due time made it.
KEY = "schedule"

_JOBS = uuid.UUID("5c3f0a56-9d55-4a0e-8f0b-3d8f5a2f6c11")


class CatchUp(StrEnum):
    """What happens about due times that nobody was there for."""

    NONE = "none"  # nothing
    LAST = "last"  # one job, for the latest of them
    ALL = "all"  # a job for each, oldest first; of more than 100 the latest 100


@dataclass(frozen=True)
class Schedule:
    """What a schedule says. Either `cron` or `every` (seconds) is set.

    Attributes:
        origin: ``file:line`` where it is written.
    """

    name: str
    blueprint: str
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    catch_up: CatchUp = CatchUp.LAST
    initial_data: JSON = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    priority: float = 0.0
    client: Client = field(default_factory=Client)
    origin: str = ""

    @cached_property
    def timing(self) -> Timing:
        """When it is due. Equal timings are due at the same times."""
        return Cron(self.cron, self.timezone) if self.cron is not None else Every(self.every or 0.0)

    @cached_property
    def digest(self) -> str:
        """A hash of all that it says."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:32]

    def job_id(self, namespace: str, due: float) -> str:
        """The id of the job for a due time: whoever makes it, however often, it is one job."""
        return str(uuid.uuid5(_JOBS, json.dumps([namespace, self.name, repr(due)])))

    def to_dict(self) -> JSON:
        out = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**out, "catch_up": self.catch_up.value, "tags": list(self.tags), "client": self.client.to_dict()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Schedule:
        fields = dict(value)
        fields["catch_up"] = CatchUp(fields["catch_up"])
        fields["tags"] = tuple(fields["tags"])
        fields["client"] = Client(**fields["client"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Pause:
    """Since when a schedule is paused, and by whom."""

    since: float
    by: str = ""


@dataclass(frozen=True, slots=True)
class Firing:
    """The latest job of a schedule.

    Attributes:
        due: the due time that it was made for; `fired_at` is when it was made.
        missed: how many due times before it were passed over, as far as they were counted (to 100).
    """

    due: float
    fired_at: float
    job_id: str
    missed: int = 0


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule as it stands.

    Attributes:
        anchor: an interval is counted from here: when the schedule, with this interval, was first seen.
        next_due: None where it is never due again.
    """

    schedule: Schedule
    anchor: float
    next_due: float | None = None
    pause: Pause | None = None
    last: Firing | None = None

    def next_after(self, moment: float) -> float | None:
        return self.schedule.timing.next_after(moment, self.anchor)

    def coming(self, moment: float, count: int) -> list[float]:
        """The next due times after a moment."""
        found: list[float] = []
        while len(found) < count and (due := self.next_after(found[-1] if found else moment)) is not None:
            found.append(due)
        return found


@dataclass(frozen=True, slots=True)
class Turn:
    """What a schedule that is due does now.

    Attributes:
        due: the due time that a job is made for; None makes none.
        then: when it is due next. It may have passed already: then it is its turn again at once.
        missed: see `Firing`.
    """

    due: float | None
    then: float | None
    missed: int = 0


def turn_of(record: ScheduleRecord, now: float) -> Turn:
    """What a due schedule does, by its policy. Its cost does not depend on how long nobody was there."""
    assert record.next_due is not None
    first = record.next_due
    back = takewhile(lambda due: due > first, record.schedule.timing.back_from(now, record.anchor))
    passed = [*islice(back, MOST_CAUGHT_UP), first]  # latest first
    then = record.next_after(now)
    match record.schedule.catch_up:
        case CatchUp.ALL if len(passed) > MOST_CAUGHT_UP:
            return Turn(passed[-2], passed[-3], 1)
        case CatchUp.ALL:
            return Turn(first, passed[-2] if len(passed) > 1 else then)
        case CatchUp.NONE if now - passed[0] > GRACE_SECONDS:
            return Turn(None, then, len(passed))
        case _:
            return Turn(passed[0], then, len(passed) - 1)
