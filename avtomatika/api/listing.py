"""Pages of jobs, newest first, with a cursor that neither skips nor repeats a job."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from avtomatika.api.middleware import RequestError
from avtomatika.jobs import Job, JobStatus
from avtomatika.state.base import JobStore

_CHUNK = 200
# A filter that fits next to nothing must not read the whole store in one request: the page ends early, its cursor goes on.
_SCAN = 5_000


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the creation time of its last job, and how many jobs of that very time are behind us."""

    created_at: float
    passed: int

    def __str__(self) -> str:
        return f"{self.created_at!r}~{self.passed}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        at, _, passed = text.partition("~")
        try:
            cursor = cls(float(at), int(passed))
        except ValueError:
            raise RequestError(422, "cursor must be the next_cursor of an earlier page") from None
        if not math.isfinite(cursor.created_at) or cursor.passed < 0:
            raise RequestError(422, "cursor must be the next_cursor of an earlier page")
        return cursor

    def after(self, job: Job) -> Cursor:
        return Cursor(job.created_at, self.passed + 1 if job.created_at == self.created_at else 1)


async def page(
    store: JobStore,
    fits: Callable[[Job], bool],
    *,
    status: JobStatus | None,
    client: str | None,
    since: float | None,
    cursor: Cursor | None,
    offset: int,
    limit: int,
) -> tuple[list[Job], Cursor | None]:
    """The next jobs that fit, and the cursor of the page after them (None at the end)."""
    found: list[Job] = []
    at = cursor or Cursor(math.inf, 0)
    scanned = 0
    while scanned < _SCAN:
        asked = _CHUNK + at.passed
        # `before` is exclusive: ask from a hair later, then drop what was passed already.
        before = None if at.created_at == math.inf else math.nextafter(at.created_at, math.inf)
        jobs = await store.list_jobs(status=status, client=client, limit=asked, before=before)
        behind = at.passed
        for job in jobs:
            if behind and job.created_at == at.created_at:
                behind -= 1
                continue
            if since is not None and job.created_at < since:
                return found, None
            if len(found) == limit:
                return found, at
            at = at.after(job)
            behind = 0
            scanned += 1
            if fits(job):
                if offset:
                    offset -= 1
                else:
                    found.append(job)
        if len(jobs) < asked:
            return found, None
    return found, at
