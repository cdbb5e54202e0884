"""Schedules in Redis: each in a hash, those that are not paused in an index by their next due time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from avtomatika.schedules.records import Firing, Pause, Schedule, ScheduleRecord
from avtomatika.state.base import Commit, CommitResult
from avtomatika.state.redis_base import Command, Word, dumps, loads, text
from avtomatika.state.redis_jobs import RedisJobs

#: How long the pause and the last firing of a schedule that was dropped are kept.
_KEPT_SECONDS = 7 * 24 * 3600

Guard = tuple[str, str, Word]


class RedisSchedules(RedisJobs):
    async def schedule_digests(self) -> dict[str, str]:
        found: Any = await self._ask(self._client.hgetall(self._keys.schedules))
        return {text(name): text(digest) for name, digest in found.items()}

    async def schedules(self, *, limit: int = 1000, offset: int = 0) -> Sequence[ScheduleRecord]:
        names: Any = await self._ask(self._client.hkeys(self._keys.schedules))
        return await self._schedules(sorted(text(name) for name in names)[offset : offset + limit])

    async def schedule(self, name: str) -> ScheduleRecord | None:
        return next(iter(await self._schedules([name])), None)

    async def put_schedule(self, record: ScheduleRecord, was: str, *, retimed: bool) -> bool:
        schedule, keys = record.schedule, self._keys
        named = [keys.schedule(schedule.name), keys.schedules, keys.schedules_due]
        words = [schedule.name, was, schedule.digest, dumps(schedule.to_dict())]
        words += [repr(record.anchor), _written(record.next_due)] if retimed else []
        return int(await self._ask(self._script("put_schedule")(keys=named, args=words))) == 1

    async def drop_schedule(self, name: str, digest: str) -> bool:
        keys, own = self._keys, self._keys.schedule(name)
        commands: list[Command] = [
            ("HDEL", keys.schedules, name),
            ("ZREM", keys.schedules_due, name),
            ("EXPIRE", own, _KEPT_SECONDS),
        ]
        return (await self._apply([(own, "", ""), (keys.schedules, name, digest)], commands)).applied

    async def due_schedules(self, now: float, limit: int = 100) -> Sequence[ScheduleRecord]:
        due = self._client.zrange(self._keys.schedules_due, "-inf", now, byscore=True, offset=0, num=limit)
        names: Any = await self._ask(due)
        found = await self._schedules([text(name) for name in names])
        # Between the two questions somebody may have made its job, or paused it.
        return [r for r in found if r.pause is None and r.next_due is not None and r.next_due <= now]

    async def fire_schedule(
        self, record: ScheduleRecord, then: float | None, commit: Commit | None = None, firing: Firing | None = None
    ) -> CommitResult:
        own = self._keys.schedule(record.schedule.name)
        guards: list[Guard] = [*self._as_it_stands(record), (own, "at", _written(record.next_due))]
        commands = self._due_commands(record.schedule.name, then)
        if firing is not None:
            commands.append(("HSET", own, "l", dumps(asdict(firing))))
        outbox: list[str] = []
        if commit is not None:
            guards.append((self._keys.job(commit.job.id), "v", ""))
            more, outbox = self._commit_commands(commit)
            commands += more
        now = 0.0 if commit is None else commit.job.updated_at
        return await self._apply(guards, commands, now, nonce=None if commit is None else commit.id, outbox=outbox)

    async def pause_schedule(self, record: ScheduleRecord, pause: Pause) -> bool:
        name = record.schedule.name
        commands: list[Command] = [
            ("HSET", self._keys.schedule(name), "p", dumps(asdict(pause))),
            ("ZREM", self._keys.schedules_due, name),
        ]
        return (await self._apply(self._as_it_stands(record, paused=False), commands)).applied

    async def resume_schedule(self, record: ScheduleRecord, next_due: float | None) -> bool:
        if record.pause is None:
            return False
        name = record.schedule.name
        commands = [("HDEL", self._keys.schedule(name), "p"), *self._due_commands(name, next_due)]
        return (await self._apply(self._as_it_stands(record), commands)).applied

    def _as_it_stands(self, record: ScheduleRecord, paused: bool | None = None) -> list[Guard]:
        """Guards: it says what the record says, and is paused as the record is (or as is given here)."""
        name = record.schedule.name
        pause = "" if record.pause is None or paused is False else dumps(asdict(record.pause))
        return [(self._keys.schedule(name), "p", pause), (self._keys.schedules, name, record.schedule.digest)]

    def _due_commands(self, name: str, due: float | None) -> list[Command]:
        """It is due at a time, or never."""
        own, index = self._keys.schedule(name), self._keys.schedules_due
        if due is None:
            return [("HSET", own, "at", ""), ("ZREM", index, name)]
        return [("HSET", own, "at", _written(due)), ("ZADD", index, _written(due), name)]

    async def _schedules(self, names: Sequence[str]) -> list[ScheduleRecord]:
        """Those of the names that are there."""
        if not names:
            return []
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hmget(self._keys.schedules, list(names))
            for name in names:
                pipe.hgetall(self._keys.schedule(name))
            digests, *rows = await self._ask(pipe.execute())
        return [_record(row) for digest, row in zip(digests, rows, strict=True) if digest is not None and row]


def _record(row: Mapping[str, str]) -> ScheduleRecord:
    pause, last = row.get("p"), row.get("l")
    return ScheduleRecord(
        schedule=Schedule.from_dict(loads(row["d"])),
        anchor=float(row["a"]),
        next_due=float(row["at"]) if row["at"] else None,
        pause=Pause(**loads(pause)) if pause else None,
        last=Firing(**loads(last)) if last else None,
    )


def _written(due: float | None) -> str:
    return "" if due is None else repr(due)
