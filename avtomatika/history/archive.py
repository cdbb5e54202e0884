"""The history as the rest of the package sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from avtomatika.errors import HistoryUnavailableError
from avtomatika.history.analytics import By, Group, analyse
from avtomatika.history.database import Database
from avtomatika.history.queries import JobFilter, find_events, find_job, find_jobs
from avtomatika.history.upgrade import check, upgrade
from avtomatika.jobs import Event, Job
from avtomatika.settings import Settings


class Archive:
    """Reads the history. Every method raises HistoryUnavailableError where the database is away or its tables are not ready.

    Args:
        upgrades: the tables are made and brought up to date at first use; else somebody runs ``avtomatika db upgrade``.
    """

    def __init__(self, uri: str, *, upgrades: bool = False) -> None:
        self.database = Database(uri)
        self._upgrades = upgrades or self.database.is_sqlite
        self._prepared = False
        self._preparing = asyncio.Lock()

    async def prepare(self) -> None:
        """Makes sure that the tables are those of this version."""
        async with self._preparing:
            if not self._prepared:
                await self.database.call(partial(upgrade if self._upgrades else check, self.database))
                self._prepared = True

    async def job(self, job_id: str) -> Job | None:
        await self.prepare()
        return await self.database.read(find_job, job_id)

    async def events(self, job_id: str) -> list[Event]:
        await self.prepare()
        return await self.database.read(find_events, job_id)

    async def jobs(self, wanted: JobFilter, before: tuple[float, str] | None, limit: int) -> Sequence[Job]:
        """Newest first; see `find_jobs`."""
        await self.prepare()
        return await self.database.read(find_jobs, wanted, before, limit)

    async def analyse(self, by: By, since: float, until: float, client: str | None = None) -> list[Group]:
        """See `analyse`."""
        await self.prepare()
        return await self.database.read(analyse, by, since, until, client)

    async def close(self) -> None:
        await self.database.close()


def open_archive(settings: Settings) -> Archive | None:
    """The history of these settings; None where they name no database. It connects at first use.

    Raises:
        ConfigurationError: HISTORY_DATABASE_URI does not fit.
    """
    uri = settings.history_database_uri
    return Archive(uri.get_secret_value(), upgrades=settings.history_auto_upgrade) if uri is not None else None


__all__ = ["Archive", "HistoryUnavailableError", "open_archive"]
