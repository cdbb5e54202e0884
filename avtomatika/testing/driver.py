"""What makes the machine go: messages are delivered as they come, and virtual time jumps when nothing else can happen."""

from __future__ import annotations

import asyncio
import json
import time as wall
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avtomatika.engine.fleet import envelope_of_exception
from avtomatika.engine.watcher import TICK_SECONDS
from avtomatika.errors import HarnessError
from avtomatika.jobs import JSON, Message, Result, ResultError, TaskState
from avtomatika.settings import Settings
from avtomatika.state.base import Store, TaskClaim
from avtomatika.testing.fakes import Fake
from avtomatika.testing.machine import FOREVER, Killed, Machine, MortalStore, picked_worker
from avtomatika.testing.virtual_time import MOMENT, VirtualTime
from avtomatika.worker.calls import Call, result_of
from avtomatika.worker.hotcache import HotCache

#: After so many seconds without any change no further pick can be made: every grace of the dispatcher is over.
STEADY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TaskCall:
    """One attempt that a fake worker has begun."""

    task: str
    params: JSON
    attempt: int
    worker: str
    job_id: str


@dataclass
class FakeWorker:
    """A fake worker's process.

    Attributes:
        running: by task id, what runs the attempt.
        ended: why: `stopped` by an order, or `killed`.
    """

    id: str
    fakes: dict[str, Fake]
    slots: int
    about: JSON = field(default_factory=dict)
    running: dict[str, asyncio.Task[Result]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    taken: int = 0

    def end(self, task_id: str, how: str) -> None:
        attempt = self.running.get(task_id)
        if attempt is not None:
            self.ended.setdefault(task_id, how)
            attempt.cancel()


class Driver(Machine):
    """
    Attributes:
        fake_workers: by id.
        calls: every attempt that a fake has begun, in order.
        lost, repeated: how many messages of a name (a task's, or `resume`, …) are still to be lost, or delivered twice.
        ask: answers an open question to a person, where the test has said how; whether it has answered one.
    """

    def __init__(self, settings: Settings, time: VirtualTime, task_routes: Mapping[str, Any] | None, most: int) -> None:
        super().__init__(settings, now=wall.time(), task_routes=task_routes)
        self.fake_workers: dict[str, FakeWorker] = {}
        self.calls: list[TaskCall] = []
        self.lost: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.ask: Callable[[], Awaitable[bool]] | None = None
        self._epoch = self.now
        self._time = time
        self._most = most
        self._failures: list[BaseException] = []
        self._going: set[asyncio.Task[None]] = set()
        self._woken: asyncio.Future[bool] | None = None
        self._driving = asyncio.Lock()
        self._new: list[FakeWorker] = []
        self._next_repair = self._looked = self._changed = self._epoch

    def clock(self) -> float:
        return self._epoch + self._time.passed

    def _push(self, message: Message) -> None:
        super()._push(message)
        self._wake()

    def store_of_boot(self) -> Store:
        store: Any = MortalStore(self.store)
        return store  # type: ignore[no-any-return]

    # --- Workers ---------------------------------------------------------------------------------------------------------------

    def hire(self, worker: FakeWorker) -> None:
        """Adds a fake worker, or replaces the one of its id; it registers before anything else happens."""
        self.fake_workers[worker.id] = worker
        self._new.append(worker)

    async def register_new(self) -> None:
        while self._new:
            worker = self._new.pop(0)
            tasks = tuple(sorted(worker.fakes))
            await self.add_worker(
                worker.id, **{"tasks": tasks, "supported_tasks": tasks, "capabilities": {"cpu": worker.slots}, **worker.about}
            )

    async def kill_worker(self, worker_id: str, *, restart: bool) -> None:
        for task_id in list(self.fake_workers[worker_id].running):
            self.fake_workers[worker_id].end(task_id, "killed")
        if restart:
            await super().restart_worker(worker_id)
        else:
            await self.end_worker(worker_id)
            del self.fake_workers[worker_id]

    async def restart_worker(self, worker_id: str = "worker") -> None:
        await self.kill_worker(worker_id, restart=True)

    async def kill_orchestrator(self) -> None:
        self.engine.store.dead = True  # type: ignore[attr-defined]
        await self.restart_orchestrator()

    async def _stop(self, stops: Sequence[tuple[str, str]]) -> None:
        await super()._stop(stops)
        for worker_id, task_id in stops:
            if worker_id in self.fake_workers:
                self.fake_workers[worker_id].end(task_id, "stopped")

    def _find_worker(self, message: Message) -> FakeWorker | None:
        """Who would take a message now; None where all are busy, or nobody fakes its task."""
        picked, task = picked_worker(message), message.headers["task"]
        able = [w for w in self.fake_workers.values() if task in w.fakes and w.taken < w.slots and picked in (None, w.id)]
        return min(able, key=lambda worker: worker.taken, default=None)

    async def run_task(self, worker_id: str, name: str, payload: JSON, claim: TaskClaim) -> Result:
        worker, task_id = self.fake_workers[worker_id], payload["task_id"]
        self.calls.append(TaskCall(name, payload["params"], payload["attempt"], worker_id, payload["job_id"]))
        context = {
            **{key: payload[key] for key in ("task_id", "job_id", "attempt", "priority")},
            "timeout_at": claim.timeout_at,
            "worker_id": worker_id,
        }
        raised: list[BaseException] = []
        declaration = worker.fakes[name].next(raised.append)

        async def progress(task_id: str, job_id: str, value: float, message: str) -> None:
            await self.store.task_progress(task_id, self.boots[worker_id], value, message)

        loop = asyncio.get_running_loop()
        call = Call(declaration, payload["params"], context, progress, HotCache(), loop)
        seconds = None if claim.timeout_at is None else max(0.0, claim.timeout_at - self.clock())
        attempt = worker.running[task_id] = loop.create_task(result_of(call, seconds))
        try:
            result = await attempt
        except asyncio.CancelledError:
            how = worker.ended.pop(task_id, None)
            if how == "killed" or raised:
                raise Killed from None
            if how is None:
                raise
            return Result(Result.CANCELLED, error=ResultError("CANCELLED", "the task was cancelled"))
        finally:
            del worker.running[task_id]
        self._failures += raised
        if worker.ended.pop(task_id, None) == "killed":  # it has answered at the very end
            raise Killed
        return result

    async def _run_plain(self, worker: FakeWorker, message: Message) -> None:
        """A plain Celery task: nobody claims it, its params are keyword arguments, its return value is data."""
        _, kwargs, embed = json.loads(message.body)
        task_id, name = message.headers["id"], message.headers["task"]
        job_id = embed["chain"][-1]["kwargs"]["job_id"]
        self.calls.append(TaskCall(name, kwargs, 1, worker.id, job_id))
        raised: list[BaseException] = []
        try:
            value = await worker.fakes[name].next(raised.append).func(**kwargs)
        except asyncio.CancelledError:
            if raised:
                return  # it has died: its fleet's own affair; the job waits for its time limit
            raise
        except Exception as exc:
            self._failures += raised
            value = Result.from_dict(envelope_of_exception(type(exc).__name__, str(exc)))
        failure = value if isinstance(value, Result) else None
        await self.engine.resume_plain(task_id, value, failure)

    # --- Messages --------------------------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        """Begins to deliver what somebody can take now; how many messages these are."""
        begun = 0
        for message in list(self.queue):
            name = message.headers["task"]
            control = name.startswith("avtomatika.")
            worker = None if control else self._find_worker(message)
            if not control and worker is None:
                continue
            self.queue.remove(message)
            begun += 1
            short = name.removeprefix("avtomatika.") if control else name
            if self.lost[short] > 0:
                self.lost[short] -= 1
                continue
            if self.repeated[short] > 0:
                self.repeated[short] -= 1
                self._go(message, worker)
            self._go(message, worker)
        return begun

    def _go(self, message: Message, worker: FakeWorker | None) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver_to(message, worker))
        if worker is not None:
            worker.taken += 1
        self._going.add(task)

        def over(ended: asyncio.Task[None]) -> None:
            self._going.discard(ended)
            if worker is not None:
                worker.taken -= 1
            if not ended.cancelled() and (exc := ended.exception()) is not None and not isinstance(exc, Killed):
                self._failures.append(exc)
            self._wake()

        task.add_done_callback(over)

    async def _deliver_to(self, message: Message, worker: FakeWorker | None) -> None:
        if worker is None:
            await self.deliver(message)
            return
        _, kwargs, embed = json.loads(message.body)
        if "avtomatika_attempt" in message.headers:
            await self.work(worker.id, message.headers["task"], kwargs, embed)
        else:
            await self._run_plain(worker, message)

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(True)

    def _stuck(self) -> bool:
        if self._woken is None or self._woken.done():
            return False
        self._woken.set_result(False)
        return True

    # --- Time ------------------------------------------------------------------------------------------------------------------

    async def drive(self, until: Callable[[], bool], deadline: float | None = None) -> bool:
        """Goes on until a condition holds (true); false at the deadline, or once nothing more can happen by itself.

        Raises:
            HarnessError: it went on for too long.
            BaseException: what a fake's assertion raised.
        """
        async with self._driving:
            delivered, before = 0, len(self.store.stream)
            while True:
                await self.register_new()
                begun = self._begin()
                await self._time.idle()
                if self._failures:
                    raise self._failures.pop(0)
                if begun:
                    self._changed = self.clock()
                    delivered += begun
                    if delivered + len(self.store.stream) - before > self._most:
                        raise HarnessError(
                            f"still going after {self._most} messages and events: does a blueprint run in a circle? "
                            f"The last were: {', '.join(self._latest())}. If not, give the harness a larger max_events"
                        )
                    continue
                if self.ask is not None and await self.ask():
                    continue
                if until():
                    return True
                now, due = self.clock(), await self._due()
                if due is not None and due <= now:
                    await self._housekeep(now)
                elif (deadline is not None and now >= deadline) or not await self._wait(
                    min((at for at in (due, deadline) if at is not None), default=None)
                ):
                    return False

    def _latest(self) -> list[str]:
        return [f"{event.event_type} ({event.state})" for event in self.store.stream[-6:]]

    async def _wait(self, until: float | None) -> bool:
        """Lets time pass until then, or until something happens; false where nothing can."""
        if until is None and not self._going:
            return False
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = None if until is None else loop.call_later(max(0.0, until - self.clock()) + MOMENT, self._wake)
        self._time.on_stuck = self._stuck
        try:
            return await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()

    async def _due(self) -> float | None:
        """When the housekeeping has something to do; None where it has not, however long it waits."""
        now, store = self.clock(), self.store
        times = list(store._timers.values())
        if any(expires <= now for expires in store._boots.values()):
            times.append(self._looked + TICK_SECONDS)
        unclaimed = any(r.state is TaskState.DISPATCHED and not r.info.is_plain for r in store._tasks.values())
        takers = any(self._find_worker(message) for message in self.queue)
        if self._has_lost_control() or (unclaimed and (takers or not self.queue)):
            times.append(self._next_repair)
        if now < self._changed + STEADY_SECONDS and await store.picking():
            times.append(self._looked + TICK_SECONDS)
        return min(times, default=None)

    def _has_lost_control(self) -> bool:
        """Whether an engine's message waits for an answer of which nobody is at work."""
        now, store = self.clock(), self.store
        at_work = {job for job, (boot_id, _) in store._job_claims.items() if store._boots.get(boot_id, 0.0) > now}
        return any(json.loads(message.body)[1].get("job_id") not in at_work for message, _ in store._ledger.values())

    async def _housekeep(self, now: float) -> None:
        self._looked = now
        await self.tick()
        if now >= self._next_repair:
            self._next_repair = now + self.settings.watcher_interval_seconds
            for worker_id, record in self.records.items():
                await self.store.heartbeat(worker_id, record.boot_id, now, FOREVER, record)
            await self.repair()

    async def close(self) -> None:
        """Ends what still runs."""
        for task in self._going:
            task.cancel()
        if self._going:
            await asyncio.wait(self._going)
        await self.settled()
