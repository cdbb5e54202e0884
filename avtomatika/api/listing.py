"""Pages of jobs, newest first, with a cursor that neither skips nor repeats a job, whatever comes or goes meanwhile.

Jobs that are in the state store come from there. Those that have left it come from the history, which knows of most jobs of the
store, too: what the store has is left out there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from avtomatika.api.middleware import RequestError
from avtomatika.errors import HistoryUnavailableError
from avtomatika.history.archive import Archive
from avtomatika.history.queries import JobFilter
from avtomatika.jobs import Job
from avtomatika.state.base import JobStore

logger = logging.getLogger(__name__)

_CHUNK = 200
# A filter that fits next to nothing must not read the whole store in one request: the page ends early, its cursor goes on.
_SCAN = 5_000

Key = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last job behind us: when it was created, and its id."""

    created_at: float
    job_id: str

    def __str__(self) -> str:
        return f"{self.created_at!r}~{self.job_id}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        at, _, job_id = text.partition("~")
        try:
            cursor = cls(float(at), job_id)
        except ValueError:
            raise RequestError(422, "cursor must be the next_cursor of an earlier page") from None
        if not math.isfinite(cursor.created_at):
            raise RequestError(422, "cursor must be the next_cursor of an earlier page")
        return cursor

    @property
    def key(self) -> Key:
        return self.created_at, self.job_id


def _key(job: Job) -> Key:
    return job.created_at, job.id


@dataclass
class Pager:
    """
    Args:
        fits: what `wanted` does not say; asked of each job.
        kept_since: every job that was created later is in the store.
    """

    store: JobStore
    archive: Archive | None
    wanted: JobFilter
    fits: Callable[[Job], bool]
    kept_since: float
    _found: list[Job] = field(default_factory=list)
    _scanned: int = 0

    async def page(self, cursor: Cursor | None, offset: int, limit: int) -> tuple[list[Job], Cursor | None]:
        """The next jobs that fit, and the cursor of the page after them (None at the end).

        Where the history is needed and away, the page ends before the first job that it might be needed for.

        Raises:
            HistoryUnavailableError: that would be an empty page.
        """
        since = self.wanted.since
        at: Key = cursor.key if cursor is not None else (math.inf, "")
        while self._scanned < _SCAN:
            jobs, edge, whole = await self._next(at)
            for job in jobs:
                if since is not None and job.created_at < since:
                    return self._found, None
                if len(self._found) == limit:
                    return self._found, Cursor(*at)
                at = _key(job)
                self._scanned += 1
                if self._suits(job):
                    if offset:
                        offset -= 1
                    else:
                        self._found.append(job)
            if not whole:
                if not self._found:
                    raise HistoryUnavailableError
                return self._found, Cursor(*at)
            if edge is None or (since is not None and edge[0] < since):
                return self._found, None
            at = edge
        return self._found, Cursor(*at)

    def _suits(self, job: Job) -> bool:
        wanted = self.wanted
        return (
            (wanted.status is None or job.status is wanted.status)
            and (wanted.blueprint is None or job.blueprint_name == wanted.blueprint)
            and self.fits(job)
        )

    async def _next(self, at: Key) -> tuple[list[Job], Key | None, bool]:
        """Jobs behind a place, how far they reach (None: to the end), and whether none is missing among them."""
        live, live_end = await self._live(at)
        bound = self.kept_since if self.wanted.since is None else max(self.kept_since, self.wanted.since)
        if self.archive is None or (live_end is not None and live_end[0] > self.kept_since) or bound == self.wanted.since:
            return live, live_end, True
        try:
            past = await self.archive.jobs(self.wanted, at if at[0] != math.inf else None, _CHUNK)
        except HistoryUnavailableError as exc:
            logger.warning("a page of jobs goes without the history: %s", exc, extra={"action": "history_away"})
            return [job for job in live if job.created_at > self.kept_since], None, False
        past_end = _key(past[-1]) if len(past) == _CHUNK else None
        ends = [end for end in (live_end, past_end) if end is not None]
        edge = max(ends) if ends else None
        known = {job.id for job in live}
        both = [*live, *(job for job in past if job.id not in known)]
        return sorted((job for job in both if edge is None or _key(job) >= edge), key=_key, reverse=True), edge, True

    async def _live(self, at: Key) -> tuple[list[Job], Key | None]:
        """The same, of the store."""
        # `before` is exclusive: ask from a hair later, then leave out what was passed already.
        before = None if at[0] == math.inf else math.nextafter(at[0], math.inf)
        asked = _CHUNK
        while True:
            jobs = await self.store.list_jobs(client=self.wanted.client, limit=asked, before=before)
            behind = [job for job in jobs if _key(job) < at]
            if len(jobs) < asked:
                return behind, None
            if behind:
                return behind, _key(behind[-1])
            asked *= 2  # so many were created at that very time
