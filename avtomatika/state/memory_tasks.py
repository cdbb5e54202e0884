"""Attempts and fan-outs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avtomatika.jobs import Event, Message, Result, TaskInfo, TaskState, Timer, new_id
from avtomatika.state.base import BranchOutcome, ClaimOutcome, CommitResult, NewTask, Progress, TaskClaim, TaskRecord
from avtomatika.state.memory_base import Change, take_out
from avtomatika.state.memory_jobs import Branches, MemoryJobs
from avtomatika.state.memory_lanes import nobody

#: How long a process that was forgotten counts as alive once it claims something.
FORGOTTEN_SECONDS = 60
#: Of so many reports it is known that they were made, should they be repeated.
CALLS_KEPT = 1000

_UNCLAIMED = (TaskState.UNROUTED, TaskState.DELAYED, TaskState.DISPATCHED)


class MemoryTasks(MemoryJobs):
    def _parked_on(self, task_id: str) -> str | None:
        key, _ = self._places[task_id]
        name = self._lanes[key.task_type][key].parked_on
        return name if name != nobody(key.task_type) else None

    async def get_task(self, task_id: str) -> TaskRecord | None:
        record = self._tasks.get(task_id)
        if record is None or record.state is not TaskState.WAITING:
            return record
        return replace(record, parked_on=self._parked_on(task_id))

    async def claim_task(
        self,
        task_id: str,
        worker_id: str,
        boot_id: str,
        now: float,
        default_timeout: float,
        capability: str = "",
        *,
        handing: bool = False,
        call: str | None = None,
    ) -> TaskClaim:
        record = self._tasks.get(task_id)
        if record is not None and record.state is TaskState.CLAIMED:
            again = self._claim_calls.get(task_id, "") == call
            return TaskClaim(ClaimOutcome.OK, record.timeout_at) if again else TaskClaim(ClaimOutcome.BUSY)
        if record is None or record.state is not TaskState.DISPATCHED:
            return TaskClaim(ClaimOutcome.STALE)
        if record.assigned_to is not None and task_id not in self._assigned.get(boot_id, ()):
            return TaskClaim(ClaimOutcome.STALE)
        if handing and not self._is_start(worker_id, boot_id, now):
            return TaskClaim(ClaimOutcome.GONE)
        if handing and record.assigned_to is None and self._slots(self._workers[worker_id][0], capability)[0] < 1:
            return TaskClaim(ClaimOutcome.FULL)
        if record.cancel_requested:
            return TaskClaim(ClaimOutcome.CANCELLED)
        timeout_at = now + (record.info.timeout_seconds or default_timeout)
        self._tasks[task_id] = replace(
            record, state=TaskState.CLAIMED, worker_id=worker_id, boot_id=boot_id, claimed_at=now, timeout_at=timeout_at
        )
        self._claim_calls[task_id] = call or new_id()
        self._timers.pop(f"dispatch|{task_id}", None)
        self._timers[f"timeout|{task_id}"] = timeout_at
        take_out(self._assigned, boot_id, task_id)
        self._claimed.setdefault(boot_id, {})[task_id] = capability
        if handing:
            self._handing.setdefault(boot_id, {})[task_id] = now
        self._boots.setdefault(boot_id, now + FORGOTTEN_SECONDS)
        if record.assigned_to is None:
            self._goes_for_good(task_id)
        change = Change(now)
        self._unqueue(record.info, change)
        self._flow(change)
        return TaskClaim(ClaimOutcome.OK, timeout_at, tuple(change.outbox))

    def _is_start(self, worker_id: str, boot_id: str, now: float) -> bool:
        found = self._workers.get(worker_id)
        return found is not None and found[0].boot_id == boot_id and found[1] > now

    def _held(self, task_id: str, boot_id: str) -> TaskRecord | None:
        record = self._tasks.get(task_id)
        if record is None or record.state is not TaskState.CLAIMED or record.boot_id != boot_id:
            return None
        return record

    async def finish_task(
        self,
        task_id: str,
        boot_id: str,
        result: Result,
        message: Message,
        now: float,
        outcome: str = "",
        *,
        call: str | None = None,
    ) -> CommitResult:
        if call is not None and call in self._finish_calls:
            return CommitResult(True)
        record = self._held(task_id, boot_id)
        if record is None:
            return CommitResult(False)
        self._tasks[task_id] = replace(record, state=TaskState.DONE, reported=result)
        if call is not None:
            self._finish_calls[call] = now
            while len(self._finish_calls) > CALLS_KEPT:
                del self._finish_calls[next(iter(self._finish_calls))]
        for kind in ("timeout", "cancel"):
            self._timers.pop(f"{kind}|{task_id}", None)
        take_out(self._claimed, boot_id, task_id)
        if outcome and record.worker_id is not None:
            self._note_outcome(record.worker_id, outcome, now)
        change = Change(now)
        self._publish(message, change)
        self._end_leases(record.info, change)
        self._flow(change)
        return change.result()

    async def release_task(self, task_id: str, boot_id: str, now: float) -> bool:
        capability = take_out(self._claimed, boot_id, task_id)
        record = self._held(task_id, boot_id)
        if record is None:
            return False
        self._tasks[task_id] = replace(
            record,
            state=TaskState.DISPATCHED,
            worker_id=None,
            boot_id=None,
            dispatched_at=now,
            claimed_at=None,
            timeout_at=None,
            progress=None,
            progress_message=None,
            progress_status="",
        )
        self._timers.pop(f"timeout|{task_id}", None)
        self._time_dispatch(record.info, now)
        if record.assigned_to is None:
            self._dispatched(record.info, now)
        else:
            self._assigned.setdefault(boot_id, {})[task_id] = capability or ""
        return True

    async def task_progress(self, task_id: str, boot_id: str, progress: float, message: str, status: str = "") -> bool:
        record = self._tasks.get(task_id)
        if record is None or record.boot_id != boot_id:
            return False
        self._tasks[task_id] = replace(record, progress=progress, progress_message=message, progress_status=status)
        return True

    async def progress_of(self, task_ids: Sequence[str]) -> dict[str, Progress]:
        records = [self._tasks[task_id] for task_id in task_ids if task_id in self._tasks]
        return {r.info.id: Progress(r.progress, r.progress_message or "") for r in records if r.progress is not None}

    def _out(self, job_id: str, task_id: str) -> tuple[Branches, int] | None:
        """The fan-out, and the place in it, of a branch that is still out."""
        branches = self._branches.get(job_id)
        index = branches.index_of(task_id) if branches is not None else None
        if branches is None or index is None or branches.results[index][1] is not None or task_id not in self._tasks:
            return None
        return branches, index

    async def branch_done(
        self,
        job_id: str,
        fanout_id: str,
        task_id: str,
        result: Result,
        event: Event,
        settles: Sequence[str],
        aggregate: Message,
    ) -> tuple[BranchOutcome, CommitResult]:
        found = self._out(job_id, task_id)
        if found is None or found[0].fanout.id != fanout_id:
            return BranchOutcome.STALE, CommitResult(False)
        branches, index = found
        branches.results[index] = (task_id, result)
        change = Change(event.timestamp)
        self._drop_task(task_id, change)
        self._append([event])
        self._settle(settles)
        last = branches.is_clear and not branches.told
        if last:
            branches.told = True
            self._publish(aggregate, change)
        self._flow(change)
        return BranchOutcome.LAST if last else BranchOutcome.DONE, change.result()

    async def replace_branch_task(
        self,
        old: TaskInfo,
        new: NewTask,
        event: Event,
        *,
        message: Message | None = None,
        timers: Sequence[Timer] = (),
        settles: Sequence[str] = (),
    ) -> CommitResult:
        found = self._out(old.job_id, old.id)
        if found is None:
            return CommitResult(False)
        branches, index = found
        branches.results[index] = (new.info.id, None)
        change = Change(event.timestamp)
        self._drop_task(old.id, change)
        self._add_task(new, change)
        self._append([event])
        self._settle(settles)
        self._timers.update((timer.member, timer.due) for timer in timers)
        if message is not None:
            self._publish(message, change)
        self._flow(change)
        return change.result()

    async def branches(self, job_id: str) -> dict[str, Result | None]:
        branches = self._branches.get(job_id)
        return {} if branches is None else {t: r for _, (t, r) in sorted(branches.results.items())}

    async def redispatch(self, task_id: str, message: Message, now: float) -> CommitResult:
        record = self._tasks.get(task_id)
        if record is None or record.state not in _UNCLAIMED or record.assigned_to is not None:
            return CommitResult(False)
        self._dispatched(record.info, now)
        change = Change(now)
        self._publish(message, change)
        return change.result()

    async def unrouted(self, task_type: str) -> Sequence[str]:
        return sorted(i for i, r in self._tasks.items() if r.state is TaskState.UNROUTED and r.info.type == task_type)

    async def unrouted_types(self) -> Sequence[str]:
        return sorted({r.info.type for r in self._tasks.values() if r.state is TaskState.UNROUTED})

    async def unclaimed(self, dispatched_before: float, limit: int = 1000) -> Sequence[TaskRecord]:
        found = [
            r
            for r in self._tasks.values()
            if r.state is TaskState.DISPATCHED and not r.info.is_plain and r.dispatched_at < dispatched_before
        ]
        return sorted(found, key=lambda r: r.dispatched_at)[:limit]
