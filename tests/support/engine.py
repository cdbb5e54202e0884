"""Driving an engine from a test: through its service, or over HTTP through its facade."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from avtomatika.engine.service import Service, open_service
from avtomatika.jobs import Job, JobStatus
from avtomatika.settings import get_settings
from tests.support.polling import eventually_async

APPS = Path(__file__).resolve().parents[1] / "e2e" / "apps"
ENDED = 180.0
"""Seconds in which a job of a test ends, even on a slow machine with others on it."""

Line = tuple[str, str | None, str | None]


def app_environment(app: str) -> dict[str, str]:
    """Where the blueprints and workers of a test application lie, and waits that suit a test."""
    return {
        "BLUEPRINTS_DIR": str(APPS / app / "blueprints"),
        "WORKERS_DIR": str(APPS / app / "workers"),
        "RETRY_BACKOFF_SECONDS": "0.1",
    }


@contextmanager
def _settings_of(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    get_settings.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        get_settings.cache_clear()


class Engine:
    """An opened service, and waiting on its jobs."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def create(self, blueprint: str, initial_data: dict[str, Any] | None = None) -> Job:
        return await self.service.create(blueprint, initial_data or {})

    async def run(self, blueprint: str, initial_data: dict[str, Any] | None = None) -> Job:
        """Creates a job and waits for its end, whatever it is."""
        job = await self.create(blueprint, initial_data)
        return await self.ended(job.id)

    async def ended(self, job_id: str, deadline: float = ENDED) -> Job:
        return await self._reaches(job_id, {status for status in JobStatus if status.is_terminal}, deadline)

    async def reaches(self, job_id: str, status: JobStatus, deadline: float = ENDED) -> Job:
        """Waits until the job has a status; fails at once when it ends in another one."""
        job = await self._reaches(job_id, {status, *(s for s in JobStatus if s.is_terminal)}, deadline)
        assert job.status is status, f"job {job.id} is {job.status}: {job.error_message}"
        return job

    async def _reaches(self, job_id: str, statuses: set[JobStatus], deadline: float) -> Job:
        seen: Job | None = None

        async def look() -> Job | None:
            nonlocal seen
            seen = await self.service.store.load(job_id)
            return seen if seen is not None and seen.status in statuses else None

        try:
            job = await eventually_async(look, deadline=deadline)
        except AssertionError:
            events = await self.service.store.events(job_id)
            raise AssertionError(f"job {job_id} is not {sorted(statuses)} after {deadline:g} s: {seen}; {events}") from None
        assert job is not None
        return job

    async def history(self, job_id: str) -> list[Line]:
        """The job's events, oldest first, without what differs from run to run."""
        return [(event.event_type, event.state, event.next_state) for event in await self.service.store.events(job_id)]


@asynccontextmanager
async def opened_engine(env: Mapping[str, str]) -> AsyncIterator[Engine]:
    """The service of the engine whose processes have this environment."""
    with _settings_of(env):
        service = await open_service(get_settings(), patience=30)  # the machine of a test may be slow to answer
        try:
            yield Engine(service)
        finally:
            await service.close()


class Api:
    """The facade as a client sees it."""

    def __init__(self, url: str, token: str) -> None:
        self._session = aiohttp.ClientSession(
            url, headers={"X-Avtomatika-Token": token}, timeout=aiohttp.ClientTimeout(total=60), raise_for_status=True
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def get(self, path: str, **params: str) -> Any:
        async with self._session.get(path, params=params) as response:
            return await response.json()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with self._session.post(path, json=body) as response:
            return await response.json()

    async def create(self, blueprint: str, initial_data: Mapping[str, Any]) -> str:
        answer = await self.post("/api/v1/jobs", {"blueprint": blueprint, "initial_data": initial_data})
        assert answer["status"] == "accepted"
        job_id: str = answer["job_id"]
        return job_id

    async def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = await self.get(f"/api/v1/jobs/{job_id}")
        return job

    async def ended(self, job_ids: Iterable[str], deadline: float = ENDED) -> dict[str, dict[str, Any]]:
        """Waits for the end of every job, and returns them by id."""
        left = set(job_ids)
        ended: dict[str, dict[str, Any]] = {}

        async def look() -> bool:
            for job_id in sorted(left):
                job = await self.job(job_id)
                if JobStatus(job["status"]).is_terminal:
                    ended[job_id] = job
                    left.discard(job_id)
                else:
                    break  # the others have most likely not ended, either: ask again after the pause
            return not left

        try:
            await eventually_async(look, deadline=deadline, interval=0.1, retry=(AssertionError, OSError, aiohttp.ClientError))
        except AssertionError as exc:
            jobs = await asyncio.gather(*(self.job(job_id) for job_id in sorted(left)[:3]), return_exceptions=True)
            raise AssertionError(f"{len(left)} jobs have not ended within {deadline:g} s, the first of them: {jobs}") from exc
        return ended
