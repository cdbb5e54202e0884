"""Listed jobs in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avtomatika.jobs import Event, Job
from avtomatika.state.base import Hold
from avtomatika.state.listed import LISTED, place_of
from avtomatika.state.memory_jobs import MemoryJobs


class MemoryListed(MemoryJobs):
    def _of(self, blueprint: str, client: str | None, *, live: bool = False) -> Iterator[Job]:
        for job in self._jobs.values():
            fits = job.blueprint_name == blueprint and blueprint in LISTED and client in (None, job.client.name)
            if fits and not (live and job.status.is_terminal):
                yield self._shown(job)

    async def listed(
        self, blueprint: str, *, client: str | None = None, limit: int = 50, before: tuple[float, str] | None = None
    ) -> Sequence[Job]:
        found = [job for job in self._of(blueprint, client) if before is None or (job.created_at, job.id) < before]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def listed_live(self, blueprint: str, *, client: str | None = None, limit: int = 50) -> Sequence[Job]:
        return sorted(self._of(blueprint, client, live=True), key=lambda job: (place_of(job), job.id))[:limit]

    async def events_of(self, job_ids: Sequence[str]) -> dict[str, Sequence[Event]]:
        return {job_id: await self.events(job_id) for job_id in job_ids}

    async def count_listed(self, blueprint: str, *, client: str | None = None, live: bool = False) -> int:
        return sum(1 for _ in self._of(blueprint, client, live=live))

    async def live_ids(self, blueprint: str) -> Sequence[str]:
        order = sorted((place_of(job), job.id) for job in self._of(blueprint, None, live=True))
        return [job_id for _, job_id in order]

    async def live_rank(self, blueprint: str, job_id: str) -> int | None:
        ids = await self.live_ids(blueprint)
        return ids.index(job_id) if job_id in ids else None

    async def forget_job(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is None or not job.status.is_terminal:
            return False
        self._forget_job(job_id)
        return True

    async def hold(self, blueprint: str, hold: Hold | None) -> None:
        if hold is None:
            self._holds.pop(blueprint, None)
        else:
            self._holds[blueprint] = hold

    async def held(self, blueprint: str) -> Hold | None:
        return self._holds.get(blueprint)
