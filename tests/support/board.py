"""A dispatcher over a store, without an engine: tasks that wait, workers that come, and who got what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from celery import Celery

from avtomatika.compiler import Compiler
from avtomatika.engine.dispatch import Dispatcher
from avtomatika.engine.draft import entry_of
from avtomatika.jobs import JobStatus, Message, Result, TaskInfo, WorkerRecord, new_id
from avtomatika.settings import read_settings
from avtomatika.state.base import ClaimOutcome, NewTask, Store, TaskRecord
from avtomatika.state.memory import MemoryStore
from tests.support.records import NOW, a_job, a_message, change, creation

TYPE = "draw"
FOREVER = 1e9


class OutboxPublisher:
    """Moves outbox entries into a list."""

    def __init__(self, store: Store, queue: list[Message]) -> None:
        self._store = store
        self._queue = queue

    async def flush(self, outbox_ids: Sequence[str]) -> int:
        entries = await self._store.outbox_messages(outbox_ids)
        self._queue += [message for _, message in entries]
        await self._store.clear_outbox(outbox_ids)
        return len(entries)


class Board:
    def __init__(self, **settings: Any) -> None:
        self.now = NOW
        self.store: Any = MemoryStore()
        self.sent: list[Message] = []
        self.settings = read_settings(**settings)
        self.compiler = Compiler(Celery("board", set_as_current=False, broker="memory://"))
        self.publisher = OutboxPublisher(self.store, self.sent)
        self.dispatcher = self.another_dispatcher()
        self.workers: dict[str, WorkerRecord] = {}

    def another_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            store=self.store,
            compiler=self.compiler,
            publisher=self.publisher,  # type: ignore[arg-type]
            settings=self.settings,
            clock=lambda: self.now,
        )

    async def worker(self, name: str, slots: int = 1, **fields: Any) -> WorkerRecord:
        """Registers a worker of the capability `gpu` that knows the task `draw`."""
        given = {
            "tasks": (TYPE,),
            "supported_tasks": (TYPE,),
            "capabilities": {"gpu": slots},
            "max_concurrent_tasks": slots,
            "registered_at": self.now,
        }
        record = self.workers[name] = WorkerRecord(name, f"boot-{name}", **{**given, **fields})
        await self.store.pin_tasks({TYPE: "gpu"})
        await self.store.register(record, self.now, FOREVER)
        return record

    async def says(self, name: str, **changes: Any) -> None:
        """A worker's heartbeat, with what has changed."""
        record = self.workers[name] = replace(self.workers[name], **changes)
        assert await self.store.heartbeat(name, record.boot_id, self.now, FOREVER, record)

    async def task(self, **fields: Any) -> str:
        """A job whose task waits; the task's id."""
        job = a_job()
        given = {"transitions": {"success": "end"}, "params": {}, "created_at": self.now, **fields}
        info = TaskInfo(new_id(), job.id, **{"type": TYPE, **given})
        await self.store.commit(creation(job))
        new = NewTask(info, entry=entry_of(info, "gpu", self.compiler, self.now))
        commit = change(job, {"tasks": (new,)}, status=JobStatus.WAITING_FOR_WORKER, waiting=info)
        done = await self.store.commit(replace(commit, job=replace(commit.job, updated_at=self.now)))
        await self.publisher.flush(done.outbox)
        return info.id

    async def tasks(self, count: int, **fields: Any) -> list[str]:
        return [await self.task(**fields) for _ in range(count)]

    async def record(self, task_id: str) -> TaskRecord:
        record = await self.store.get_task(task_id)
        assert record is not None
        return record

    async def pump(self, seconds: float = 0.0) -> None:
        """Lets time pass, and places what can be placed."""
        self.now += seconds
        await self.dispatcher.pump(TYPE)

    async def at(self, *task_ids: str) -> list[str | None]:
        """The workers that tasks were given to."""
        return [(await self.record(task_id)).assigned_to for task_id in task_ids]

    async def claim(self, task_id: str, name: str) -> bool:
        boot = self.workers[name].boot_id
        claim = await self.store.claim_task(task_id, name, boot, self.now, 300, "gpu")
        return bool(claim.outcome is ClaimOutcome.OK)

    async def finish(self, task_id: str, name: str) -> None:
        done = await self.store.finish_task(
            task_id, self.workers[name].boot_id, Result.success(), a_message(), self.now, "success"
        )
        assert done.applied

    async def busy(self, name: str) -> str:
        """Takes one of a worker's slots with a task that anybody may run."""
        task_id = await self.task()
        assert await self.claim(task_id, name)
        return task_id

    async def why(self, task_id: str) -> str:
        return str((await self.dispatcher.explain(await self.record(task_id)))["reason"])
