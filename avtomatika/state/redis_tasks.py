"""Attempts in Redis.

Fields of a task's hash: j job, ty type, d TaskInfo, st state, at dispatched at, ts timeout in seconds, w worker, b boot,
ct claimed at, to timeout at, p progress, pm its message, ps its status,
x cancel flag, r reported result, n nonce of the last change;
lk limits, pl a plain Celery task; while it waits, and while one with limits is unclaimed: ln lane, lm the lane's meta, wt weight,
sq order, en since when, ml and mp its message;
once assigned: tw worker, tb boot, tc capability, fu the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avtomatika.jobs import Event, Message, Result, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import BranchOutcome, ClaimOutcome, CommitResult, NewTask, Progress, TaskClaim, TaskRecord
from avtomatika.state.redis_base import LIBRARIES, Command, dumps, loads, text, todo
from avtomatika.state.redis_jobs import RedisJobs


class RedisTasks(RedisJobs):
    async def get_task(self, task_id: str) -> TaskRecord | None:
        row = await self._ask(self._client.hgetall(self._keys.task(task_id)))
        record = record_of(row)
        if record is None or record.state is not TaskState.WAITING:
            return record
        spec = await self._ask(self._client.hget(self._keys.parked, f"{record.info.type}\n{row['ln']}"))
        name = text(spec).rsplit("\n", 2)[0] if spec is not None else ""
        return replace(record, parked_on=name if name and not name.startswith("\n") else None)

    async def claim_task(
        self,
        task_id: str,
        worker_id: str,
        boot_id: str,
        now: float,
        default_timeout: float,
        capability: str = "",
        *,
        handing: bool = False,
        call: str | None = None,
    ) -> TaskClaim:
        keys = self._keys
        reply = await self._ask(
            self._script("claim_task", *LIBRARIES)(
                keys=[keys.task(task_id), keys.unclaimed, keys.timers, keys.claims(boot_id)],
                args=[worker_id, boot_id, now, default_timeout, task_id, call or new_id(), capability, int(handing)],
            )
        )
        outcome = ClaimOutcome(text(reply[0]))
        if outcome is not ClaimOutcome.OK:
            return TaskClaim(outcome)
        return TaskClaim(outcome, float(reply[1]), todo(reply[2]).outbox)

    async def finish_task(
        self,
        task_id: str,
        boot_id: str,
        result: Result,
        message: Message,
        now: float,
        outcome: str = "",
        *,
        call: str | None = None,
    ) -> CommitResult:
        keys = self._keys
        key = keys.task(task_id)
        published, outbox_id = self._publish(message, now)
        commands: list[Command] = [
            ("HSET", key, "st", TaskState.DONE.value, "r", dumps(result.to_dict())),
            ("ZREM", keys.timers, f"timeout|{task_id}", f"cancel|{task_id}"),
            ("HDEL", keys.claims(boot_id), f"t:{task_id}"),
            *published,
            ("@ended", task_id, outcome),
        ]
        guards = [(key, "b", boot_id), (key, "st", TaskState.CLAIMED.value)]
        call = call or new_id()
        outbox = [outbox_id] if outbox_id else []
        return await self._apply(guards, commands, now, nonce=call, outbox=outbox, mark=keys.call(call))

    async def release_task(self, task_id: str, boot_id: str, now: float) -> bool:
        keys = self._keys
        key = keys.task(task_id)
        commands: list[Command] = [
            ("HSET", key, "st", TaskState.DISPATCHED.value, "at", now),
            ("HDEL", key, "w", "b", "ct", "to", "p", "pm", "ps"),
            ("ZADD", keys.unclaimed, now, task_id),
            ("ZREM", keys.timers, f"timeout|{task_id}"),
            ("HDEL", keys.claims(boot_id), f"t:{task_id}"),
            ("@released", task_id),
        ]
        done = await self._apply([(key, "b", boot_id), (key, "st", TaskState.CLAIMED.value)], commands, now)
        if not done.applied:
            await self._ask(self._client.hdel(keys.claims(boot_id), f"t:{task_id}"))
        return done.applied

    async def task_progress(self, task_id: str, boot_id: str, progress: float, message: str, status: str = "") -> bool:
        key = self._keys.task(task_id)
        said = message.encode("utf-8", "replace").decode()  # half a surrogate pair is no word of the command's JSON
        return (await self._apply([(key, "b", boot_id)], [("HSET", key, "p", progress, "pm", said, "ps", status)])).applied

    async def progress_of(self, task_ids: Sequence[str]) -> dict[str, Progress]:
        if not task_ids:
            return {}
        async with self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.hmget(self._keys.task(task_id), ["p", "pm"])
            rows = await self._ask(pipe.execute())
        said = zip(task_ids, rows, strict=True)
        return {task_id: Progress(float(value), message or "") for task_id, (value, message) in said if value is not None}

    async def branch_done(
        self, job_id: str, fanout_id: str, task_id: str, result: Result, event: Event, settles: Sequence[str], aggregate: Message
    ) -> tuple[BranchOutcome, CommitResult]:
        first = [*self._event_commands([event]), *self._settle(settles)]
        published, outbox_id = self._publish(aggregate, event.timestamp)
        success = result.status not in (Result.FAILURE, Result.TIMEOUT, Result.CANCELLED)
        reply = await self._ask(
            self._script("branch_done", *LIBRARIES)(
                keys=[self._keys.branches(job_id)],
                args=[fanout_id, task_id, dumps(result.to_dict()), int(success), event.timestamp, dumps([first, published])],
            )
        )
        outcome = BranchOutcome(text(reply[0]))
        if outcome is BranchOutcome.STALE:
            return outcome, CommitResult(False)
        return outcome, todo(reply[1], [outbox_id] if outbox_id and outcome is BranchOutcome.LAST else [])

    async def replace_branch_task(
        self,
        old: TaskInfo,
        new: NewTask,
        event: Event,
        *,
        message: Message | None = None,
        timers: Sequence[Timer] = (),
        settles: Sequence[str] = (),
    ) -> CommitResult:
        keys = self._keys
        branches, now = keys.branches(old.job_id), event.timestamp
        commands: list[Command] = [
            ("HDEL", branches, old.id),
            ("HSET", branches, new.info.id, f"{old.branch}|"),
            ("@drop", old.id),
            *self._new_task_commands(new, now),
            *self._event_commands([event]),
            *self._settle(settles),
            *(("ZADD", keys.timers, timer.due, timer.member) for timer in timers),
        ]
        outbox_id = None
        if message is not None:
            published, outbox_id = self._publish(message, now)
            commands += published
        guards = [(branches, old.id, f"{old.branch}|"), (keys.task(old.id), "j", old.job_id)]
        return await self._apply(guards, commands, now, outbox=[outbox_id] if outbox_id else [])

    async def branches(self, job_id: str) -> dict[str, Result | None]:
        rows = await self._ask(self._client.hgetall(self._keys.branches(job_id)))
        found = []
        for task_id, value in rows.items():
            if text(task_id).startswith("#") or text(task_id) == "n":  # "n": the nonce of the last change
                continue
            index, _, body = text(value).partition("|")
            found.append((int(index), text(task_id), Result.from_dict(loads(body)) if body else None))
        return {task_id: result for _, task_id, result in sorted(found, key=lambda row: row[0])}

    async def redispatch(self, task_id: str, message: Message, now: float) -> CommitResult:
        keys = self._keys
        key = keys.task(task_id)
        record = await self.get_task(task_id)
        if record is None or record.state not in (TaskState.UNROUTED, TaskState.DELAYED, TaskState.DISPATCHED):
            return CommitResult(False)
        published, outbox_id = self._publish(message, now)
        commands: list[Command] = [
            ("HSET", key, "st", TaskState.DISPATCHED.value, "at", now),
            ("SREM", keys.unrouted(record.info.type), task_id),
            *published,
        ]
        if not record.info.is_plain:
            commands += [("ZADD", keys.unclaimed, now, task_id), ("SADD", keys.queued(record.info.type), task_id)]
            commands.append(("PUBLISH", keys.news, dumps(["task", record.info.type])))
        guards = [(key, "st", record.state.value), (key, "tb", "")]
        return await self._apply(guards, commands, now, outbox=[outbox_id] if outbox_id else [])

    async def unrouted(self, task_type: str) -> Sequence[str]:
        key = self._keys.unrouted(task_type)
        ids = sorted(text(i) for i in await self._ask(self._client.smembers(key)))
        async with self._client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.exists(self._keys.task(task_id))
            exist = await self._ask(pipe.execute()) if ids else []
        dropped = [task_id for task_id, found in zip(ids, exist, strict=True) if not found]
        if dropped:
            await self._ask(self._client.srem(key, *dropped))
        return [task_id for task_id in ids if task_id not in dropped]

    async def unrouted_types(self) -> Sequence[str]:
        types = sorted(text(t) for t in await self._ask(self._client.smembers(self._keys.unrouted_types)))
        waiting = []
        for task_type in types:
            if await self._ask(self._client.exists(self._keys.unrouted(task_type))):
                waiting.append(task_type)
            else:  # in one call: another may come to wait meanwhile
                keys = [self._keys.unrouted(task_type), self._keys.unrouted_types]
                await self._ask(self._script("forget_unrouted")(keys=keys, args=[task_type]))
        return waiting

    async def unclaimed(self, dispatched_before: float, limit: int = 1000) -> Sequence[TaskRecord]:
        ids = await self._ask(
            self._client.zrange(self._keys.unclaimed, "-inf", f"({dispatched_before!r}", byscore=True, offset=0, num=limit)
        )
        async with self._client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.hgetall(self._keys.task(text(task_id)))
            rows = await self._ask(pipe.execute()) if ids else []
        records = []
        for task_id, row in zip(ids, rows, strict=True):
            record = record_of(row)
            if record is None:
                await self._ask(self._client.zrem(self._keys.unclaimed, text(task_id)))
            else:
                records.append(record)
        return records


def record_of(row: dict[str, str]) -> TaskRecord | None:
    if not row or "d" not in row:
        return None
    state = TaskState(row["st"])
    return TaskRecord(
        info=TaskInfo.from_dict(loads(row["d"])),
        state=state,
        worker_id=row.get("w"),
        boot_id=row.get("b"),
        dispatched_at=float(row.get("at") or 0),
        claimed_at=float(row["ct"]) if row.get("ct") else None,
        timeout_at=float(row["to"]) if row.get("to") else None,
        progress=float(row["p"]) if row.get("p") else None,
        progress_message=row.get("pm") or None,
        progress_status=row.get("ps") or "",
        cancel_requested=row.get("x") == "1",
        reported=Result.from_dict(loads(row["r"])) if row.get("r") else None,
        waiting_since=float(row["en"]) if row.get("en") else None,
        assigned_to=row.get("tw"),
        decision=loads(row["fu"]) if row.get("fu") else None,
    )
