"""Housekeeping, by one orchestrator at a time: timers that are due, processes that have ended, messages that were lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from avtomatika.broker.messages import published_again
from avtomatika.broker.probe import QueueProbe
from avtomatika.compiler import to_priority
from avtomatika.engine.draft import Draft
from avtomatika.engine.results import Engine
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import FanOut, JobStatus, Message, Result, TaskInfo, TaskState, Timer
from avtomatika.results import TIMED_OUT
from avtomatika.state.base import TaskRecord

logger = logging.getLogger(__name__)

LOCK = "housekeeping"
LOCK_SECONDS = 10.0
TICK_SECONDS = 0.5


class Watcher:
    """Runs `tick` twice a second and `repair` every WATCHER_INTERVAL_SECONDS while it holds the lock."""

    def __init__(self, engine: Engine, probe: QueueProbe) -> None:
        self.engine = engine
        self.store = engine.store
        self.settings = engine.settings
        self.probe = probe
        self._leads = False
        self._renewed = 0.0
        self._next_repair = 0.0
        self._expiry_checked = 0.0

    async def run(self) -> None:
        """Until cancelled. A store that is away is waited for."""
        try:
            while True:
                try:
                    await self.round()
                except StoreUnavailableError as exc:
                    self._leads = False
                    logger.warning("housekeeping waits for the state store: %s", exc, extra={"action": "watch"})
                except Exception:
                    logger.exception("a round of housekeeping failed; the next one goes on", extra={"action": "watch"})
                await asyncio.sleep(TICK_SECONDS)
        finally:
            if self._leads:
                await asyncio.shield(self.store.release(LOCK, self.engine.boot_id))

    async def round(self) -> None:
        """One round: takes or renews the lock, then does what is due."""
        if not await self.lead():
            return
        await self.tick()
        now = self.engine.clock()
        if now >= self._next_repair:
            self._next_repair = now + self.settings.watcher_interval_seconds
            await self.repair()

    async def lead(self) -> bool:
        """Takes or renews the lock; whether this process does the housekeeping now."""
        boot = self.engine.boot_id
        self._renewed = time.monotonic()
        if self._leads:
            self._leads = await self.store.renew(LOCK, boot, LOCK_SECONDS)
        if not self._leads:
            for ended in await self.store.ended_boots(self.engine.clock()):
                await self.store.release(LOCK, ended)  # a leader that was killed and started again is not waited for
            self._leads = await self.store.acquire(LOCK, boot, LOCK_SECONDS)
            if self._leads:
                self._next_repair = 0.0
                logger.info("this orchestrator does the housekeeping now", extra={"action": "lead"})
        return self._leads

    async def _still_leads(self) -> bool:
        """Between two pieces of work: renews the lock in time; whoever has lost it stops."""
        now = time.monotonic()
        if now - self._renewed > LOCK_SECONDS / 3:
            self._renewed = now
            self._leads = await self.store.renew(LOCK, self.engine.boot_id, LOCK_SECONDS)
        return self._leads

    async def tick(self) -> None:
        for timer in await self.store.due(self.engine.clock()):
            if not await self._still_leads():
                return
            try:
                await self._fire(timer)
            except StoreUnavailableError:
                raise
            except Exception:  # it must not keep the others waiting
                logger.exception("timer %s failed; it is tried again", timer.member, extra={"action": "timer"})
                await self.store.set_timer(replace(timer, due=self.engine.clock() + self.settings.watcher_interval_seconds))
        for boot_id in await self.store.ended_boots(self.engine.clock()):
            await self.recover(boot_id)
        for task_type in await self.store.unrouted_types():
            await self._route(task_type)

    async def repair(self) -> None:
        """Repeats what did not arrive: outbox entries, control messages without an answer, attempts that nobody claimed."""
        now = self.engine.clock()
        before = now - self.settings.claim_grace_seconds
        await self.engine.publisher.flush([outbox_id for outbox_id, _ in await self.store.outbox(before)])
        await self._repeat_lost([(message, at) for message, at in await self.store.ledger(before)], now)
        await self._redispatch_lost(await self.store.unclaimed(before), now)
        if now - self._expiry_checked > 600:
            self._expiry_checked = now
            await self.store.forget_expired(now - self.settings.job_retention_seconds)

    async def recover(self, boot_id: str) -> None:
        """Gives out again what an ended process held."""
        jobs, tasks = await self.store.claims(boot_id)
        if jobs or tasks:
            logger.warning(
                "a process ended with %d jobs and %d tasks in its hands: they are given out again",
                len(jobs),
                len(tasks),
                extra={"action": "recover", "boot_id": boot_id},
            )
        for job_id, key in jobs.items():
            if not await self._still_leads():
                return
            await self._recover_job(boot_id, job_id, key)
        for task_id in tasks:
            if not await self._still_leads():
                return
            record = await self.store.get_task(task_id)
            if record is not None and record.state is TaskState.CLAIMED and record.boot_id == boot_id:
                await self.engine.attempt_lost(record.info, f"worker {record.worker_id} ended")
            await self.store.drop_claim(boot_id, task_id=task_id)
        await self.store.forget_boot(boot_id, self.engine.clock())

    async def _recover_job(self, boot_id: str, job_id: str, key: str) -> None:
        now = self.engine.clock()
        message = await self.store.ledger_get(key)
        if message is None:
            job = await self.store.load(job_id)
            if job is not None and job.waiting is None and job.status in (JobStatus.PENDING, JobStatus.RUNNING):
                message = self.engine.compiler.step_message(job.id, job.version, now)
        again = published_again(message, now) if message is not None else None
        # One call, so that no crash comes between; where somebody took the job over meanwhile, it does nothing.
        done = await self.store.release_job(job_id, boot_id, again, now)
        if not done.applied:
            await self.store.drop_claim(boot_id, job_id=job_id)
        await self.engine.publisher.flush(done.outbox)

    async def _publish(self, message: Message, now: float) -> None:
        done = await self.store.publish(published_again(message, now), now)
        await self.engine.publisher.flush(done.outbox)

    async def _route(self, task_type: str) -> None:
        """Dispatches what waited for a worker that names the task."""
        capability = await self.engine.capability_of(task_type)
        if capability is None:
            return
        for task_id in await self.store.unrouted(task_type):
            await self._dispatch(task_id, capability)

    async def _dispatch(self, task_id: str, capability: str | None) -> None:
        record = await self.store.get_task(task_id)
        if record is None:
            return
        now = self.engine.clock()
        message = self.engine.compiler.task_message(record.info, capability, now)
        done = await self.store.redispatch(task_id, message, now)
        await self.engine.publisher.flush(done.outbox)

    async def _fire(self, timer: Timer) -> None:
        match timer.kind:
            case "step":
                await self._step_due(timer.key)
            case "aggregate":
                await self._aggregate_due(timer.key)
            case "task":
                await self._task_due(timer.key)
            case "branch":
                await self._branch_due(timer.key)
            case "timeout" | "dispatch":
                await self._timed_out(timer)
            case _:
                logger.error("a timer of unknown kind is dropped: %s", timer.member, extra={"action": "timer"})
        # After the work: a crash before this line repeats it, and repeating does nothing.
        await self.store.drop_timer(timer)

    async def _step_due(self, key: str) -> None:
        job_id, _, version = key.partition("|")
        job = await self.store.load(job_id)
        if job is None or job.version != int(version) or job.status is not JobStatus.AWAITING_RETRY:
            return
        await self._publish(self.engine.compiler.step_message(job_id, job.version, self.engine.clock()), self.engine.clock())

    async def _aggregate_due(self, key: str) -> None:
        job_id, _, version = key.partition("|")
        job = await self.store.load(job_id)
        if job is None or job.version != int(version) or not isinstance(job.waiting, FanOut):
            return
        now = self.engine.clock()
        await self._publish(self.engine.compiler.aggregate_message(job_id, job.waiting.id, now), now)

    async def _task_due(self, key: str) -> None:
        """The pause before another attempt of a single dispatch is over."""
        job_id, _, task_id = key.partition("|")
        job = await self.store.load(job_id)
        if job is None or not isinstance(job.waiting, TaskInfo) or job.waiting.id != task_id:
            return
        if job.status is not JobStatus.AWAITING_RETRY:
            return
        draft = Draft(job, self.engine.clock(), self.engine.compiler)
        draft.set(status=JobStatus.WAITING_FOR_WORKER)
        info = job.waiting
        draft.task(info, None if info.is_plain else await self.engine.capability_of(info.type))
        await self.engine.commit(draft.commit())

    async def _branch_due(self, task_id: str) -> None:
        record = await self.store.get_task(task_id)
        if record is None or record.state is not TaskState.DELAYED:
            return
        capability = None if record.info.is_plain else await self.engine.capability_of(record.info.type)
        now = self.engine.clock()
        if capability is None and not record.info.is_plain:
            await self.store.set_timer(Timer("branch", task_id, now + 1))
            return
        if record.info.is_plain and record.info.timeout_seconds is not None:  # nobody claims it: its clock starts here
            await self.store.set_timer(Timer("timeout", task_id, now + record.info.timeout_seconds))
        await self._dispatch(task_id, capability)

    async def _timed_out(self, timer: Timer) -> None:
        """An attempt was not started, or not ended, in time: a result of ours says so, as its worker's would have come."""
        record = await self.store.get_task(timer.key)
        if record is None or record.state is TaskState.DONE:
            return
        claimed = record.state is TaskState.CLAIMED
        if timer.kind == "dispatch":
            over = not claimed
        else:
            over = record.info.is_plain or (claimed and (record.timeout_at or 0) <= self.engine.clock())
        if not over:
            return
        reason = TIMED_OUT if timer.kind == "timeout" else "No worker took the task in time"
        envelope = {"status": Result.TIMEOUT, "data": {}, "error": {"code": "TIMEOUT", "message": reason}, "meta": {}}
        now = self.engine.clock()
        await self._publish(self.engine.compiler.resume_message(record.info, envelope, now), now)

    async def _repeat_lost(self, entries: Sequence[tuple[Message, float]], now: float) -> None:
        waiting = set()  # oldest first: where one is still in its queue, so are the younger ones behind it
        for message, published_at in entries:
            if message.queue in waiting:
                continue
            if not await self.probe.passed(message, published_at):
                waiting.add(message.queue)
                continue
            logger.info("a control message is published again: %s", message.key, extra={"action": "repeat"})
            await self._publish(message, now)

    async def _redispatch_lost(self, records: Sequence[TaskRecord], now: float) -> None:
        waiting = set()
        for record in records:
            info = record.info
            lane = (info.type, to_priority(info.priority))
            if lane in waiting:
                continue
            message = self.engine.compiler.task_message(info, await self.engine.capability_of(info.type), now)
            if not await self.probe.passed(message, record.dispatched_at):
                waiting.add(lane)
                continue
            done = await self.store.redispatch(info.id, message, now)
            if done.applied:
                logger.info("a task nobody claimed is published again", extra={"action": "repeat", "task_id": info.id})
            await self.engine.publisher.flush(done.outbox)
