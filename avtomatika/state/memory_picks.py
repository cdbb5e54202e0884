"""Picks in memory: tasks that wait for a worker to be chosen, and what lies in workers' direct queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from avtomatika.jobs import JSON, Event, Message, TaskInfo, TaskState, WorkerRecord, new_id
from avtomatika.state.base import Assignment, AssignOutcome, CommitResult, Entry, NewsKind, TaskRecord
from avtomatika.state.memory_base import Change, take_out
from avtomatika.state.memory_lanes import LaneKey
from avtomatika.state.memory_tasks import MemoryTasks

_ENTERED = (TaskState.UNROUTED, TaskState.DELAYED, TaskState.WAITING)


class MemoryPicks(MemoryTasks):
    async def enter(self, task_id: str, entry: Entry, now: float) -> CommitResult:
        record = self._tasks.get(task_id)
        if record is None or record.state not in _ENTERED:
            return CommitResult(False)
        change = Change(now)
        if record.state is TaskState.DELAYED:
            self._time_dispatch(record.info, now)
        self._enter(record, entry, change)
        self._flow(change)
        return change.result()

    async def picking(self) -> Sequence[str]:
        return sorted(task_type for task_type in self._lanes if self._ready(task_type, pick=True))

    async def heads(self, task_type: str, limit: int = 16) -> Sequence[TaskRecord]:
        lines: dict[str, list[LaneKey]] = {}
        for key in self._ready(task_type, pick=True):
            lines.setdefault(key.fairness_key, []).append(key)
        by_depth = [key for keys in zip_longest(*lines.values()) for key in keys if key is not None]
        return [self._tasks[self._lanes[task_type][key].places[0][2]] for key in by_depth[:limit]]

    async def assign(
        self, task_id: str, worker: WorkerRecord, capability: str, message: Message, now: float, decision: JSON, *, ahead: int = 0
    ) -> Assignment:
        record = self._tasks.get(task_id)
        if record is None or record.state is not TaskState.WAITING or self._places[task_id][0].signature is None:
            return Assignment(AssignOutcome.GONE)
        stored, expires = self._workers.get(worker.id, (worker, 0.0))
        if stored.boot_id != worker.boot_id or expires <= now or self._slots(stored, capability)[0] <= -ahead:
            return Assignment(AssignOutcome.FULL)
        info = record.info
        used_up = self._used_up(info, now)
        if used_up is not None:
            key, _ = self._places[task_id]
            self._park(self._lanes[info.type][key], *used_up)
            return Assignment(AssignOutcome.LIMITED)
        change = Change(now, types={info.type: None})
        self._serve(info, change)
        self._tasks[task_id] = replace(
            record, state=TaskState.DISPATCHED, dispatched_at=now, assigned_to=worker.id, decision=decision
        )
        self._assigned.setdefault(worker.boot_id, {})[task_id] = capability
        self._picked += 1
        self._turns.setdefault(worker.id, {})[info.type] = self._picked
        self._append([_assigned(info, worker, now, decision)])
        if stored.http:  # it asks a facade for it, which looks here
            self._tell(NewsKind.WORKER, worker.id)
        else:
            self._publish(message, change)
        self._flow(change)
        return Assignment(AssignOutcome.OK, tuple(change.outbox))

    async def unassign(self, task_id: str, now: float, *, avoid: bool = False) -> CommitResult:
        record = self._tasks.get(task_id)
        if record is None or record.state is not TaskState.DISPATCHED or record.assigned_to is None:
            return CommitResult(False)
        info, worker_id = record.info, record.assigned_to
        for boot_id in list(self._assigned):
            take_out(self._assigned, boot_id, task_id)
        if avoid:
            self._doubted.add(worker_id)
            if worker_id not in info.avoid:
                info = replace(info, avoid=(*info.avoid, worker_id))
        self._tasks[task_id] = replace(record, info=info, state=TaskState.WAITING, assigned_to=None, decision=None)
        change = Change(now)
        self._wait(task_id, change)
        self._end_leases(info, change)
        self._flow(change)
        return change.result()

    async def lane_position(self, task_id: str) -> int | None:
        record = self._tasks.get(task_id)
        if record is None or record.state is not TaskState.WAITING:
            return None
        key, place = self._places[task_id]
        return self._lanes[key.task_type][key].places.index(place)


def _assigned(info: TaskInfo, worker: WorkerRecord, now: float, decision: JSON) -> Event:
    return Event(
        f"{info.id}:assigned:{new_id()}",
        info.job_id,
        "task_assigned",
        now,
        task_id=info.id,
        worker_id=worker.id,
        attempt=info.attempt,
        details={"type": info.type, "decision": decision},
    )
