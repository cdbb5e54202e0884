"""The stream of all jobs' events in Redis, and ended jobs that are forgotten: nothing stays without an end."""

from __future__ import annotations

from collections.abc import Sequence

from avtomatika.jobs import Event, Job, JobStatus
from avtomatika.state.base import Commit, FeedEntry
from avtomatika.state.listed import LISTED, place_of
from avtomatika.state.redis_base import Command, RedisBase, dumps, loads, text


class RedisFeed(RedisBase):
    async def feed(self, after: str = "", limit: int = 1000) -> Sequence[FeedEntry]:
        start = f"({after}" if after else "-"
        rows = await self._ask(self._client.xrange(self._keys.events, min=start, max="+", count=limit))
        return [
            FeedEntry(
                text(entry_id),
                Event.from_dict(loads(fields["e"])),
                int(fields["n"]),
                Job.from_dict(loads(fields["j"])) if "j" in fields else None,
            )
            for entry_id, fields in rows
        ]

    async def trim_feed(self, through: str, before: float) -> int:
        oldest = max(0, int(before * 1000))
        if through:
            millis, _, number = through.partition("-")
            bound = min((oldest, 0), (int(millis), int(number) + 1))
        else:
            bound = (oldest, 0)
        call = self._client.xtrim(self._keys.events, minid=f"{bound[0]}-{bound[1]}", approximate=False)
        return int(await self._ask(call))

    async def feed_length(self) -> int:
        return int(await self._ask(self._client.xlen(self._keys.events)))

    async def forget_expired(self, now: float, limit: int = 200) -> int:
        return int(await self._ask(self._script("forget_jobs", "lib_forget")(args=[now, limit, *self._listed_names])))

    def _event_commands(self, events: Sequence[Event], job: Job | None = None) -> list[Command]:
        """The last of the events tells the job's record, where one is given."""
        commands: list[Command] = [("@event", event.job_id, dumps(event.to_dict()), self._stream_length) for event in events]
        if commands and job is not None:
            commands[-1] = (*commands[-1], dumps(job.to_dict()))
        return commands

    def _expiry_commands(self, commit: Commit) -> list[Command]:
        """From an end on a job's days are counted; a retry ends that."""
        job, keys, previous = commit.job, self._keys, commit.previous_status
        commands: list[Command] = []
        if previous is not None and previous.is_terminal:
            commands.append(("ZREM", keys.expiring, _expiring(job, previous)))
        if job.status.is_terminal:
            commands += [("ZREM", key, job.id) for key in self._live_keys(job)]
            commands += [("EXPIRE", key, self._retention) for key in (keys.job(job.id), keys.job_events(job.id))]
            commands.append(("ZADD", keys.expiring, job.updated_at + self._retention, _expiring(job, job.status)))
        elif commands:
            commands += [("PERSIST", key) for key in (keys.job(job.id), keys.job_events(job.id))]
            commands += [("ZADD", key, place_of(job), job.id) for key in self._live_keys(job)]
        return commands

    _listed_names = tuple(sorted(LISTED))

    def _live_keys(self, job: Job) -> tuple[str, ...]:
        name, client, keys = job.blueprint_name, job.client.name, self._keys
        return (keys.listed(name, live=True), keys.listed(name, client, live=True)) if name in LISTED else ()

    def _listing_commands(self, job: Job) -> list[Command]:
        """Those that put a new job of a listed blueprint into its indexes."""
        if job.blueprint_name not in LISTED:
            return []
        every = (self._keys.listed(job.blueprint_name), self._keys.listed(job.blueprint_name, job.client.name))
        commands: list[Command] = [("ZADD", key, job.created_at, job.id) for key in every]
        return commands + [("ZADD", key, place_of(job), job.id) for key in self._live_keys(job)]


def _expiring(job: Job, status: JobStatus) -> str:
    return f"{job.id} {status.value} {job.client.name}"
