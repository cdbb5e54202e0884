"""The processes of the model: orchestrators, workers, a facade. Each dies at a chosen await, before or after its effect."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from celery.canvas import maybe_signature

from avtomatika.engine import tasks as engine_tasks
from avtomatika.engine.orders import Orders
from avtomatika.engine.results import Engine
from avtomatika.engine.service import Service
from avtomatika.engine.watcher import LOCK, Watcher
from avtomatika.errors import StoreUnavailableError, UnknownJobError, WrongStateError
from avtomatika.jobs import Message, Result, ResultError, WorkerRecord, new_id
from avtomatika.results import outcome_of
from avtomatika.state.base import ClaimOutcome
from avtomatika.testing.machine import CAPABILITY, LocalProbe, LocalPublisher, Machine, picked_worker
from avtomatika.testing.machine import Killed as Killed
from tests.support.model.faults import Fault as Fault
from tests.support.model.faults import FaultyStore
from tests.support.model.programs import program_blueprint

TTL = 60.0
SLOTS = 2
WORKERS = ("ada", "bob")
ORCHESTRATORS = ("one", "two")
_CONTROL = (engine_tasks.Step, engine_tasks.Resume, engine_tasks.Aggregate, engine_tasks.ChildEnded, engine_tasks.Cancel)


@dataclass
class Attempt:
    """What a worker has begun and not ended."""

    task_id: str
    boot_id: str
    number: int
    does: Sequence[str]
    resume: Any
    timeout_at: float


@dataclass
class Process:
    """One boot of a process.

    Attributes:
        record: what it registers with.
        reserved: slots of what it is claiming.
        silent: it sends no heartbeats for now.
    """

    record: WorkerRecord
    store: FaultyStore
    attempts: list[Attempt] = field(default_factory=list)
    reserved: int = 0
    silent: bool = False

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def boot_id(self) -> str:
        return self.record.boot_id


@dataclass
class Orchestrator(Process):
    engine: Any = None
    watcher: Any = None
    tasks: dict[str, Any] = field(default_factory=dict)


class World(Machine):
    """
    Attributes:
        processes: the live ones, by id.
        ghosts: attempts that dead workers had begun: their late reports.
        begun: how often each attempt was begun.
    """

    def __init__(self, settings: Any, now: float, push: bool) -> None:
        super().__init__(settings, now=now, push=push)
        self.random = random.Random(0)
        self.failures: dict[tuple[str, str], int] = {}
        self.registry.register(program_blueprint(self.failures))
        self.processes: dict[str, Process] = {}
        self.ghosts: list[Attempt] = []
        self.begun: dict[str, int] = {}
        self.facade_store = FaultyStore(self.store, self.random)

    # --- Processes -------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self.store.pin_tasks({"work": CAPABILITY})
        for name in (*ORCHESTRATORS, *WORKERS):
            await self.boot(name)

    async def boot(self, name: str) -> None:
        """Starts a process, or starts it again."""
        old = self.processes.pop(name, None)
        if old is not None:
            self._bury(old)
        store = FaultyStore(self.store, self.random)
        if name in ORCHESTRATORS:
            record = WorkerRecord(name, new_id(), "orchestrator", registered_at=self.now)
            process: Process = self._orchestrator(record, store)
        else:
            about = {"tasks": ("work",), "supported_tasks": ("work",), "capabilities": {CAPABILITY: SLOTS}}
            resources = {"cpu_cores": 2 if name == WORKERS[0] else 4}
            process = Process(WorkerRecord(name, new_id(), registered_at=self.now, resources=resources, **about), store)
        self.processes[name] = process
        await self.register(process)

    async def register(self, process: Process) -> None:
        done = await self.store.register(process.record, self.now, TTL)
        await self.publisher.flush(done.outbox)

    def _orchestrator(self, record: WorkerRecord, store: FaultyStore) -> Orchestrator:
        engine = self.engine_of(store, record.boot_id)
        runtime: Any = SimpleNamespace(settings=self.settings, store=store, engine=engine, boot_id=record.boot_id)
        process = Orchestrator(record, store, engine=engine, watcher=Watcher(engine, LocalProbe(self.queue)))
        for cls in _CONTROL:
            task = process.tasks[cls.name] = cls()
            task.runtime = runtime
        return process

    def engine_of(self, store: FaultyStore, boot_id: str) -> Engine:
        return Engine(
            store=store,  # type: ignore[arg-type]
            compiler=self.compiler,
            publisher=LocalPublisher(store, self.queue, self.publisher),  # type: ignore[arg-type]
            blueprints=self.registry,
            settings=self.settings,
            boot_id=boot_id,
            clock=lambda: self.now,
            stop=self._stop,
        )

    def _bury(self, process: Process) -> None:
        process.store.dead = True
        self.processes.pop(process.id, None)
        self.ghosts += process.attempts

    async def _as(self, process: Process, work: Any, fault: Fault | None) -> None:
        """Lets a process do something; it may die over it."""
        process.store.fault, process.store.calls = fault, 0
        try:
            await work
        except Killed:
            if self.processes.get(process.id) is process:
                self._bury(process)
        except StoreUnavailableError:
            pass  # the next round goes on
        finally:
            process.store.fault = None
            if isinstance(process, Orchestrator):
                await _over(process.engine)

    def pick(self, names: Sequence[str], number: int) -> Any:
        """One of the live processes of these names."""
        live = [self.processes[name] for name in names if name in self.processes]
        return live[number % len(live)] if live else None

    # --- What happens ----------------------------------------------------------------------------------------------------------

    async def submit(self, program: Any, key: str, fault: Fault | None) -> None:
        """A client submits a job, and repeats its request where it hears no answer."""
        for attempt in (fault, None):
            store = self.facade_store = FaultyStore(self.store, self.random)
            store.fault = attempt
            service = Service(self.engine_of(store, "facade"))
            try:
                await service.create("program", {"program": program}, idempotency_key=key)
            except (Killed, StoreUnavailableError):
                continue
            return

    async def order(self, kind: str, number: int, fault: Fault | None) -> None:
        """Somebody orders something of some job; an order that does not fit is refused."""
        jobs = sorted(self.store._jobs)
        if not jobs:
            return
        store = FaultyStore(self.store, self.random)
        store.fault, store.together = fault, self.facade_store.together
        engine = self.engine_of(store, "facade")
        job_id = jobs[number % len(jobs)]
        orders, service = Orders(engine), Service(engine)
        calls = {
            "cancel": lambda: orders.cancel(job_id),
            "force": lambda: orders.cancel(job_id, force=True),
            "pause": lambda: orders.pause(job_id),
            "resume": lambda: orders.resume(job_id),
            "retry": lambda: orders.retry(job_id),
            "yes": lambda: service.decide(job_id, "yes"),
            "no": lambda: service.decide(job_id, "no"),
        }
        with suppress(Killed, StoreUnavailableError, WrongStateError, UnknownJobError):
            await calls[kind]()
        await _over(engine)

    async def control(self, number: int, who: int, fault: Fault | None) -> None:
        """An orchestrator takes one of the engine's messages: not always the oldest."""
        found = [message for message in self.queue if message.headers["task"].startswith("avtomatika.")]
        process = self.pick(ORCHESTRATORS, who)
        if not found or process is None:
            return
        message = found[number % len(found)]
        self.queue.remove(message)
        args, kwargs, _ = json.loads(message.body)
        request: Any = SimpleNamespace(args=args, kwargs=kwargs)
        await self._as(process, process.tasks[message.headers["task"]].run_async(request), fault)

    async def begin(self, number: int, who: int, fault: Fault | None) -> None:
        """A worker with a free slot takes a message and claims its attempt."""
        process = self.pick(WORKERS, who)
        if process is None or len(process.attempts) + process.reserved >= SLOTS:
            return
        found = [m for m in self.queue if m.headers["task"] == "work" and picked_worker(m) in (None, process.id)]
        if found:
            message = found[number % len(found)]
            self.queue.remove(message)
            process.reserved += 1
            await self._as(process, self._claim_for(process, message), fault)
            process.reserved -= 1

    async def _claim_for(self, process: Process, message: Message) -> None:
        _, payload, embed = json.loads(message.body)
        resume = maybe_signature(embed["chain"][-1], app=self.app)
        task_id, timeout = payload["task_id"], self.settings.worker_timeout_seconds
        publisher = LocalPublisher(process.store, self.queue, self.publisher)  # type: ignore[arg-type]
        claim_task, call = process.store.claim_task, new_id()
        try:
            claim = await claim_task(task_id, process.id, process.boot_id, self.now, timeout, CAPABILITY, call=call)
        except StoreUnavailableError:  # it asks again; the first time may have counted
            claim = await claim_task(task_id, process.id, process.boot_id, self.now, timeout, CAPABILITY, call=call)
        await publisher.flush(claim.outbox)
        if claim.outcome is ClaimOutcome.OK:
            self.begun[task_id] = self.begun.get(task_id, 0) + 1
            attempt = Attempt(
                task_id, process.boot_id, payload["attempt"], payload["params"]["does"], resume, claim.timeout_at or 0.0
            )
            process.attempts.append(attempt)
        elif claim.outcome is ClaimOutcome.CANCELLED:
            result = Result(Result.CANCELLED, error=ResultError("CANCELLED", "cancelled before it began"))
            done = await process.store.publish(self._report_message(task_id, result, resume, {}), self.now)
            await publisher.flush(done.outbox)

    async def end(self, number: int, who: int, fault: Fault | None) -> None:
        """A worker ends an attempt as the program says."""
        process = self.pick(WORKERS, who)
        if process is None or not process.attempts:
            return
        attempt = process.attempts[number % len(process.attempts)]
        does = attempt.does[min(attempt.number, len(attempt.does)) - 1]
        if does == "dies":
            self._bury(process)
        elif does != "hangs":
            process.attempts.remove(attempt)
            await self._as(process, self._finish(process.store, process.id, attempt, _result_of(does)), fault)

    async def _finish(self, store: Any, worker_id: str, attempt: Attempt, result: Result) -> None:
        message = self._report_message(attempt.task_id, result, attempt.resume, {"worker_id": worker_id})
        about, call = (attempt.task_id, attempt.boot_id, result, message, self.now, outcome_of(result)), new_id()

        async def report() -> None:
            done = await store.finish_task(*about, call=call)
            if not done.applied:
                await store.drop_claim(attempt.boot_id, task_id=attempt.task_id)
            await LocalPublisher(store, self.queue, self.publisher).flush(done.outbox)

        try:
            await report()
        except StoreUnavailableError:  # it keeps its slot and reports again; the first time may have counted
            await report()

    async def haunt(self, number: int) -> None:
        """What a worker had begun that counts as dead comes to an end, and is reported."""
        if self.ghosts:
            attempt = self.ghosts.pop(number % len(self.ghosts))
            await self._finish(self.store, "ghost", attempt, _result_of("ok"))

    async def _stop(self, stops: Sequence[tuple[str, str]]) -> None:
        for worker_id, task_id in stops:
            process = self.processes.get(worker_id)
            for attempt in list(process.attempts) if process is not None else ():
                if attempt.task_id == task_id and process is not None:
                    process.attempts.remove(attempt)
                    result = Result(Result.CANCELLED, error=ResultError("CANCELLED", "the task was cancelled"))
                    await self._finish(self.store, worker_id, attempt, result)

    async def lose(self, number: int) -> None:
        if self.queue:
            self.queue.pop(number % len(self.queue))

    async def double(self, number: int) -> None:
        if self.queue:
            self.queue.append(self.queue[number % len(self.queue)])

    # --- Time ------------------------------------------------------------------------------------------------------------------

    async def watch(self, seconds: float, who: int, repairs: bool, fault: Fault | None) -> None:
        """Time passes; a process that leads looks after what is due, or repairs what was lost."""
        await self.pass_time(seconds)
        process = self.pick(ORCHESTRATORS, who)
        if process is not None:
            await self._as(process, self._round(process, repairs), fault)

    async def _round(self, process: Orchestrator, repairs: bool) -> None:
        await process.engine.dispatcher.look()
        holder = self.store._locks.get(LOCK)
        if all(other.boot_id != holder for other in self.processes.values()):
            self.store._locks.clear()  # a lock runs out by its TTL, which the store in memory does not count
        if await process.watcher.lead():
            await process.watcher.tick()
            if repairs:
                await process.watcher.repair()

    async def pass_time(self, seconds: float) -> None:
        """Time passes, and each live process beats; a worker hears what to stop, and ends what is past its time limit."""
        self.now += seconds
        for process in list(self.processes.values()):
            if not process.silent and not await self.store.heartbeat(process.id, process.boot_id, self.now, TTL, process.record):
                await self.register(process)
            if process.id in WORKERS:
                await self._stop([(process.id, task_id) for task_id in await self.store.take_stops(process.boot_id)])
                for attempt in [attempt for attempt in process.attempts if attempt.timeout_at <= self.now]:
                    process.attempts.remove(attempt)
                    await self._finish(self.store, process.id, attempt, Result(Result.TIMEOUT))

    async def stall(self, name: str) -> None:
        """A process says nothing for so long that it counts as dead; then it goes on."""
        process = self.processes.get(name)
        if process is not None:
            process.silent = True
            for _ in range(4):
                await self.pass_time(TTL / 3)
            process.silent = False


async def _over(engine: Any) -> None:
    """What the dispatcher does in the background is over, dead or alive."""
    await engine.dispatcher.settled()
    work = engine.dispatcher._work
    if work is not None and not work.cancelled():
        work.exception()


def _result_of(does: str) -> Result:
    codes = {"transient": "TRANSIENT_ERROR", "permanent": "PERMANENT_ERROR", "invalid": "INVALID_INPUT_ERROR", "other": "BROKEN"}
    if does in codes:
        return Result.failure(codes[does], does)
    return Result(does) if does in ("odd", "unlisted") else Result.success({"n": 1})
