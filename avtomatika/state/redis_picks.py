"""Tasks that wait for their turn, for a limit or for a worker, in Redis; the work is done in scripts/lib_lanes.lua."""

from __future__ import annotations

from collections.abc import Sequence

from avtomatika.jobs import JSON, Event, Message, TaskState, WorkerRecord, new_id
from avtomatika.state.base import Assignment, AssignOutcome, CommitResult, Entry, TaskRecord
from avtomatika.state.redis_base import LIBRARIES, Command, dumps, text, todo
from avtomatika.state.redis_tasks import RedisTasks, record_of

_ENTERED = (TaskState.UNROUTED, TaskState.DELAYED, TaskState.WAITING)


class RedisPicks(RedisTasks):
    async def enter(self, task_id: str, entry: Entry, now: float) -> CommitResult:
        record = await self.get_task(task_id)
        if record is None or record.state not in _ENTERED:
            return CommitResult(False)
        commands: list[Command] = [("@move", task_id, self._place(record.info, entry))]
        if record.state is TaskState.DELAYED:
            commands += self._dispatch_timer(record.info, now)
        return await self._apply([(self._keys.task(task_id), "st", record.state.value)], commands, now)

    async def picking(self) -> Sequence[str]:
        return sorted(text(t) for t in await self._ask(self._client.smembers(self._keys.picking)))

    async def heads(self, task_type: str, limit: int = 16) -> Sequence[TaskRecord]:
        rows = await self._ask(self._script("heads", *LIBRARIES)(args=[task_type, limit]))
        records = (record_of(dict(zip(row[::2], row[1::2], strict=True))) for row in rows)
        return [record for record in records if record is not None]

    async def assign(
        self, task_id: str, worker: WorkerRecord, capability: str, message: Message, now: float, decision: JSON, *, ahead: int = 0
    ) -> Assignment:
        keys = self._keys
        record = await self.get_task(task_id)
        if record is None or record.state is not TaskState.WAITING:
            return Assignment(AssignOutcome.GONE)
        nonce = new_id()
        event = Event(
            f"{task_id}:assigned:{nonce}",
            record.info.job_id,
            "task_assigned",
            now,
            task_id=task_id,
            worker_id=worker.id,
            attempt=record.info.attempt,
            details={"type": record.info.type, "decision": decision},
        )
        words = [task_id, worker.boot_id, now, capability, ahead, *self._prepared(message), dumps(decision)]
        reply = await self._ask(
            self._script("assign", *LIBRARIES)(
                keys=[keys.task(task_id), keys.worker(worker.id)],
                args=[*words, dumps(event.to_dict()), self._stream_length, nonce],
            )
        )
        outcome = AssignOutcome(text(reply[0]))
        return Assignment(outcome, todo(reply[1]).outbox if outcome is AssignOutcome.OK else ())

    async def unassign(self, task_id: str, now: float, *, avoid: bool = False) -> CommitResult:
        key = self._keys.task(task_id)
        boot_id = await self._ask(self._client.hget(key, "tb"))
        record = await self.get_task(task_id)
        if record is None or record.state is not TaskState.DISPATCHED or record.assigned_to is None or boot_id is None:
            return CommitResult(False)
        commands: list[Command] = []
        if avoid and record.assigned_to not in record.info.avoid:
            info = record.info.to_dict()
            commands.append(("HSET", key, "d", dumps({**info, "avoid": [*record.info.avoid, record.assigned_to]})))
        commands.append(("@unassign", task_id, "avoid" if avoid else ""))
        guards = [(key, "st", TaskState.DISPATCHED.value), (key, "tw", record.assigned_to), (key, "tb", boot_id)]
        return await self._apply(guards, commands, now)

    async def assigned(self, boot_id: str) -> Sequence[str]:
        names = await self._ask(self._client.hkeys(self._keys.claims(boot_id)))
        return [text(name)[2:] for name in names if text(name).startswith("d:")]

    async def unpark(self, limit_key: str, now: float) -> CommitResult:
        return todo(await self._ask(self._script("unpark", *LIBRARIES)(args=[limit_key, now])))

    async def sweep_leases(self, now: float) -> CommitResult:
        return todo(await self._ask(self._script("sweep", *LIBRARIES)(args=[now])))

    async def lane_position(self, task_id: str) -> int | None:
        task_type, lane = await self._ask(self._client.hmget(self._keys.task(task_id), ["ty", "ln"]))
        if task_type is None or lane is None:
            return None
        found = await self._ask(self._client.zrank(self._keys.lane(text(task_type), text(lane)), task_id))
        return int(found) if found is not None else None
