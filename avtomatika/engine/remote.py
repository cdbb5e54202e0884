"""HTTP workers as the engine sees them: registration, signs of life, and the results that a facade takes for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from weakref import WeakValueDictionary

from avtomatika.engine.results import Engine
from avtomatika.errors import ForbiddenError, RegistrationError, StoreUnavailableError, UnknownWorkerError
from avtomatika.jobs import Result, TaskState, WorkerRecord, new_id
from avtomatika.results import LATE, outcome_of

logger = logging.getLogger(__name__)


class Taken(StrEnum):
    """What became of a result."""

    SUCCESS = "result_accepted_success"
    FAILURE = "result_accepted_failure"
    CANCELLED = "result_accepted_cancelled"
    BRANCH = "parallel_branch_result_accepted"
    IGNORED = "result_ignored"


@dataclass(frozen=True, slots=True)
class ResultAnswer:
    """`reason`: why a result was ignored."""

    taken: Taken
    reason: str | None = None


class RemoteWorkers:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = engine.store
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def one_at_a_time(self, worker_id: str) -> asyncio.Lock:
        """Held while a worker's record is read and written."""
        return self._locks.setdefault(worker_id, asyncio.Lock())

    def clock(self) -> float:
        return self._engine.clock()

    def silence(self, record: WorkerRecord) -> float:
        """Seconds without a sign of life after which a worker counts as dead."""
        settings = self._engine.settings
        least = settings.worker_ttl_seconds or 2 * settings.worker_health_check_interval_seconds
        return max(least, 3 * record.heartbeat_interval)

    async def register(self, record: WorkerRecord, capabilities: dict[str, str | None]) -> WorkerRecord:
        """Registers a start of a worker; what an earlier one held is given out again.

        Args:
            capabilities: task -> its capability; None takes the pinned one.

        Raises:
            RegistrationError: a task is pinned to another capability, or a Celery worker has this id.
        """
        now = self._engine.clock()
        before = await self._store.worker(record.id, now)
        if before is not None and not before.http:
            raise RegistrationError(f"a Celery worker is registered as {record.id!r}: choose another worker_id")
        pinned = await self._store.pin_tasks(capabilities)
        record = replace(_with_limits(record, pinned), boot_id=new_id(), http=True, registered_at=now, seen_at=now)
        done = await self._store.register(record, now, self.silence(record))
        await self._engine.after(done)
        logger.info(
            "HTTP worker %s registers: %s", record.id, ", ".join(record.tasks) or "no tasks",
            extra={"action": "register", "worker_id": record.id},
        )  # fmt: skip
        return record

    async def update(self, record: WorkerRecord, capabilities: dict[str, str | None] | None = None) -> WorkerRecord:
        """What a worker says of itself now.

        Args:
            capabilities: of tasks that it has not named before.

        Raises:
            UnknownWorkerError: it is not registered (any more).
        """
        if capabilities:
            record = _with_limits(record, await self._store.pin_tasks(capabilities))
        record = replace(record, seen_at=self._engine.clock())
        await self._alive(record, record)
        return record

    async def alive(self, worker_id: str) -> WorkerRecord:
        """A sign of life, without news. Raises UnknownWorkerError."""
        record = await self.find(worker_id)
        await self._alive(record, None)
        return record

    async def _alive(self, record: WorkerRecord, news: WorkerRecord | None) -> None:
        now = self._engine.clock()
        if not await self._store.heartbeat(record.id, record.boot_id, now, self.silence(record), news):
            raise UnknownWorkerError(record.id)

    async def find(self, worker_id: str) -> WorkerRecord:
        """A live HTTP worker. Raises UnknownWorkerError."""
        record = await self._store.worker(worker_id, self._engine.clock())
        if record is None or not record.http:
            raise UnknownWorkerError(worker_id)
        return record

    async def take_result(self, worker_id: str, job_id: str, task_id: str, result: Result) -> ResultAnswer:
        """Takes what a worker reports of an attempt; one that is over, or was reported before, changes nothing.

        Raises:
            ForbiddenError: another worker runs the attempt.
        """
        now = self._engine.clock()
        record = await self._store.get_task(task_id)
        worker = await self._store.worker(worker_id, now)
        if worker is not None and not worker.http:
            raise ForbiddenError(f"{worker_id!r} is a Celery worker: it reports over its broker")
        if worker is not None and (record is None or record.state is not TaskState.CLAIMED):
            await self._store.settle_stop(worker.boot_id, task_id)
        if record is None or record.info.job_id != job_id:
            return ResultAnswer(Taken.IGNORED, "the attempt is over or unknown")
        if record.state is TaskState.CLAIMED and record.worker_id != worker_id:
            raise ForbiddenError(f"task {task_id} is run by another worker")
        if record.state is TaskState.DONE:
            return ResultAnswer(Taken.IGNORED, "the attempt was reported before")
        if record.state is not TaskState.CLAIMED or record.boot_id is None:
            return ResultAnswer(Taken.IGNORED, "the attempt was given back and waits for another worker")
        meta = {
            "worker_id": worker_id,
            "type": record.info.type,
            "attempt": record.info.attempt,
            "duration_ms": round(1000 * (now - (record.claimed_at or now)), 3),
        }
        message = self._engine.compiler.resume_message(record.info, {**result.to_dict(), "meta": meta}, now)
        done = await self._store.finish_task(task_id, record.boot_id, result, message, now, outcome_of(result))
        if not done.applied:
            if result.status != Result.CANCELLED:
                await self._store.note_outcome(worker_id, LATE, now)
            return ResultAnswer(Taken.IGNORED, "the attempt has ended meanwhile")
        await self._engine.after(done)
        with suppress(StoreUnavailableError):  # the result counts; a stop that stays is told in vain
            await self._store.settle_stop(record.boot_id, task_id)
        return ResultAnswer(_taken(result, is_branch=record.info.branch is not None))

    async def never_ran(self, task_id: str) -> None:
        """An attempt was cancelled before anybody began it: its job is told."""
        record = await self._store.get_task(task_id)
        if record is None or record.state is not TaskState.DISPATCHED:
            return
        error = {"code": "CANCELLED", "message": "cancelled before it began"}
        envelope = {"status": Result.CANCELLED, "data": {}, "error": error, "meta": {}}
        now = self._engine.clock()
        message = self._engine.compiler.resume_message(record.info, envelope, now)
        await self._engine.publisher.flush((await self._store.publish(message, now)).outbox)

    async def progress(self, task_id: str, progress: float, message: str, may: Callable[[str], bool]) -> bool:
        """Notes how far an attempt is; false where no worker runs it that `may` speak for itself here."""
        record = await self._store.get_task(task_id)
        if record is None or record.boot_id is None or record.worker_id is None or not may(record.worker_id):
            return False
        return await self._store.task_progress(task_id, record.boot_id, min(1.0, max(0.0, progress)), message)


def _taken(result: Result, *, is_branch: bool) -> Taken:
    if is_branch:
        return Taken.BRANCH
    return {Result.FAILURE: Taken.FAILURE, Result.CANCELLED: Taken.CANCELLED}.get(result.status, Taken.SUCCESS)


def _with_limits(record: WorkerRecord, pinned: dict[str, str]) -> WorkerRecord:
    """A capability without a limit of its own has the one over all."""
    most = record.max_concurrent_tasks
    limits = {capability: record.capabilities.get(capability, most) for capability in sorted(set(pinned.values()))}
    return replace(record, capabilities={**limits, **record.capabilities})
