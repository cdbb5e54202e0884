"""A whole machine in one process, without a broker and with a clock of its own: the engine, its housekeeping, workers.

Messages that the store pushes wait in `queue` until somebody delivers them, drops them, doubles them or changes their order.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.canvas import maybe_signature

from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.messages import prepare
from avtomatika.compiler import Compiler, resume_key
from avtomatika.engine import tasks as engine_tasks
from avtomatika.engine.draft import new_job, new_job_commit
from avtomatika.engine.results import Engine
from avtomatika.engine.watcher import Watcher
from avtomatika.jobs import JSON, Event, Job, Message, Result, ResultError, Timer, WorkerRecord, new_id
from avtomatika.results import outcome_of
from avtomatika.settings import Settings
from avtomatika.state.base import ClaimOutcome, OutboxStore, Store, TaskClaim
from avtomatika.state.memory import MemoryStore
from avtomatika.worker.pool import TaskRequest

FOREVER = 1e9
CAPABILITY = "cpu"


class Killed(BaseException):
    """Raised in a handler or in a worker's function: the process is gone in the middle of it, without a word."""


class LocalProbe:
    """Knows what is still in the queue, since it can look."""

    def __init__(self, queue: list[Message]) -> None:
        self._queue = queue

    async def passed(self, message: Message, published_at: float) -> bool:
        return all(queued.headers["id"] != message.headers["id"] for queued in self._queue)

    async def purge(self, queues: Sequence[str]) -> None:
        self._queue[:] = [message for message in self._queue if message.queue not in queues]


class LocalPublisher:
    """Moves outbox entries into the queue, unless the broker is away.

    Args:
        beside: the publisher of another process; their broker is away at the same time.
    """

    def __init__(self, store: OutboxStore, queue: list[Message], beside: LocalPublisher | None = None) -> None:
        self._store = store
        self._queue = queue
        self._beside = beside
        self.away = False

    async def flush(self, outbox_ids: Sequence[str]) -> int:
        if self.away or not outbox_ids or (self._beside is not None and self._beside.away):
            return 0
        entries = await self._store.outbox_messages(outbox_ids)
        self._queue += [message for _, message in entries]
        await self._store.clear_outbox(outbox_ids)
        return len(entries)


