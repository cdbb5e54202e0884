"""Housekeeping, by one orchestrator at a time: timers that are due, processes that have ended, messages that were lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from avtomatika.broker.messages import published_again
from avtomatika.broker.probe import QueueProbe
from avtomatika.broker.queues import direct_queue_name
from avtomatika.compiler import to_priority
from avtomatika.engine.approvals import give_up
from avtomatika.engine.attempts import stood_out
from avtomatika.engine.courier import Courier
from avtomatika.engine.draft import Draft, entry_of
from avtomatika.engine.endings import time_out
from avtomatika.engine.leadership import Leadership
from avtomatika.engine.reputation import recompute
from avtomatika.engine.results import Engine
from avtomatika.engine.schedules import Scheduler
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import FanOut, JobStatus, Message, Result, TaskInfo, TaskState, Timer
from avtomatika.results import TIMED_OUT
from avtomatika.state.base import TaskRecord
from avtomatika.state.values import is_disowned

logger = logging.getLogger(__name__)

LOCK = "housekeeping"
LOCK_SECONDS = 10.0
TICK_SECONDS = 0.5
#: Ended jobs whose retention has passed: so many are forgotten in one call, and at most so many in one round.
FORGOTTEN_AT_ONCE = 200
MAX_FORGOTTEN = 4000


class Watcher:
    """Runs `tick` twice a second and `repair` every WATCHER_INTERVAL_SECONDS while it holds the lock."""

    def __init__(self, engine: Engine, probe: QueueProbe, scheduler: Scheduler | None = None) -> None:
        self.engine = engine
        self.store = engine.store
        self.settings = engine.settings
        self.probe = probe
        self.scheduler = scheduler
        self.courier = Courier(engine)
        self.leadership = Leadership(self.store, LOCK, engine.boot_id, LOCK_SECONDS, lambda: engine.clock())
        self._next_repair = 0.0
        self._next_reputation = 0.0
        self._store_was_away = False
        self._judges_from = 0.0

    async def run(self) -> None:
        """Until cancelled. A store that is away is waited for."""
        # Beside the rounds, so that a long repair keeps no schedule waiting.
        beside = asyncio.ensure_future(self.scheduler.run(lambda: self.leadership.held)) if self.scheduler is not None else None
        try:
            while True:
                try:
                    await self.round()
                except StoreUnavailableError as exc:
                    self._store_was_away = True
                    logger.warning("housekeeping waits for the state store: %s", exc, extra={"action": "watch"})
                except Exception:
                    logger.exception("a round of housekeeping failed; the next one goes on", extra={"action": "watch"})
                await asyncio.sleep(TICK_SECONDS)
        finally:
            if beside is not None:
                beside.cancel()
            self.courier.stop()
            await asyncio.shield(self.leadership.leave())

    async def round(self) -> None:
        """One round: places what waits for a worker, as every orchestrator may; then, under the lock, does what is due."""
        await self.engine.dispatcher.look()
        if not (await self.lead() and await self.leadership.during(self._housekeep())):
            self.courier.stop()

    async def _housekeep(self) -> None:
        await self.tick()
        await self.courier.round()
        now = self.engine.clock()
        if now >= self._next_repair:
            self._next_repair = now + self.settings.watcher_interval_seconds
            await self.repair()
        if now >= self._next_reputation:
            self._next_reputation = now + self.settings.reputation_interval_seconds
            await recompute(self.store, now)

    async def lead(self) -> bool:
        """Takes or renews the lock; whether this process does the housekeeping now."""
        led = self.leadership.held
        if await self.leadership.take() and not led:
            self._next_repair = self._next_reputation = 0.0
            logger.info("this orchestrator does the housekeeping now", extra={"action": "lead"})
        return self.leadership.held

    async def tick(self) -> None:
        for timer in await self.store.due(self.engine.clock()):
            try:
                await self._fire(timer)
            except StoreUnavailableError:
                raise
            except Exception:  # it must not keep the others waiting
                logger.exception("timer %s failed; it is tried again", timer.member, extra={"action": "timer"})
                await self.store.set_timer(replace(timer, due=self.engine.clock() + self.settings.watcher_interval_seconds))
        if self._may_judge(self.engine.clock()):
            for boot_id in await self.store.ended_boots(self.engine.clock()):
                await self.recover(boot_id)
        for task_type in await self.store.unrouted_types():
            await self._route(task_type)
        for _ in range(MAX_FORGOTTEN // FORGOTTEN_AT_ONCE):
            if await self.store.forget_expired(self.engine.clock(), FORGOTTEN_AT_ONCE) < FORGOTTEN_AT_ONCE:
                break

    def _may_judge(self, now: float) -> bool:
        """Whether silence means an end. While the store was away nobody could be heard: first each has time for a heartbeat."""
        if self._store_was_away:
            self._store_was_away = False
            self._judges_from = now + self.settings.heartbeat + TICK_SECONDS
        return now >= self._judges_from

    async def repair(self) -> None:
        """Repeats what did not arrive: outbox entries, control messages without an answer, attempts that nobody claimed."""
        now = self.engine.clock()
        before = now - self.settings.claim_grace_seconds
        await self.engine.publisher.flush([outbox_id for outbox_id, _ in await self.store.outbox(before)])
        await self._repeat_lost([(message, at) for message, at in await self.store.ledger(before)], now)
        await self._redispatch_lost(await self.store.unclaimed(before), now)
        await self.engine.after(await self.store.sweep_leases(now))
        if self.settings.history_database_uri is None:  # else the history's writer drops what it has written
            await self.store.trim_feed("", now - self.settings.job_retention_seconds)

    async def recover(self, boot_id: str) -> None:
        """Gives out again what an ended process held."""
        jobs, tasks = await self.store.claims(boot_id)
        assigned = await self.store.assigned(boot_id)
        if jobs or tasks or assigned:
            logger.warning(
                "a process ended with %d jobs and %d tasks in its hands, or knows nothing of them: they are given out again",
                len(jobs),
                len(tasks) + len(assigned),
                extra={"action": "recover", "boot_id": boot_id},
            )
        for job_id, key in jobs.items():
            await self._recover_job(boot_id, job_id, key)
        await self._recover_tasks(boot_id, tasks)
        await self._recover_assigned(assigned)
        await self.engine.after(await self.store.forget_boot(boot_id, self.engine.clock()))

    async def _recover_tasks(self, boot_id: str, task_ids: Sequence[str]) -> None:
        """Attempts that an ended process ran are given out again."""
        found = {task_id: await self.store.get_task(task_id) for task_id in task_ids}
        held = {i: r for i, r in found.items() if r is not None and r.state is TaskState.CLAIMED and r.boot_id == boot_id}
        for task_id in task_ids:
            record = held.get(task_id)
            if record is not None and is_disowned(boot_id):  # no fault of the worker, nor of the task
                await self.engine.attempt_lost(record.info, f"worker {record.worker_id} has no such attempt", alone=False)
            elif record is not None:
                alone = stood_out(record, (other for other in held.values() if other is not record))
                await self.engine.attempt_lost(record.info, f"worker {record.worker_id} ended", record.worker_id, alone=alone)
            await self.store.drop_claim(boot_id, task_id=task_id)

    async def _recover_assigned(self, task_ids: Sequence[str]) -> None:
        """Tasks in the direct queues of an ended process wait for a pick again, and nothing is left in those queues.

        Where the worker is back already, it finds what is left there, and that these messages are of attempts given to others.
        """
        records = [record for task_id in task_ids if (record := await self.store.get_task(task_id)) is not None]
        alive = {worker.id for worker in await self.store.workers(self.engine.clock())} if records else set()
        queues = set()
        for record in records:
            if record.assigned_to is not None and record.assigned_to not in alive:
                capability = await self.engine.capability_of(record.info.type)
                queues.add(direct_queue_name(record.assigned_to, capability or record.info.type))
        await self.probe.purge(sorted(queues))  # before anything new can be in them
        for record in records:
            await self.engine.after(await self.store.unassign(record.info.id, self.engine.clock()))

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
        entry = entry_of(record.info, capability, self.engine.compiler, now)
        await self.engine.after(await self.store.enter(task_id, entry, now))

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
            case "limit":
                await self.store.drop_timer(timer)  # first: `unpark` sets it anew where the limit is used up again
                await self.engine.after(await self.store.unpark(timer.key, self.engine.clock()))
                return
            case "deadline":
                await self._deadline_passed(timer.key)
            case "cancel":
                await self._not_stopped(timer.key)
            case "job":
                await time_out(self.engine, timer.key)
            case "approval":
                job_id, _, approval_id = timer.key.partition("|")
                await give_up(self.engine, job_id, approval_id)
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

    async def _deadline_passed(self, key: str) -> None:
        """The deadline of a fan-out: its verdict is found with what has come."""
        job_id, _, fanout_id = key.partition("|")
        job = await self.store.load(job_id)
        if job is None or not isinstance(job.waiting, FanOut) or job.waiting.id != fanout_id:
            return
        now = self.engine.clock()
        await self._publish(self.engine.compiler.aggregate_message(job_id, fanout_id, now), now)

    async def _task_due(self, key: str) -> None:
        """The pause before another attempt of a single dispatch is over."""
        job_id, _, task_id = key.partition("|")
        while True:  # until no other change of the job comes first
            job = await self.store.load(job_id)
            if job is None or not isinstance(job.waiting, TaskInfo) or job.waiting.id != task_id:
                return
            if job.status is not JobStatus.AWAITING_RETRY:
                return
            info = job.waiting
            capability = None if info.is_plain else await self.engine.capability_of(info.type)
            draft = Draft(job, self.engine.clock(), self.engine.compiler)
            draft.set(status=JobStatus.WAITING_FOR_WORKER)
            draft.task(info, capability)
            if await self.engine.commit(draft.commit()):
                return

    async def _branch_due(self, task_id: str) -> None:
        record = await self.store.get_task(task_id)
        if record is None or record.state is not TaskState.DELAYED:
            return
        capability = None if record.info.is_plain else await self.engine.capability_of(record.info.type)
        now = self.engine.clock()
        if capability is None and not record.info.is_plain:
            await self.store.set_timer(Timer("branch", task_id, now + 1))
            return
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
        if claimed and record.worker_id is not None:
            await self.store.note_outcome(record.worker_id, Result.TIMEOUT, now)

    async def _not_stopped(self, task_id: str) -> None:
        """An attempt was cancelled and has not ended within its grace: it is overruled."""
        record = await self.store.get_task(task_id)
        if record is None or record.state is TaskState.DONE:
            return
        error = {"code": "CANCELLED", "message": "cancelled; its worker did not stop in time"}
        envelope = {"status": Result.CANCELLED, "data": {}, "error": error, "meta": {"worker_id": record.worker_id}}
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
            if record.assigned_to is not None:
                await self._take_back(record)
                continue
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

    async def _take_back(self, record: TaskRecord) -> None:
        """A worker has not taken what was picked for it. One that has nothing else to do has stalled, and is to be avoided.

        What was put ahead on a busy worker stays there, unless it could start elsewhere or its message is lost.
        """
        in_line = bool((record.decision or {}).get("ahead")) and await self._is_at_work(record)
        if in_line and not (
            await self._is_lost(record) or await self.engine.dispatcher.suits_idle(record.info, besides=record.assigned_to)
        ):
            return
        healthy = in_line or await self.engine.dispatcher.has_no_slot(record)
        done = await self.store.unassign(record.info.id, self.engine.clock(), avoid=not healthy)
        if done.applied:
            logger.warning(
                "worker %s did not take a task that was picked for it: another pick is made", record.assigned_to,
                extra={"action": "take_back", "task_id": record.info.id, "worker_id": record.assigned_to},
            )  # fmt: skip
        await self.engine.after(done)

    async def _is_lost(self, record: TaskRecord) -> bool:
        now, capability = self.engine.clock(), await self.engine.capability_of(record.info.type)
        worker = await self.store.worker(record.assigned_to or "", now)
        if worker is not None and worker.http:  # there is no message: its poll looks into the store
            return False
        message = self.engine.compiler.task_message(record.info, capability, now, record.assigned_to)
        return await self.probe.passed(message, record.dispatched_at)

    async def _is_at_work(self, record: TaskRecord) -> bool:
        workers = await self.store.workers(self.engine.clock())
        worker = next((worker for worker in workers if worker.id == record.assigned_to), None)
        return worker is not None and bool((await self.store.claims(worker.boot_id))[1])
