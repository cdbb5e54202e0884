"""Tasks that wait and workers that come, for the tests of lanes, limits and picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from avtomatika.jobs import JobStatus, Message, Result, TaskInfo, TaskState, Timer, WorkerRecord, new_id
from avtomatika.state.base import Assignment, ClaimOutcome, CommitResult, Entry, NewTask, Store, TaskClaim, TaskRecord
from tests.support.records import NOW, a_job, a_message, a_task, a_worker, change, creation

DECISION = {"chosen": "w1", "steps": [["idle", 3], ["cost", 1]]}


class Line:
    """Each task has a job of its own, and its message has the task's id as its body, so that it is seen in what was pushed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        #: The latest change's result.
        self.done = CommitResult(False)

    async def task(
        self, at: float = 0.0, *, state: TaskState = TaskState.WAITING, entry: Entry | None = None, **fields: Any
    ) -> TaskInfo:
        """A job that dispatches a task `at` seconds after NOW, to wait by `entry`."""
        job = a_job(created_at=NOW + at - 1, updated_at=NOW + at - 1)
        await self.store.commit(creation(job))
        info = a_task(job, created_at=NOW + at, **fields)
        tasks = (NewTask(info, state, entry),)
        self.done = await self.store.commit(change(job, {"tasks": tasks}, status=JobStatus.WAITING_FOR_WORKER, waiting=info))
        assert self.done.applied
        return info

    async def pull(self, at: float = 0.0, **fields: Any) -> TaskInfo:
        """A task that waits for its turn in the queue."""
        unless_warm = fields.pop("unless_warm", False)
        info_id = new_id()
        return await self.task(at, entry=Entry(a_message(body=info_id), unless_warm=unless_warm), id=info_id, **fields)

    async def pulls(self, count: int, at: float = 0.0, **fields: Any) -> list[TaskInfo]:
        return [await self.pull(at + n, **fields) for n in range(count)]

    async def pick(self, at: float = 0.0, signature: str = "", **fields: Any) -> TaskInfo:
        """A task that waits for a worker to be chosen."""
        return await self.task(at, entry=Entry(signature=signature), **fields)

    async def worker(self, name: str = "w1", slots: int = 1, at: float = 0.0, ttl: float = 1e6, **fields: Any) -> WorkerRecord:
        """Registers an idle worker of the capability `cpu` that knows the task `work`."""
        given = {"tasks": ("work",), "supported_tasks": ("work",), "capabilities": {"cpu": slots}, "max_concurrent_tasks": slots}
        record = a_worker(name, f"boot-{name}", **{**given, **fields})
        await self.store.pin_tasks({"work": "cpu"})
        await self.store.register(record, NOW + at, ttl)
        return record

    def cooled(self, record: WorkerRecord) -> WorkerRecord:
        """What a worker says that has let its models go."""
        return replace(record, hot_cache=())

    async def assign(self, info: TaskInfo, worker: WorkerRecord, at: float = 0.0, **fields: Any) -> Assignment:
        message = Message(f"worker.{worker.id}.cpu", info.id, {}, {}, declare="direct")
        capability = fields.pop("capability", "cpu")
        return await self.store.assign(info.id, worker, capability, message, NOW + at, DECISION, **fields)

    async def claim(self, task_id: str, at: float = 0.0, name: str = "w1", boot: str | None = None) -> TaskClaim:
        return await self.store.claim_task(task_id, name, boot or f"boot-{name}", NOW + at, 300, "cpu")

    async def claimed(self, task_id: str, at: float = 0.0, name: str = "w1") -> TaskClaim:
        claim = await self.claim(task_id, at, name)
        assert claim.outcome is ClaimOutcome.OK
        return claim

    async def finish(self, task_id: str, at: float = 0.0, name: str = "w1", **fields: Any) -> CommitResult:
        """A worker reports success."""
        message = a_message(f"resume:{task_id}", body="a result")
        done = await self.store.finish_task(task_id, f"boot-{name}", Result.success(), message, NOW + at, **fields)
        assert done.applied
        return done

    async def drop(self, info: TaskInfo, at: float = 0.0) -> CommitResult:
        """The job goes on without the task."""
        job = await self.store.load(info.job_id)
        assert job is not None
        given = {"drop_tasks": (info.id,), "settles": (f"resume:{info.id}",)}
        commit = change(job, given, status=JobStatus.FINISHED, waiting=None)
        done = await self.store.commit(replace(commit, job=replace(commit.job, updated_at=NOW + at)))
        assert done.applied
        return done

    async def record(self, info: TaskInfo) -> TaskRecord:
        record = await self.store.get_task(info.id)
        assert record is not None
        return record

    async def states(self, infos: Sequence[TaskInfo]) -> list[TaskState]:
        return [(await self.record(info)).state for info in infos]

    async def places(self, infos: Sequence[TaskInfo]) -> list[int | None]:
        return [await self.store.lane_position(info.id) for info in infos]

    async def heads(self, task_type: str = "work") -> list[str]:
        return [record.info.id for record in await self.store.heads(task_type)]

    async def timers(self) -> list[Timer]:
        return list(await self.store.due(NOW * 2))