class MortalStore:
    """The store as one boot of a process sees it; once that is dead, it gets no further.

    Attributes:
        dead: set by whoever kills the process.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Killed
            done = await method(*args, **kwargs)
            if self.dead:
                raise Killed
            return done

        return call


def picked_worker(message: Message) -> str | None:
    """The worker whose direct queue, `worker.<id>.<capability>`, a message is in."""
    parts = message.queue.split(".")
    return ".".join(parts[1:-1]) if parts[0] == "worker" and len(parts) > 2 else None


class Machine:
    """
    Args:
        now: where its clock begins, in seconds since the epoch.
        push: whether commits push their messages, as where broker and state are one Redis.
        slots: how many tasks a worker runs at once, as the store counts it.
        store: in place of one in memory; its commits must not push.

    Attributes:
        workers: task name -> what runs it; see `run_task`.
        boots: boot ids of the live workers; plain messages are taken by the one named `worker`, direct ones by their own.
        stopped: (worker, task) that workers were told to stop.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: float,
        workers: dict[str, Callable[..., Any]] | None = None,
        push: bool = True,
        slots: int = 1000,
        store: Any = None,
        task_routes: Mapping[str, Any] | None = None,
    ) -> None:
        self.now = now
        self.queue: list[Message] = []
        self.workers = workers or {}
        self.settings = settings
        self.store: MemoryStore = store if store is not None else MemoryStore(self._push if push else None)
        self.app = Celery("machine", set_as_current=False, broker="memory://")
        self.app.conf.task_routes = dict(task_routes or {})
        self.compiler = Compiler(self.app)
        self.publisher = LocalPublisher(self.store, self.queue)
        self.registry = BlueprintRegistry()
        self.runtime = SimpleNamespace(settings=self.settings, store=self.store)
        engine_tasks.register(self.app, self.runtime)  # type: ignore[arg-type]
        self.slots = slots
        self.boots: dict[str, str] = {}
        self.records: dict[str, WorkerRecord] = {}
        self.stopped: list[tuple[str, str]] = []

    def _push(self, message: Message) -> None:
        self.queue.append(message)

    def clock(self) -> float:
        return self.now

    @property
    def worker_boot(self) -> str:
        return self.boots["worker"]

    async def add_worker(self, worker_id: str, **fields: Any) -> WorkerRecord:
        """Registers a worker of the capability `cpu` that knows every task; under an id that is there, another boot of it."""
        self.boots[worker_id] = new_id()
        tasks = tuple(sorted(self.workers))
        given = {"tasks": tasks, "supported_tasks": tasks, "capabilities": {CAPABILITY: self.slots}, **fields}
        await self.store.pin_tasks(dict.fromkeys(given["tasks"], CAPABILITY))
        return await self._register(WorkerRecord(worker_id, self.boots[worker_id], registered_at=self.clock(), **given))

    async def end_worker(self, worker_id: str) -> None:
        """A worker is gone for good."""
        await self.store.unregister(worker_id, self.boots.pop(worker_id), self.clock())

    def store_of_boot(self) -> Store:
        """The store as the orchestrator's next boot sees it."""
        return self.store

    def _orchestrate(self) -> None:
        self.runtime.boot_id = new_id()
        store = self.store_of_boot()
        self.engine = self.runtime.engine = Engine(
            store=store,
            compiler=self.compiler,
            publisher=LocalPublisher(store, self.queue, self.publisher),  # type: ignore[arg-type]
            blueprints=self.registry,
            settings=self.settings,
            boot_id=self.runtime.boot_id,
            clock=lambda: self.clock(),
            stop=self._stop,
        )
        self.watcher = Watcher(self.engine, LocalProbe(self.queue))

    async def _stop(self, stops: Sequence[tuple[str, str]]) -> None:
        self.stopped += stops

    async def _register(self, record: WorkerRecord) -> WorkerRecord:
        self.records[record.id] = record
        done = await self.store.register(record, self.clock(), FOREVER)
        await self.publisher.flush(done.outbox)
        return record

    async def restart_orchestrator(self) -> None:
        self._orchestrate()
        await self._register(WorkerRecord("orchestrator", self.runtime.boot_id, "orchestrator", registered_at=self.clock()))

    async def restart_worker(self, worker_id: str = "worker") -> None:
        """Another boot of the same worker."""
        self.boots[worker_id] = new_id()
        await self._register(replace(self.records[worker_id], boot_id=self.boots[worker_id], registered_at=self.clock()))

    # --- Jobs ------------------------------------------------------------------------------------------------------------------

    async def create(self, blueprint: str, **initial_data: Any) -> str:
        """A new job; its id."""
        now = self.clock()
        job = new_job(self.registry.get(blueprint), self.settings, now, initial_data=initial_data)
        done = await self.store.commit(new_job_commit(job, self.compiler, now))
        await self.publisher.flush(done.outbox)
        return job.id

    async def job(self, job_id: str) -> Job:
        job = await self.store.load(job_id)
        assert job is not None
        return job

    async def events(self, job_id: str, *types: str) -> list[Event]:
        return [e for e in await self.store.events(job_id) if not types or e.event_type in types]

    # --- Messages --------------------------------------------------------------------------------------------------------------

    async def deliver(self, message: Message) -> None:
        """What the process does that takes a message; one that dies over it is started again."""
        args, kwargs, embed = json.loads(message.body)
        name = message.headers["task"]
        if not name.startswith("avtomatika."):
            await self.work(self.worker_of(message), name, kwargs, embed)
            await self.settled()
            return
        engine, chain = self.engine, embed.get("chain") or []
        request = TaskRequest(message.headers["id"], name, args, kwargs, message.headers, chain, None, None, {})
        try:
            await self.app.tasks[name].run_async(request)
        except Killed:
            if self.engine is engine:
                await self.restart_orchestrator()
        finally:
            await self.settled()

    async def settled(self) -> None:
        """What the dispatcher does in the background is done."""
        await self.engine.dispatcher.settled()

    async def claim(self, task_id: str, worker_id: str = "worker") -> bool:
        """A worker begins an attempt, and does not end it."""
        return (await self._claim(task_id, worker_id)).outcome is ClaimOutcome.OK

    async def _claim(self, task_id: str, worker_id: str) -> TaskClaim:
        timeout = self.settings.worker_timeout_seconds
        claim = await self.store.claim_task(task_id, worker_id, self.boots[worker_id], self.clock(), timeout, CAPABILITY)
        await self.publisher.flush(claim.outbox)
        return claim

    async def work(self, worker_id: str, name: str, payload: JSON, embed: JSON) -> None:
        """What a worker does with the message of an attempt: claims it, runs it and reports."""
        task_id, boot_id = payload["task_id"], self.boots.get(worker_id)
        if boot_id is None:
            return
        claim, resume = await self._claim(task_id, worker_id), maybe_signature(embed["chain"][-1], app=self.app)
        if claim.outcome is ClaimOutcome.CANCELLED:  # nobody will begin it any more: its job is not to wait
            result = Result(Result.CANCELLED, error=ResultError("CANCELLED", "cancelled before it began"))
            message = self._report_message(task_id, result, resume, {})
            await self.publisher.flush((await self.store.publish(message, self.clock())).outbox)
        if claim.outcome is not ClaimOutcome.OK:
            return
        try:
            result = await self.run_task(worker_id, name, payload, claim)
        except Killed:
            if self.boots.get(worker_id) == boot_id:
                await self.restart_worker(worker_id)
            return
        await self.report(task_id, boot_id, result, resume, worker_id)

    async def run_task(self, worker_id: str, name: str, payload: JSON, claim: TaskClaim) -> Result:
        """Runs an attempt: the task's function gets its params by name; it returns an envelope or a value, or raises `Killed`."""
        value = self.workers[name](**payload["params"])
        return Result.from_value(await value if inspect.isawaitable(value) else value)

    def _report_message(self, task_id: str, result: Result, resume: Any, meta: JSON) -> Message:
        resume = resume.clone(args=({**result.to_dict(), "meta": meta},))
        return prepare(self.app, resume, self.clock(), declare="default", key=resume_key(task_id))

    async def report(self, task_id: str, boot_id: str, result: Result, resume: Any, worker_id: str = "worker") -> bool:
        message = self._report_message(task_id, result, resume, {"worker_id": worker_id})
        done = await self.store.finish_task(task_id, boot_id, result, message, self.clock(), outcome_of(result))
        if not done.applied:  # the attempt is over: what it held is free
            await self.store.drop_claim(boot_id, task_id=task_id)
        await self.publisher.flush(done.outbox)
        return done.applied

    def worker_of(self, message: Message) -> str:
        """Who takes a message: the worker whose direct queue it is in, or the one named `worker`."""
        return picked_worker(message) or "worker"

    # --- Time ------------------------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Takes the housekeeping's lock; one that a process left behind at its end would run out by its TTL."""
        if not await self.watcher.lead():
            self.store._locks.clear()
            assert await self.watcher.lead()

    async def tick(self, seconds: float = 0.0) -> None:
        """Lets time pass, then does what is due."""
        self.now += seconds
        await self.engine.dispatcher.look()
        await self._lead()
        await self.watcher.tick()
        await self.settled()

    async def repair(self, seconds: float = 0.0) -> None:
        self.now += seconds
        await self._lead()
        await self.watcher.repair()
        await self.settled()

    def timers(self) -> list[Timer]:
        return sorted((Timer.from_member(m, due) for m, due in self.store._timers.items()), key=lambda timer: timer.due)
