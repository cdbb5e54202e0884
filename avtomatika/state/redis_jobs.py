"""Jobs in Redis: one call commits a change with all that follows from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from hashlib import sha1
from itertools import chain
from typing import Any

from avtomatika.jobs import JSON, Event, FanOut, Job, JobStatus, Message, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import WARM, ClaimOutcome, Commit, CommitResult, Entry, Hold, JobClaim, NewTask
from avtomatika.state.listed import LISTED, place_of
from avtomatika.state.redis_base import Command, Word, dumps, loads, packed, text
from avtomatika.state.redis_deliveries import RedisDeliveries
from avtomatika.state.redis_feed import RedisFeed
from avtomatika.state.shared import SharedCalls

# Of the stream of events: how many are read at a time, and for how many seconds one call waits for some (less than the socket's
# time-out).
_CHUNK = 1000
_BLOCK = 2.0
# Of jobs that come into being: how many are stored in one call, and how many bytes of records. Redis does nothing else meanwhile.
_CREATED = 32
_CREATED_BYTES = 256 * 1024


class RedisJobs(RedisFeed, RedisDeliveries):
    async def commit(self, commit: Commit) -> CommitResult:
        if is_plain_creation(commit):
            return await self._create(commit)
        commands, outbox = self._commit_commands(commit)
        expected = "" if commit.expected_version is None else commit.expected_version
        guards: list[tuple[str, str, Word]] = [(self._keys.job(commit.job.id), "v", expected)]
        if commit.hold is not None or commit.unheld:
            hold = "" if commit.hold is None else hold_record(commit.hold)
            guards.append((self._keys.held, commit.job.blueprint_name, hold))
        if commit.unbegun and commit.drop_branches:  # an attempt that has ended is forgotten
            guards.append((self._keys.branches(commit.job.id), "#left", len(commit.unbegun)))
        now = commit.job.updated_at
        return await self._apply(guards, commands, now, nonce=commit.id, outbox=outbox, unbegun=commit.unbegun)

    async def _create(self, commit: Commit) -> CommitResult:
        job, (message,), (event,) = commit.job, commit.messages, commit.events
        in_ledger = packed(message.to_dict())
        queue, payload = self._push(message) if self._push is not None else ("", in_ledger)
        listed = (job.blueprint_name, place_of(job)) if job.blueprint_name in LISTED else ("", 0)
        record = packed(job.to_dict())
        words: list[Any] = [commit.id, job.version, job.status.value, record, job.id, job.client.name, job.created_at]
        words += [packed(event.to_dict()), message.key, in_ledger, queue, payload, *listed]
        done = await self._answer(self._creations(words, len(record)))
        if done == 0:
            return CommitResult(False)
        return CommitResult(True, () if self._push is not None or done == 2 else (commit.id,))

    @cached_property
    def _creations(self) -> SharedCalls[list[Any], int]:
        return SharedCalls(self._create_all, most=_CREATED, most_bytes=_CREATED_BYTES)

    async def _create_all(self, jobs: Sequence[list[Any]]) -> Sequence[int]:
        words = [self._stream_length, int(self._snapshots), *chain.from_iterable(jobs)]
        done: Sequence[Any] = await self._ask(self._script("create_jobs")(args=words))
        return [int(each) for each in done]

    def _commit_commands(self, commit: Commit) -> tuple[list[Command], list[str]]:
        job, keys, now = commit.job, self._keys, commit.job.updated_at
        commands = self._index_commands(commit)  # first: it wants the status that is stored now
        commands.append(("HSET", keys.job(job.id), "v", job.version, "s", job.status.value, "d", dumps(job.to_dict())))
        commands += self._event_commands(commit.events, job if self._snapshots and commit.is_turn else None)
        for task_id in commit.drop_tasks:
            commands.append(("@drop", task_id))
        commands += [("@cancel", task_id) for task_id in commit.cancel_tasks]
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
        for delivery in commit.deliveries:
            commands += self._delivery_commands(delivery)
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
        return commands + self._expiry_commands(commit), outbox

    def _index_commands(self, commit: Commit) -> list[Command]:
        job, keys = commit.job, self._keys
        commands: list[Command] = []
        if commit.expected_version is None:
            commands.append(("ZADD", keys.jobs, job.created_at, job.id))
            commands.append(("ZADD", keys.jobs_by_client(job.client.name), job.created_at, job.id))
            commands += self._listing_commands(job)
        return [*commands, ("@status", job.id, job.status.value, job.updated_at)]

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
        if ":" in job_id:  # no id of ours: it would name another key
            return None
        return self._shown(await self._ask(self._client.hmget(self._keys.job(job_id), ["d", "c"])))

    @staticmethod
    def _shown(fields: Sequence[Any]) -> Job | None:
        body, claim = fields
        if body is None:
            return None
        job = Job.from_dict(loads(body))
        return replace(job, status=JobStatus.RUNNING) if claim and job.status is JobStatus.PENDING else job

    async def is_claimed(self, job_id: str, now: float) -> bool:
        held = await self._ask(self._client.hget(self._keys.job(job_id), "c"))
        expires = await self._ask(self._client.zscore(self._keys.boots, held)) if held else None
        return expires is not None and float(expires) > now

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
            found += [job for job in await self.load_many(ids) if status is None or job.status is status]
        return found[:limit]

    async def in_status(
        self,
        status: JobStatus,
        *,
        client: str | None = None,
        limit: int = 50,
        offset: int = 0,
        before: tuple[float, str] | None = None,
    ) -> Sequence[tuple[str, float]]:
        index = self._keys.jobs_by_status(status.value)
        found: list[tuple[str, float]] = []
        if client is not None:
            # Redis goes through the smaller of the two; the weights keep the time of the status.
            weighted = {index: 1, self._keys.jobs_by_client(client): 0}
            rows: Any = await self._ask(self._client.zinter(weighted, aggregate="SUM", withscores=True))
            every = sorted(behind(rows, before), key=lambda row: (row[1], row[0]), reverse=True)
            return (await self._existing(every))[offset : offset + limit]
        skip, start = offset, 0
        if before is not None:
            start = int(await self._ask(self._client.zcount(index, f"({before[0]!r}", "+inf")))
        while len(found) < limit:
            rows = await self._ask(self._client.zrange(index, start, start + 499, desc=True, withscores=True))
            existing = await self._existing(behind(rows, before))
            found += existing[skip:]
            skip = max(0, skip - len(existing))
            if len(rows) < 500:
                break
            start += 500
        return found[:limit]

    async def _existing(self, rows: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
        """Those whose records have not expired: the indexes learn that only now and then (`forget_expired`)."""
        if not rows:
            return []
        async with self._client.pipeline(transaction=False) as pipe:
            for job_id, _ in rows:
                pipe.exists(self._keys.job(job_id))
            exists = await self._ask(pipe.execute())
        return [row for row, there in zip(rows, exists, strict=True) if there]

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        if not job_ids:
            return []
        async with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(self._keys.job(text(job_id)), ["d", "c"])
            rows = await self._ask(pipe.execute())
        return [job for job in map(self._shown, rows) if job is not None]

    async def count_by_status(self) -> dict[JobStatus, int]:
        async with self._client.pipeline(transaction=False) as pipe:
            for status in JobStatus:
                pipe.zcard(self._keys.jobs_by_status(status.value))
            counts = await self._ask(pipe.execute())
        return dict(zip(JobStatus, counts, strict=True))

    async def events(self, job_id: str, start: int = 0) -> Sequence[Event]:
        rows = await self._ask(self._client.lrange(self._keys.job_events(job_id), start, -1))
        return [Event.from_dict(loads(row)) for row in rows]

    async def changes(self) -> AsyncGenerator[Collection[str]]:
        stream = self._keys.events
        async with self._client.client() as own:  # a connection of its own: the call below holds it
            newest = await self._ask(own.xrevrange(stream, count=1))
            last = text(newest[0][0]) if newest else "0-0"
            yield ()
            while True:
                call = own.xread({stream: last}, count=_CHUNK, block=int(_BLOCK * 1000))
                found: Any = await self._ask(call, blocks=_BLOCK)
                rows = _rows(found)
                if rows:
                    last = text(rows[-1][0])
                yield {loads(fields["e"])["job_id"] for _, fields in rows}

    async def remember_request(self, client: str, key: str, digest: str, job_id: str, ttl: float) -> tuple[str, str]:
        """Binds an idempotency key to a request; returns (digest, job id) of whoever came first."""
        name = self._keys.idempotency(client, key)
        await self._ask(self._client.set(name, f"{digest} {job_id}", nx=True, ex=max(1, int(ttl))))
        stored = await self._ask(self._client.get(name))
        first, _, first_job = text(stored or f"{digest} {job_id}").partition(" ")
        return first, first_job

    async def remembered_job(self, client: str, key: str) -> str | None:
        stored = await self._ask(self._client.get(self._keys.idempotency(client, key)))
        return text(stored).partition(" ")[2] if stored is not None else None


def is_plain_creation(commit: Commit) -> bool:
    """Whether it brings a job into being with the message that starts it, and does nothing else."""
    return (
        commit.expected_version is None
        and len(commit.messages) == len(commit.events) == 1
        and commit.messages[0].key is not None
        and not commit.messages[0].exchange
        and not (commit.tasks or commit.children or commit.timers or commit.settles or commit.deliveries)
        and not (commit.hold or commit.unheld or commit.unbegun)
        and not commit.job.status.is_terminal
    )


def hold_record(hold: Hold) -> str:
    """How a hold is stored: always the same for the same one."""
    return dumps(asdict(hold))


def behind(rows: Any, before: tuple[float, str] | None) -> list[tuple[str, float]]:
    """Rows of an index by time, those only that come behind a place."""
    found = [(text(job_id), float(at)) for job_id, at in rows]
    return found if before is None else [(job_id, at) for job_id, at in found if (at, job_id) < before]


def _rows(found: Any) -> list[Any]:
    """The entries that XREAD answered for its one stream: a list of pairs by the older protocol, a map by the newer."""
    if not found:
        return []
    if isinstance(found, dict):
        [rows] = found.values()
        return [entry for part in rows for entry in part]
    return list(found[0][1])


def _limits(info: TaskInfo) -> list[Any]:
    return [[limit.key, limit.count, limit.seconds or 0] for limit in info.limits]


def _lane(info: TaskInfo, kind: str, signature: str) -> str:
    words = dumps([info.fairness_key, _limits(info), kind, signature])
    return sha1(words.encode(), usedforsecurity=False).hexdigest()[:20]
