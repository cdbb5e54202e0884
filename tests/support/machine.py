"""A whole machine in one process, without a broker and with a clock of its own: the engine, its housekeeping, workers.

Messages that the store pushes wait in `queue` until the test delivers them, drops them, doubles them or changes their order.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.canvas import maybe_signature

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.messages import prepare
from avtomatika.compiler import Compiler, resume_key
from avtomatika.engine import tasks as engine_tasks
from avtomatika.engine.draft import new_job_commit
from avtomatika.engine.results import Engine
from avtomatika.engine.watcher import Watcher
from avtomatika.jobs import Event, Job, JobStatus, Message, Result, Timer, WorkerRecord, new_id
from avtomatika.results import outcome_of
from avtomatika.settings import read_settings
from avtomatika.state.base import ClaimOutcome
from avtomatika.state.memory import MemoryStore
from avtomatika.worker.pool import TaskRequest
from tests.support.records import NOW

FOREVER = 1e9


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
    """Moves outbox entries into the queue, unless the broker is away."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.away = False

    async def flush(self, outbox_ids: Sequence[str]) -> int:
        if self.away:
            return 0
        entries = await self._machine.store.outbox_messages(outbox_ids)
        self._machine.queue += [message for _, message in entries]
        await self._machine.store.clear_outbox(outbox_ids)
        return len(entries)


