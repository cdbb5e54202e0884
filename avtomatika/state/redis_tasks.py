"""Attempts in Redis.

Fields of a task's hash: j job, d TaskInfo, st state, at dispatched at, ts timeout in seconds, w worker, b boot,
ct claimed at, to timeout at, p progress, pm its message, x cancel flag, r reported result, n nonce of the last change.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from avtomatika.jobs import Event, Message, Result, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import BranchOutcome, ClaimOutcome, CommitResult, NewTask, TaskClaim, TaskRecord
from avtomatika.state.redis_base import Command, dumps, loads, text
from avtomatika.state.redis_jobs import RedisJobs


class RedisTasks(RedisJobs):
    async def get_task(self, task_id: str) -> TaskRecord | None:
        return _record(await self._ask(self._client.hgetall(self._keys.task(task_id))))

    @cached_property
    def _claim_task(self) -> Any:
        return self._script("claim_task")

    @cached_property
    def _branch_done(self) -> Any:
        return self._script("branch_done")

    async def claim_task(self, task_id: str, worker_id: str, boot_id: str, now: float, default_timeout: float) -> TaskClaim:
        keys = self._keys
        reply = await self._ask(
            self._claim_task(
                keys=[keys.task(task_id), keys.unclaimed, keys.timers, keys.claims(boot_id)],
                args=[worker_id, boot_id, now, default_timeout, task_id, new_id()],
            )
        )
        outcome = ClaimOutcome(text(reply[0]))
        return TaskClaim(outcome, float(reply[1]) if outcome is ClaimOutcome.OK else None)

    async def finish_task(self, task_id: str, boot_id: str, result: Result, message: Message, now: float) -> CommitResult:
        keys = self._keys
        key = keys.task(task_id)
        published, outbox_id = self._publish(message, now)
        commands: list[Command] = [
            ("HSET", key, "st", TaskState.DONE.value, "r", dumps(result.to_dict())),
            ("ZREM", keys.timers, f"timeout|{task_id}"),
            ("HDEL", keys.claims(boot_id), f"t:{task_id}"),
            *published,
        ]
        applied = await self._apply([(key, "b", boot_id), (key, "st", TaskState.CLAIMED.value)], commands)
        return CommitResult(applied, (outbox_id,) if applied and outbox_id else ())

    async def release_task(self, task_id: str, boot_id: str, now: float) -> bool:
        keys = self._keys
        key = keys.task(task_id)
        commands: list[Command] = [
            ("HSET", key, "st", TaskState.DISPATCHED.value, "at", now),
            ("HDEL", key, "w", "b", "ct", "to", "p", "pm"),
            ("ZADD", keys.unclaimed, now, task_id),
            ("ZREM", keys.timers, f"timeout|{task_id}"),
            ("HDEL", keys.claims(boot_id), f"t:{task_id}"),
        ]
        applied = await self._apply([(key, "b", boot_id), (key, "st", TaskState.CLAIMED.value)], commands)
        if not applied:
            await self._ask(self._client.hdel(keys.claims(boot_id), f"t:{task_id}"))
        return applied

    async def task_progress(self, task_id: str, boot_id: str, progress: float, message: str) -> bool:
        key = self._keys.task(task_id)
        return await self._apply([(key, "b", boot_id)], [("HSET", key, "p", progress, "pm", message)])

    async def branch_done(
        self, job_id: str, fanout_id: str, task_id: str, result: Result, event: Event, settles: Sequence[str], aggregate: Message
    ) -> tuple[BranchOutcome, tuple[str, ...]]:
        first = [*self._drop_task_commands(task_id), *self._event_commands([event]), *self._settle(settles)]
        published, outbox_id = self._publish(aggregate, event.timestamp)
        reply = await self._ask(
            self._branch_done(
                keys=[self._keys.branches(job_id)],
                args=[fanout_id, task_id, dumps(result.to_dict()), dumps([first, published])],
            )
        )
        outcome = BranchOutcome(text(reply))
        return outcome, (outbox_id,) if outbox_id and outcome is BranchOutcome.LAST else ()

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
            *self._drop_task_commands(old.id),
            *self._new_task_commands(new, now),
            *self._event_commands([event]),
            *self._settle(settles),
            *(("ZADD", keys.timers, timer.due, timer.member) for timer in timers),
        ]
        outbox_id = None
        if message is not None:
            published, outbox_id = self._publish(message, now)
            commands += published
        applied = await self._apply([(branches, old.id, f"{old.branch}|")], commands)
        return CommitResult(applied, (outbox_id,) if applied and outbox_id else ())

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
            *([] if record.info.is_plain else [("ZADD", keys.unclaimed, now, task_id)]),
            *published,
        ]
        applied = await self._apply([(key, "st", record.state.value)], commands)
        return CommitResult(applied, (outbox_id,) if applied and outbox_id else ())

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
            else:
                await self._ask(self._client.srem(self._keys.unrouted_types, task_type))
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
            record = _record(row)
            if record is None:
                await self._ask(self._client.zrem(self._keys.unclaimed, text(task_id)))
            else:
                records.append(record)
        return records


def _record(row: dict[str, str]) -> TaskRecord | None:
    if not row or "d" not in row:
        return None
    return TaskRecord(
        info=TaskInfo.from_dict(loads(row["d"])),
        state=TaskState(row["st"]),
        worker_id=row.get("w"),
        boot_id=row.get("b"),
        dispatched_at=float(row.get("at") or 0),
        claimed_at=float(row["ct"]) if row.get("ct") else None,
        timeout_at=float(row["to"]) if row.get("to") else None,
        progress=float(row["p"]) if row.get("p") else None,
        progress_message=row.get("pm") or None,
        cancel_requested=row.get("x") == "1",
        reported=Result.from_dict(loads(row["r"])) if row.get("r") else None,
    )
