"""Jobs and attempts in memory; the rest of the store is in memory.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from avtomatika.jobs import (
    Event,
    FanOut,
    Job,
    JobStatus,
    Message,
    Result,
    TaskInfo,
    TaskState,
    Timer,
    new_id,
)
from avtomatika.state.base import (
    BranchOutcome,
    ClaimOutcome,
    Commit,
    CommitResult,
    JobClaim,
    NewTask,
    TaskClaim,
    TaskRecord,
)


@dataclass
class _Branches:
    fanout_id: str
    results: dict[int, tuple[str, Result | None]] = field(default_factory=dict)

    def index_of(self, task_id: str) -> int | None:
        return next((i for i, (t, _) in self.results.items() if t == task_id), None)


class MemoryJobs:
    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        self._push = push
        self._jobs: dict[str, Job] = {}
        self._applied: dict[str, str] = {}
        self._job_claims: dict[str, tuple[str, str]] = {}
        self._events: dict[str, list[Event]] = {}
        self._branches: dict[str, _Branches] = {}
        self._tasks: dict[str, TaskRecord] = {}
        self._timers: dict[str, float] = {}
        self._boots: dict[str, float] = {}
        self._task_claims: dict[str, set[str]] = {}
        self._ledger: dict[str, tuple[Message, float]] = {}
        self._outbox: dict[str, tuple[Message, float]] = {}
        self._requests: dict[tuple[str, str], tuple[str, str]] = {}
        self.stream: list[Event] = []

    def _publish(self, message: Message, now: float) -> tuple[str, ...]:
        if message.key is not None:
            self._ledger[message.key] = (message, now)
        if self._push is not None:
            self._push(message)
            return ()
        outbox_id = new_id()
        self._outbox[outbox_id] = (message, now)
        return (outbox_id,)

    def _append(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.setdefault(event.job_id, []).append(event)
            self.stream.append(event)

    async def commit(self, commit: Commit) -> CommitResult:
        if self._applied.get(commit.job.id) == commit.id:
            return CommitResult(True)
        stored = self._jobs.get(commit.job.id)
        if (stored.version if stored else None) != commit.expected_version:
            return CommitResult(False)
        self._applied[commit.job.id] = commit.id
        return CommitResult(True, self._apply(commit))

    def _apply(self, commit: Commit) -> tuple[str, ...]:
        job, now = commit.job, commit.job.updated_at
        self._jobs[job.id] = job
        self._append(commit.events)
        for task_id in commit.drop_tasks:
            self._drop_task(task_id)
        if commit.drop_branches:
            self._branches.pop(job.id, None)
        for task in commit.tasks:
            self._add_task(task, now)
        if commit.tasks and isinstance(job.waiting, FanOut):
            branches = _Branches(job.waiting.id)
            for task in commit.tasks:
                assert task.info.branch is not None
                branches.results[task.info.branch] = (task.info.id, None)
            self._branches[job.id] = branches
        self._timers.update((timer.member, timer.due) for timer in commit.timers)
        for member in commit.drop_timers:
            self._timers.pop(member, None)
        for key in commit.settles:
            self._ledger.pop(key, None)
        if commit.boot_id is not None and not commit.keep_claim:
            self._job_claims.pop(job.id, None)
        outbox = [i for message in commit.messages for i in self._publish(message, now)]
        for child in commit.children:
            outbox += self._apply(child)
        return tuple(outbox)

    def _add_task(self, task: NewTask, now: float) -> None:
        info = task.info
        self._tasks[info.id] = TaskRecord(info, task.state, dispatched_at=now)
        if info.dispatch_timeout_seconds is not None and not info.is_plain:
            self._timers[Timer("dispatch", info.id, 0).member] = now + info.dispatch_timeout_seconds

    def _drop_task(self, task_id: str) -> None:
        self._tasks.pop(task_id, None)
        for kind in ("timeout", "dispatch"):
            self._timers.pop(f"{kind}|{task_id}", None)

    async def load(self, job_id: str) -> Job | None:
        job = self._jobs.get(job_id)
        if job is not None and job.status is JobStatus.PENDING and job_id in self._job_claims:
            return replace(job, status=JobStatus.RUNNING)
        return job

    async def claim_job(self, job_id: str, boot_id: str, now: float, key: str, *, version: int | None = None) -> JobClaim:
        job = self._jobs.get(job_id)
        if job is None or job.status.is_terminal or (version is not None and job.version != version):
            return JobClaim(ClaimOutcome.STALE)
        held = self._job_claims.get(job_id)
        if held is not None and (held[0] == boot_id or self._boots.get(held[0], 0) > now):
            return JobClaim(ClaimOutcome.BUSY)
        self._job_claims[job_id] = (boot_id, key)
        return JobClaim(ClaimOutcome.OK, job)

    async def release_job(self, job_id: str, boot_id: str, message: Message | None = None, now: float = 0.0) -> CommitResult:
        if self._job_claims.get(job_id, ("", ""))[0] != boot_id:
            return CommitResult(False)
        del self._job_claims[job_id]
        return CommitResult(True, self._publish(message, now) if message is not None else ())

    async def list_jobs(
        self,
        *,
        status: JobStatus | None = None,
        client: str | None = None,
        limit: int = 50,
        before: float | None = None,
    ) -> Sequence[Job]:
        jobs = [job for job_id in self._jobs if (job := await self.load(job_id)) is not None]
        found = [
            job
            for job in jobs
            if (status is None or job.status is status)
            and (client is None or job.client.name == client)
            and (before is None or job.created_at < before)
        ]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def count_by_status(self) -> dict[JobStatus, int]:
        return {status: sum(job.status is status for job in self._jobs.values()) for status in JobStatus}

    async def events(self, job_id: str) -> Sequence[Event]:
        return list(self._events.get(job_id, ()))

    async def forget_expired(self, before: float, limit: int = 1000) -> int:
        return 0  # nothing expires here

    async def remember_request(self, client: str, key: str, digest: str, job_id: str, ttl: float) -> tuple[str, str]:
        return self._requests.setdefault((client, key), (digest, job_id))


class MemoryTasks(MemoryJobs):
    async def get_task(self, task_id: str) -> TaskRecord | None:
        return self._tasks.get(task_id)

    async def claim_task(self, task_id: str, worker_id: str, boot_id: str, now: float, default_timeout: float) -> TaskClaim:
        record = self._tasks.get(task_id)
        if record is None or record.state is TaskState.DONE:
            return TaskClaim(ClaimOutcome.STALE)
        if record.state is TaskState.CLAIMED:
            return TaskClaim(ClaimOutcome.BUSY)
        if record.cancel_requested:
            return TaskClaim(ClaimOutcome.CANCELLED)
        timeout_at = now + (record.info.timeout_seconds or default_timeout)
        self._tasks[task_id] = replace(
            record, state=TaskState.CLAIMED, worker_id=worker_id, boot_id=boot_id, claimed_at=now, timeout_at=timeout_at
        )
        self._timers.pop(f"dispatch|{task_id}", None)
        self._timers[f"timeout|{task_id}"] = timeout_at
        self._task_claims.setdefault(boot_id, set()).add(task_id)
        return TaskClaim(ClaimOutcome.OK, timeout_at)

    def _held(self, task_id: str, boot_id: str) -> TaskRecord | None:
        record = self._tasks.get(task_id)
        if record is None or record.state is not TaskState.CLAIMED or record.boot_id != boot_id:
            return None
        return record

    async def finish_task(self, task_id: str, boot_id: str, result: Result, message: Message, now: float) -> CommitResult:
        record = self._held(task_id, boot_id)
        if record is None:
            return CommitResult(False)
        self._tasks[task_id] = replace(record, state=TaskState.DONE, reported=result)
        self._timers.pop(f"timeout|{task_id}", None)
        self._task_claims.get(boot_id, set()).discard(task_id)
        return CommitResult(True, self._publish(message, now))

    async def release_task(self, task_id: str, boot_id: str, now: float) -> bool:
        self._task_claims.get(boot_id, set()).discard(task_id)
        record = self._held(task_id, boot_id)
        if record is None:
            return False
        self._tasks[task_id] = TaskRecord(
            record.info,
            TaskState.DISPATCHED,
            dispatched_at=now,
            cancel_requested=record.cancel_requested,
        )
        self._timers.pop(f"timeout|{task_id}", None)
        return True

    async def task_progress(self, task_id: str, boot_id: str, progress: float, message: str) -> bool:
        record = self._tasks.get(task_id)
        if record is None or record.boot_id != boot_id:
            return False
        self._tasks[task_id] = replace(record, progress=progress, progress_message=message)
        return True

    async def branch_done(
        self,
        job_id: str,
        fanout_id: str,
        task_id: str,
        result: Result,
        event: Event,
        settles: Sequence[str],
        aggregate: Message,
    ) -> tuple[BranchOutcome, tuple[str, ...]]:
        branches = self._branches.get(job_id)
        index = branches.index_of(task_id) if branches is not None and branches.fanout_id == fanout_id else None
        if branches is None or index is None or branches.results[index][1] is not None:
            return BranchOutcome.STALE, ()
        branches.results[index] = (task_id, result)
        self._drop_task(task_id)
        self._append([event])
        for key in settles:
            self._ledger.pop(key, None)
        if any(r is None for _, r in branches.results.values()):
            return BranchOutcome.DONE, ()
        return BranchOutcome.LAST, self._publish(aggregate, event.timestamp)

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
        branches = self._branches.get(old.job_id)
        index = branches.index_of(old.id) if branches is not None else None
        if branches is None or index is None or branches.results[index][1] is not None:
            return CommitResult(False)
        branches.results[index] = (new.info.id, None)
        self._drop_task(old.id)
        self._add_task(new, event.timestamp)
        self._append([event])
        for key in settles:
            self._ledger.pop(key, None)
        self._timers.update((timer.member, timer.due) for timer in timers)
        return CommitResult(True, self._publish(message, event.timestamp) if message is not None else ())

    async def branches(self, job_id: str) -> dict[str, Result | None]:
        branches = self._branches.get(job_id)
        return {} if branches is None else {t: r for _, (t, r) in sorted(branches.results.items())}

    async def redispatch(self, task_id: str, message: Message, now: float) -> CommitResult:
        record = self._tasks.get(task_id)
        if record is None or record.state not in (TaskState.UNROUTED, TaskState.DELAYED, TaskState.DISPATCHED):
            return CommitResult(False)
        self._tasks[task_id] = replace(record, state=TaskState.DISPATCHED, dispatched_at=now)
        return CommitResult(True, self._publish(message, now))

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
