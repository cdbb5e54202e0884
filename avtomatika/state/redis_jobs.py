"""Jobs in Redis: one call commits a change with all that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha1
from typing import Any

from avtomatika.jobs import JSON, Event, FanOut, Job, JobStatus, Message, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import WARM, ClaimOutcome, Commit, CommitResult, Entry, JobClaim, NewTask
from avtomatika.state.redis_base import Command, RedisBase, dumps, loads, text


class RedisJobs(RedisBase):
    async def commit(self, commit: Commit) -> CommitResult:
        commands, outbox = self._commit_commands(commit)
        expected = "" if commit.expected_version is None else commit.expected_version
        guards = [(self._keys.job(commit.job.id), "v", expected)]
        return await self._apply(guards, commands, commit.job.updated_at, nonce=commit.id, outbox=outbox)

    def _commit_commands(self, commit: Commit) -> tuple[list[Command], list[str]]:
        job, keys, now = commit.job, self._keys, commit.job.updated_at
        commands: list[Command] = [("HSET", keys.job(job.id), "v", job.version, "s", job.status.value, "d", dumps(job.to_dict()))]
        commands += self._index_commands(commit)
        commands += self._event_commands(commit.events)
        for task_id in commit.drop_tasks:
            commands.append(("@drop", task_id))
        if commit.drop_branches or commit.settle_branches:
            commands.append(("@settle", keys.branches(job.id)))
        if commit.drop_branches:
            commands.append(("DEL", keys.branches(job.id)))
        for task in commit.tasks:
            commands += self._new_task_commands(task, now)
        commands += self._fanout_commands(job, commit.tasks)
        commands += [("ZADD", keys.timers, timer.due, timer.member) for timer in commit.timers]
        if commit.drop_timers:
            commands.append(("ZREM", keys.timers, *commit.drop_timers))
        commands += self._settle(commit.settles)
        if commit.boot_id is not None and not commit.keep_claim:
            commands.append(("HDEL", keys.job(job.id), "c", "cn"))
            commands.append(("HDEL", keys.claims(commit.boot_id), f"j:{job.id}"))
        outbox: list[str] = []
        for message in commit.messages:
            published, outbox_id = self._publish(message, now)
            commands += published
            outbox += [outbox_id] if outbox_id else []
        for child in commit.children:
            child_commands, child_outbox = self._commit_commands(child)
            commands += child_commands
            outbox += child_outbox
        if job.status.is_terminal:
            commands += [("EXPIRE", key, self._retention) for key in (keys.job(job.id), keys.job_events(job.id))]
        elif commit.previous_status is not None and commit.previous_status.is_terminal:
            commands += [("PERSIST", key) for key in (keys.job(job.id), keys.job_events(job.id))]
        return commands, outbox

    def _index_commands(self, commit: Commit) -> list[Command]:
        job, keys = commit.job, self._keys
        commands: list[Command] = []
        if commit.expected_version is None:
            commands.append(("ZADD", keys.jobs, job.created_at, job.id))
            commands.append(("ZADD", keys.jobs_by_client(job.client.name), job.created_at, job.id))
        if commit.previous_status != job.status:
            if commit.previous_status is not None:
                commands.append(("ZREM", keys.jobs_by_status(commit.previous_status.value), job.id))
            commands.append(("ZADD", keys.jobs_by_status(job.status.value), job.updated_at, job.id))
        return commands

    def _event_commands(self, events: Sequence[Event]) -> list[Command]:
        commands: list[Command] = []
        for event in events:
            body = dumps(event.to_dict())
            commands.append(("RPUSH", self._keys.job_events(event.job_id), body))
            commands.append(("XADD", self._keys.events, "MAXLEN", "~", self._stream_length, "*", "e", body))
        return commands

    def _fanout_commands(self, job: Job, tasks: Sequence[NewTask]) -> list[Command]:
        waiting = job.waiting
        if not tasks or not isinstance(waiting, FanOut):
            return []
        fields: list[Any] = ["#fanout", waiting.id, "#left", waiting.total]
        if waiting.need is not None:
            fields += ("#need", waiting.need)
        if waiting.may_fail is not None:
            fields += ("#may", waiting.may_fail)
        for task in tasks:
            fields += (task.info.id, f"{task.info.branch}|")
        key = self._keys.branches(job.id)
        # In slices: one command's words must fit Lua's stack.
        return [("DEL", key), *(("HSET", key, *fields[i : i + 1000]) for i in range(0, len(fields), 1000))]

    def _new_task_commands(self, task: NewTask, now: float) -> list[Command]:
        info, keys = task.info, self._keys
        fields: list[Any] = ["j", info.job_id, "ty", info.type, "d", dumps(info.to_dict()), "st", task.state.value, "at", now]
        if info.timeout_seconds is not None:
            fields += ("ts", info.timeout_seconds)
        if info.limits:
            fields += ("lk", dumps(_limits(info)))
        if info.is_plain:
            fields += ("pl", 1)
        commands: list[Command] = [("HSET", keys.task(info.id), *fields)]
        if task.entry is not None:
            commands.append(("@enter", info.id, self._place(info, task.entry)))
        elif task.state is TaskState.UNROUTED:
            commands.append(("SADD", keys.unrouted(info.type), info.id))
            commands.append(("SADD", keys.unrouted_types, info.type))
        elif task.state is TaskState.DISPATCHED and not info.is_plain:
            commands.append(("ZADD", keys.unclaimed, now, info.id))
        if task.state is not TaskState.DELAYED:  # its pause is none of the time that it waits for a worker
            commands += self._dispatch_timer(info, now)
        return commands

    def _dispatch_timer(self, info: TaskInfo, now: float) -> list[Command]:
        if info.dispatch_timeout_seconds is None or info.is_plain:
            return []
        return [("ZADD", self._keys.timers, now + info.dispatch_timeout_seconds, Timer("dispatch", info.id, 0).member)]

    def _place(self, info: TaskInfo, entry: Entry) -> JSON:
        """Where a task waits, as `enter` in lib_lanes.lua takes it."""
        kind = "p" if entry.message is None else "f" if info.is_plain else "q"
        place: JSON = {
            "t": info.type,
            "q": kind,
            "n": _lane(info, kind, entry.signature),
            "k": info.fairness_key,
            "wt": info.fairness_weight,
            "l": _limits(info),
            "p": info.priority,
        }
        if entry.message is not None:
            place["m"] = self._prepared(entry.message)
        if entry.unless_warm:
            place["w"] = _lane(info, "p", WARM)
        if info.is_plain and info.timeout_seconds is not None:
            place["ts"] = info.timeout_seconds
        return place

    async def load(self, job_id: str) -> Job | None:
        return self._shown(await self._ask(self._client.hmget(self._keys.job(job_id), ["d", "c"])))

    @staticmethod
    def _shown(fields: Sequence[Any]) -> Job | None:
        body, claim = fields
        if body is None:
            return None
        job = Job.from_dict(loads(body))
        return replace(job, status=JobStatus.RUNNING) if claim and job.status is JobStatus.PENDING else job

    async def claim_job(self, job_id: str, boot_id: str, now: float, key: str, *, version: int | None = None) -> JobClaim:
        keys = self._keys
        wanted = "" if version is None else version
        reply = await self._ask(
            self._script("claim_job")(
                keys=[keys.job(job_id), keys.boots],
                args=[boot_id, now, wanted, keys.claims(""), job_id, key, new_id()],
            )
        )
        outcome = ClaimOutcome(text(reply[0]))
        return JobClaim(outcome, Job.from_dict(loads(reply[1])) if outcome is ClaimOutcome.OK else None)

    async def release_job(self, job_id: str, boot_id: str, message: Message | None = None, now: float = 0.0) -> CommitResult:
        keys = self._keys
        if message is None:
            release = self._script("release_job")
            done = await self._ask(release(keys=[keys.job(job_id), keys.claims(boot_id)], args=[boot_id, job_id]))
            return CommitResult(int(done) == 1)
        published, outbox_id = self._publish(message, now)
        commands = [("HDEL", keys.job(job_id), "c", "cn"), ("HDEL", keys.claims(boot_id), f"j:{job_id}"), *published]
        return await self._apply([(keys.job(job_id), "c", boot_id)], commands, now, outbox=[outbox_id] if outbox_id else [])

    async def list_jobs(
        self,
        *,
        status: JobStatus | None = None,
        client: str | None = None,
        limit: int = 50,
        before: float | None = None,
    ) -> Sequence[Job]:
        index = self._keys.jobs if client is None else self._keys.jobs_by_client(client)
        found: list[Job] = []
        offset = 0
        while len(found) < limit:
            ids = await self._ask(
                self._client.zrange(
                    index,
                    f"({before!r}" if before is not None else "+inf",
                    "-inf",
                    desc=True,
                    byscore=True,
                    offset=offset,
                    num=200,
                )
            )
            if not ids:
                break
            offset += len(ids)
            async with self._client.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hmget(self._keys.job(text(job_id)), ["d", "c"])
                rows = await self._ask(pipe.execute())
            jobs = (self._shown(row) for row in rows)
            found += [job for job in jobs if job is not None and (status is None or job.status is status)]
        return found[:limit]

    async def count_by_status(self) -> dict[JobStatus, int]:
        async with self._client.pipeline(transaction=False) as pipe:
            for status in JobStatus:
                pipe.zcard(self._keys.jobs_by_status(status.value))
            counts = await self._ask(pipe.execute())
        return dict(zip(JobStatus, counts, strict=True))

    async def events(self, job_id: str) -> Sequence[Event]:
        rows = await self._ask(self._client.lrange(self._keys.job_events(job_id), 0, -1))
        return [Event.from_dict(loads(row)) for row in rows]

    async def forget_expired(self, before: float, limit: int = 1000) -> int:
        """Takes jobs whose records have expired out of the indexes; `before` bounds them by creation."""
        gone: list[str] = []
        offset = 0
        while len(gone) < limit:  # past old jobs that are still there
            call = self._client.zrange(self._keys.jobs, "-inf", before, byscore=True, offset=offset, num=limit)
            ids = [text(i) for i in await self._ask(call)]
            if not ids:
                break
            offset += len(ids)
            async with self._client.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.exists(self._keys.job(job_id))
                found = await self._ask(pipe.execute())
            gone += [job_id for job_id, exists in zip(ids, found, strict=True) if not exists]
        if gone:
            await self._ask(self._client.zrem(self._keys.jobs, *gone))
            for status in JobStatus:
                await self._ask(self._client.zrem(self._keys.jobs_by_status(status.value), *gone))
            async for key in self._client.scan_iter(match=self._keys.jobs_by_client("*")):
                await self._ask(self._client.zrem(key, *gone))
        return len(gone)

    async def remember_request(self, client: str, key: str, digest: str, job_id: str, ttl: float) -> tuple[str, str]:
        """Binds an idempotency key to a request; returns (digest, job id) of whoever came first."""
        name = self._keys.idempotency(client, key)
        await self._ask(self._client.set(name, f"{digest} {job_id}", nx=True, ex=int(ttl)))
        stored = await self._ask(self._client.get(name))
        first, _, first_job = text(stored or f"{digest} {job_id}").partition(" ")
        return first, first_job


def _limits(info: TaskInfo) -> list[Any]:
    return [[limit.key, limit.count, limit.seconds or 0] for limit in info.limits]


def _lane(info: TaskInfo, kind: str, signature: str) -> str:
    words = dumps([info.fairness_key, _limits(info), kind, signature])
    return sha1(words.encode(), usedforsecurity=False).hexdigest()[:20]
