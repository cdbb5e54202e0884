"""Listed jobs in Redis: sorted sets that a job's creation, its end and its retry keep up to date in their own calls."""

from __future__ import annotations

from collections.abc import Sequence

from avtomatika.jobs import Event, Job
from avtomatika.state.base import Hold
from avtomatika.state.redis_base import loads, text
from avtomatika.state.redis_jobs import RedisJobs, behind, hold_record


class RedisListed(RedisJobs):
    async def listed(
        self, blueprint: str, *, client: str | None = None, limit: int = 50, before: tuple[float, str] | None = None
    ) -> Sequence[Job]:
        index, start = self._keys.listed(blueprint, client), 0
        if before is not None:
            start = int(await self._ask(self._client.zcount(index, f"({before[0]!r}", "+inf")))
        found: list[Job] = []
        while len(found) < limit:
            count = max(50, limit)
            rows = await self._ask(self._client.zrange(index, start, start + count - 1, desc=True, withscores=True))
            found += await self.load_many([job_id for job_id, _ in behind(rows, before)])
            if len(rows) < count:
                break
            start += count
        return found[:limit]

    async def listed_live(self, blueprint: str, *, client: str | None = None, limit: int = 50) -> Sequence[Job]:
        index = self._keys.listed(blueprint, client, live=True)
        ids = await self._ask(self._client.zrange(index, 0, limit - 1))
        return await self.load_many([text(job_id) for job_id in ids])

    async def events_of(self, job_ids: Sequence[str]) -> dict[str, Sequence[Event]]:
        if not job_ids:
            return {}
        async with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.lrange(self._keys.job_events(job_id), 0, -1)
            found = await self._ask(pipe.execute())
        return {job_id: [Event.from_dict(loads(row)) for row in rows] for job_id, rows in zip(job_ids, found, strict=True)}

    async def count_listed(self, blueprint: str, *, client: str | None = None, live: bool = False) -> int:
        return int(await self._ask(self._client.zcard(self._keys.listed(blueprint, client, live=live))))

    async def live_ids(self, blueprint: str) -> Sequence[str]:
        return [text(job_id) for job_id in await self._ask(self._client.zrange(self._keys.listed(blueprint, live=True), 0, -1))]

    async def live_rank(self, blueprint: str, job_id: str) -> int | None:
        rank = await self._ask(self._client.zrank(self._keys.listed(blueprint, live=True), job_id))
        return None if rank is None else int(rank)

    async def forget_job(self, job_id: str) -> bool:
        job = await self.load(job_id)
        if job is None or not job.status.is_terminal:
            return False
        words = [job.version, job_id, job.status.value, job.client.name, *self._listed_names]
        return int(await self._ask(self._script("forget_job", "lib_forget")(args=words))) == 1

    async def hold(self, blueprint: str, hold: Hold | None) -> None:
        if hold is None:
            await self._ask(self._client.hdel(self._keys.held, blueprint))
        else:
            await self._ask(self._client.hset(self._keys.held, blueprint, hold_record(hold)))

    async def held(self, blueprint: str) -> Hold | None:
        stored = await self._ask(self._client.hget(self._keys.held, blueprint))
        return None if stored is None else Hold(**loads(stored))
