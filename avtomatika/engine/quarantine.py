"""The quarantine: jobs that need a person, page by page, and orders to all of them that fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from avtomatika.engine.orders import Orders
from avtomatika.errors import UnknownBlueprintError, UnknownJobError, WrongStateError
from avtomatika.jobs import Job, JobStatus
from avtomatika.state.base import JobStore

_CHUNK = 200
#: A filter that fits next to nothing must not read all of it in one request: the page ends early, its cursor goes on.
_SCAN = 5_000
_LAST = "\U0010ffff"

#: (since when, id) of the last job of the page before.
Place = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which quarantined jobs; one that is left out lets all through.

    Attributes:
        code: of the failure, such as ``TRANSIENT_ERROR`` or ``WORKER_LOST``.
        reason: a part of the error message, whatever its case.
        older_than, newer_than: seconds that they have been there.
        client: whose they are.
    """

    blueprint: str | None = None
    code: str | None = None
    reason: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    client: str | None = None

    def fits(self, job: Job) -> bool:
        """Whether a job does, apart from its client and its age, by which it was found."""
        return (
            job.status is JobStatus.QUARANTINED
            and (not self.blueprint or job.blueprint_name == self.blueprint)
            and (not self.code or (job.failure is not None and job.failure.code == self.code))
            and (not self.reason or self.reason.casefold() in (job.error_message or "").casefold())
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs with the time since when they are there, the latest first; `following` is the place to go on at, None at the end."""

    jobs: tuple[tuple[Job, float], ...]
    following: Place | None


@dataclass(frozen=True, slots=True)
class Bulk:
    """What an order to many jobs came to. `refused`: (id, why) of those that took it no more."""

    done: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    following: Place | None


class Quarantine:
    """
    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, store: JobStore, orders: Orders, clock: Callable[[], float]) -> None:
        self._store = store
        self._orders = orders
        self._clock = clock

    async def page(self, which: Filter, *, after: Place | None = None, offset: int = 0, limit: int = 100) -> Page:
        """The next jobs that fit; those that come or leave meanwhile make it skip and repeat none of the others."""
        now, found, scanned = self._clock(), list[tuple[Job, float]](), 0
        if which.older_than is not None:
            oldest_first = (now - which.older_than, _LAST)
            after = oldest_first if after is None else min(after, oldest_first)
        since_least = None if which.newer_than is None else now - which.newer_than
        while scanned < _SCAN:
            rows = await self._store.in_status(JobStatus.QUARANTINED, client=which.client, limit=_CHUNK, before=after)
            jobs = {job.id: job for job in await self._store.load_many([job_id for job_id, _ in rows])}
            for job_id, since in rows:
                if since_least is not None and since < since_least:
                    return Page(tuple(found), None)
                if len(found) == limit:
                    return Page(tuple(found), after)
                after, scanned = (since, job_id), scanned + 1
                job = jobs.get(job_id)
                if job is None or not which.fits(job):
                    continue
                if offset:
                    offset -= 1
                else:
                    found.append((job, since))
            if len(rows) < _CHUNK:
                return Page(tuple(found), None)
        return Page(tuple(found), after)

    async def each(
        self,
        which: Filter,
        order: Callable[[Orders, Job], Awaitable[object]],
        *,
        after: Place | None = None,
        limit: int = 100,
        dry_run: bool = False,
    ) -> Bulk:
        """Gives an order to the next jobs that fit, one after the other; with `dry_run` only says which they are."""
        page = await self.page(which, after=after, limit=limit)
        done, refused = list[str](), list[tuple[str, str]]()
        for job, _ in page.jobs:
            try:
                if not dry_run:
                    await order(self._orders, job)
                done.append(job.id)
            except (WrongStateError, UnknownJobError, UnknownBlueprintError) as exc:
                refused.append((job.id, str(exc)))
        return Bulk(tuple(done), tuple(refused), page.following)