class Machine:
    """
    Args:
        workers: task name -> function of its params; it returns an envelope or a value, or raises `Killed`.
        push: whether commits push their messages, as where broker and state are one Redis.
        slots: how many tasks a worker runs at once, as the store counts it.

    Attributes:
        boots: boot ids of the live workers; plain messages are taken by the one named `worker`, direct ones by their own.
        stopped: (worker, task) that workers were told to stop.
    """

    def __init__(
        self,
        *blueprints: Blueprint,
        workers: dict[str, Callable[..., Any]] | None = None,
        push: bool = True,
        slots: int = 1000,
        **settings: Any,
    ) -> None:
        self.now = NOW
        self.queue: list[Message] = []
        self.workers = workers or {}
        self.settings = read_settings(**settings)
        self.store = MemoryStore(self.queue.append if push else None)
        self.app = Celery("machine", set_as_current=False, broker="memory://")
        self.app.conf.task_routes = {"fleet.*": {"queue": "fleet"}}
        self.compiler = Compiler(self.app)
        self.publisher = LocalPublisher(self)
        self.registry = BlueprintRegistry()
        # Past the static check: many a blueprint here is broken on purpose.
        self.registry._by_name.update((blueprint.name, blueprint) for blueprint in blueprints)
        self.runtime = SimpleNamespace(settings=self.settings, store=self.store)
        engine_tasks.register(self.app, self.runtime)
        self.slots = slots
        self.boots: dict[str, str] = {}
        self.records: dict[str, WorkerRecord] = {}
        self.stopped: list[tuple[str, str]] = []

    @property
    def worker_boot(self) -> str:
        return self.boots["worker"]

    async def start(self) -> Machine:
        """Registers an orchestrator and a worker; the worker's tasks are pinned to `cpu`."""
        await self.restart_orchestrator()
        await self.add_worker("worker")
        return self

    async def add_worker(self, worker_id: str, **fields: Any) -> WorkerRecord:
        """Registers a worker of the capability `cpu` that knows every task; under an id that is there, another boot of it."""
        self.boots[worker_id] = new_id()
        tasks = tuple(sorted(self.workers))
        given = {"tasks": tasks, "supported_tasks": tasks, "capabilities": {"cpu": self.slots}, **fields}
        await self.store.pin_tasks(dict.fromkeys(self.workers, "cpu"))
        return await self._register(WorkerRecord(worker_id, self.boots[worker_id], registered_at=self.now, **given))

    async def end_worker(self, worker_id: str) -> None:
        """A worker is gone for good."""
        await self.store.unregister(worker_id, self.boots.pop(worker_id), self.now)

    def _orchestrate(self) -> None:
        self.runtime.boot_id = new_id()
        self.engine = self.runtime.engine = Engine(
            store=self.store,
            compiler=self.compiler,
            publisher=self.publisher,  # type: ignore[arg-type]
            blueprints=self.registry,
            settings=self.settings,
            boot_id=self.runtime.boot_id,
            clock=lambda: self.now,
            stop=self._stop,
        )
        self.watcher = Watcher(self.engine, LocalProbe(self.queue))

    async def _stop(self, stops: Sequence[tuple[str, str]]) -> None:
        self.stopped += stops

    async def _register(self, record: WorkerRecord) -> WorkerRecord:
        self.records[record.id] = record
        await self.store.register(record, self.now, FOREVER)
        return record

    async def restart_orchestrator(self) -> None:
        self._orchestrate()
        await self._register(WorkerRecord("orchestrator", self.runtime.boot_id, "orchestrator", registered_at=self.now))

    async def restart_worker(self, worker_id: str = "worker") -> None:
        """Another boot of the same worker."""
        self.boots[worker_id] = new_id()
        await self._register(replace(self.records[worker_id], boot_id=self.boots[worker_id], registered_at=self.now))

    # --- Jobs ------------------------------------------------------------------------------------------------------------------

    async def create(self, blueprint: str, **initial_data: Any) -> str:
        """A new job; its id."""
        start = self.registry.get(blueprint).start_state
        job = Job(new_id(), blueprint, start, initial_data=initial_data, created_at=self.now, updated_at=self.now)
        done = await self.store.commit(new_job_commit(job, self.compiler, self.now))
        await self.publisher.flush(done.outbox)
        return job.id

    async def run(self, blueprint: str, **initial_data: Any) -> Job:
        """A new job, driven until it ends or nothing more happens by itself."""
        job_id = await self.create(blueprint, **initial_data)
        await self.drive()
        return await self.job(job_id)

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
            await self._work(_worker_of(message), name, kwargs, embed)
            await self.settled()
            return
        chain = embed.get("chain") or []
        request = TaskRequest(message.headers["id"], name, args, kwargs, message.headers, chain, None, None, {})
        try:
            await self.app.tasks[name].run_async(request)
        except Killed:
            await self.restart_orchestrator()
        finally:
            await self.settled()

    async def settled(self) -> None:
        """What the dispatcher does in the background is done."""
        await self.engine.dispatcher.settled()

    async def claim(self, task_id: str, worker_id: str = "worker") -> bool:
        """A worker begins an attempt, and does not end it."""
        timeout = self.settings.worker_timeout_seconds
        claim = await self.store.claim_task(task_id, worker_id, self.boots[worker_id], self.now, timeout, "cpu")
        await self.publisher.flush(claim.outbox)
        return claim.outcome is ClaimOutcome.OK

    async def _work(self, worker_id: str, name: str, kwargs: dict[str, Any], embed: dict[str, Any]) -> None:
        task_id, boot_id = kwargs["task_id"], self.boots.get(worker_id)
        if boot_id is None or not await self.claim(task_id, worker_id):
            return
        try:
            value = self.workers[name](**kwargs["params"])
            result = Result.from_value(await value if inspect.isawaitable(value) else value)
        except Killed:
            await self.restart_worker(worker_id)
            return
        await self.report(task_id, boot_id, result, maybe_signature(embed["chain"][-1], app=self.app), worker_id)

    async def report(self, task_id: str, boot_id: str, result: Result, resume: Any, worker_id: str = "worker") -> bool:
        meta = {"worker_id": worker_id}
        resume = resume.clone(args=({**result.to_dict(), "meta": meta},))
        message = prepare(self.app, resume, self.now, declare="default", key=resume_key(task_id))
        done = await self.store.finish_task(task_id, boot_id, result, message, self.now, outcome_of(result))
        await self.publisher.flush(done.outbox)
        return done.applied

    async def pump(self) -> None:
        """Delivers messages, oldest first, until none is left."""
        while self.queue:
            await self.deliver(self.queue.pop(0))

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

    async def drive(self) -> None:
        """Delivers all there is and lets time pass up to the next timer, until neither a message nor a timer is left."""
        while True:
            await self.pump()
            await self.tick()
            if self.queue:
                continue
            timers = self.timers()
            if not timers:
                return
            await self.tick(max(0.0, timers[0].due - self.now))


def _worker_of(message: Message) -> str:
    """Who takes a message: the worker whose direct queue it is in, `worker.<id>.<capability>`, or the one named `worker`."""
    parts = message.queue.split(".")
    return ".".join(parts[1:-1]) if parts[0] == "worker" and len(parts) > 2 else "worker"


def ended(job: Job) -> tuple[JobStatus, str, Any]:
    return job.status, job.current_state, job.result
