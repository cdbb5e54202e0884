"""What a state store promises about blueprints whose jobs are listed by themselves: those of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from avtomatika.jobs import Event, Job
from avtomatika.state.values import Hold

#: Blueprints whose jobs have indexes of their own: they are found without a look at all the others.
LISTED = frozenset({"operation"})
#: A step of priority, in an order that is priority first and creation (in seconds) second.
_STEP = 1e10
#: By whom jobs are paused and resumed because their blueprint is held back, in their events.
HELD_BY = "the queue"


def place_of(job: Job) -> float:
    """Where a job stands among those that have not ended: the highest priority first, then the oldest."""
    return (10 - min(10.0, max(0.0, job.priority))) * _STEP + job.created_at


class ListedStore(Protocol):
    """Everything here is for blueprints of `LISTED`; of any other nothing is found."""

    async def listed(
        self, blueprint: str, *, client: str | None = None, limit: int = 50, before: tuple[float, str] | None = None
    ) -> Sequence[Job]:
        """Jobs of a blueprint, newest first (of one time the highest id first).

        Args:
            client: only this one's.
            before: (created_at, id) of the last job of the page before.
        """

    async def listed_live(self, blueprint: str, *, client: str | None = None, limit: int = 50) -> Sequence[Job]:
        """Those that have not ended, by `place_of`."""

    async def events_of(self, job_ids: Sequence[str]) -> dict[str, Sequence[Event]]:
        """What happened to each of some jobs, of whatever blueprint, in one call."""

    async def count_listed(self, blueprint: str, *, client: str | None = None, live: bool = False) -> int:
        """How many there are; with `live`, how many of them have not ended."""

    async def live_ids(self, blueprint: str) -> Sequence[str]:
        """Those that have not ended at one moment, by `place_of`. In pages some would be missed, which move meanwhile."""

    async def live_rank(self, blueprint: str, job_id: str) -> int | None:
        """How many that have not ended stand before this one; None where it has ended or is none of them."""

    async def forget_job(self, job_id: str) -> bool:
        """Forgets an ended job before its time: record, events, log, indexes. False where it lives or is unknown."""

    async def hold(self, blueprint: str, hold: Hold | None) -> None:
        """Says that new jobs of a blueprint are to be held back; with None, that they are not any more. See `Commit.hold`."""

    async def held(self, blueprint: str) -> Hold | None:
        """What `hold` said last."""
