"""Jobs in memory: commits, claims, reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from avtomatika.jobs import Event, FanOut, Job, JobStatus, Message, Result, TaskInfo, TaskState, Timer
from avtomatika.state.base import ClaimOutcome, Commit, CommitResult, FeedEntry, Hold, JobClaim, NewTask, TaskRecord
from avtomatika.state.memory_base import Change
from avtomatika.state.memory_joblogs import MemoryJobLogs
from avtomatika.state.memory_lanes import MemoryLanes

_BEGUN = (TaskState.CLAIMED, TaskState.DONE)
_BAD = (Result.FAILURE, Result.TIMEOUT, Result.CANCELLED)


@dataclass
class Branches:
    """Which branches of a fan-out are done. `told`: the verdict is clear, and the aggregate message was published."""

    fanout: FanOut
    results: dict[int, tuple[str, Result | None]] = field(default_factory=dict)
    told: bool = False

    def index_of(self, task_id: str) -> int | None:
        return next((i for i, (t, _) in self.results.items() if t == task_id), None)

    @property
    def is_clear(self) -> bool:
        done = [result for _, result in self.results.values() if result is not None]
        failed = sum(result.status in _BAD for result in done)
        need, may_fail = self.fanout.need, self.fanout.may_fail
        return (
            len(done) == len(self.results)
            or (need is not None and len(done) - failed >= need)
            or (may_fail is not None and failed > may_fail)
        )


class MemoryJobs(MemoryLanes, MemoryJobLogs):
    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        super().__init__(push)
        MemoryJobLogs.__init__(self)
        self._applied: dict[str, str] = {}
        self._status_since: dict[str, float] = {}
        self._branches: dict[str, Branches] = {}
        self._requests: dict[tuple[str, str], tuple[str, str]] = {}
        self._holds: dict[str, Hold] = {}

    async def commit(self, commit: Commit) -> CommitResult:
        if self._applied.get(commit.job.id) == commit.id:
            return CommitResult(True)
        stored = self._jobs.get(commit.job.id)
        if (stored.version if stored else None) != commit.expected_version:
            return CommitResult(False)
        if not self._fits(commit):
            return CommitResult(False)
        self._applied[commit.job.id] = commit.id
        change = Change(commit.job.updated_at)
        self._apply(commit, change)
        self._flow(change)
        return change.result()

    def _fits(self, commit: Commit) -> bool:
        """Whether what else it depends on, beside the version, is as it has to be."""
        hold = self._holds.get(commit.job.blueprint_name)
        if commit.hold not in (None, hold) or (commit.unheld and hold is not None):
            return False
        if any(task_id in self._tasks and self._tasks[task_id].state in _BEGUN for task_id in commit.unbegun):
            return False
        branches = self._branches.get(commit.job.id) if commit.unbegun and commit.drop_branches else None
        return branches is None or all(result is None for _, result in branches.results.values())

    def _apply(self, commit: Commit, change: Change) -> None:
        job = commit.job
        stored = self._jobs.get(job.id)
        self._jobs[job.id] = job
        if stored is None or stored.status is not job.status:
            self._status_since[job.id] = job.updated_at
        self._append(commit.events, job if commit.is_turn else None)
        for task_id in commit.drop_tasks:
            self._drop_task(task_id, change)
        for task_id in commit.cancel_tasks:
            self._cancel_task(task_id, change)
        if (commit.drop_branches or commit.settle_branches) and job.id in self._branches:
            for task_id, result in self._branches[job.id].results.values():
                if result is None:
                    self._drop_task(task_id, change)
        if commit.drop_branches:
            self._branches.pop(job.id, None)
        for task in commit.tasks:
            self._add_task(task, change)
        if commit.tasks and isinstance(job.waiting, FanOut):
            branches = self._branches[job.id] = Branches(job.waiting)
            for task in commit.tasks:
                assert task.info.branch is not None
                branches.results[task.info.branch] = (task.info.id, None)
        self._timers.update((timer.member, timer.due) for timer in commit.timers)
        for member in commit.drop_timers:
            self._timers.pop(member, None)
        self._settle(commit.settles)
        self._deliveries.update((delivery.id, delivery) for delivery in commit.deliveries)
        if commit.boot_id is not None and not commit.keep_claim:
            self._job_claims.pop(job.id, None)
        for message in commit.messages:
            self._publish(message, change)
        for child in commit.children:
            self._apply(child, change)

    def _add_task(self, task: NewTask, change: Change) -> None:
        info, now = task.info, change.now
        record = self._tasks[info.id] = TaskRecord(info, task.state, dispatched_at=now)
        if task.state is not TaskState.DELAYED:  # its pause is none of the time that it waits for a worker
            self._time_dispatch(info, now)
        if task.entry is not None:
            self._enter(record, task.entry, change)
        elif task.state is TaskState.DISPATCHED:
            self._dispatched(info, now)

    def _time_dispatch(self, info: TaskInfo, now: float) -> None:
        if info.dispatch_timeout_seconds is not None and not info.is_plain:
            self._timers[Timer("dispatch", info.id, 0).member] = now + info.dispatch_timeout_seconds

    async def load(self, job_id: str) -> Job | None:
        job = self._jobs.get(job_id)
        return self._shown(job) if job is not None else None

    def _shown(self, job: Job) -> Job:
        claimed = job.status is JobStatus.PENDING and job.id in self._job_claims
        return replace(job, status=JobStatus.RUNNING) if claimed else job

    async def is_claimed(self, job_id: str, now: float) -> bool:
        held = self._job_claims.get(job_id)
        return held is not None and self._boots.get(held[0], 0) > now

    async def claim_job(self, job_id: str, boot_id: str, now: float, key: str, *, version: int | None = None) -> JobClaim:
        job = self._jobs.get(job_id)
        if job is None or job.status.is_terminal or (version is not None and job.version != version):
            return JobClaim(ClaimOutcome.STALE)
        held = self._job_claims.get(job_id)
        if held is not None and (held[0] == boot_id or self._boots.get(held[0], 0) > now):
            return JobClaim(ClaimOutcome.BUSY)
        self._job_claims[job_id] = (boot_id, key)
        self._boots.setdefault(boot_id, now)
        return JobClaim(ClaimOutcome.OK, job)

    async def release_job(self, job_id: str, boot_id: str, message: Message | None = None, now: float = 0.0) -> CommitResult:
        if self._job_claims.get(job_id, ("", ""))[0] != boot_id:
            return CommitResult(False)
        del self._job_claims[job_id]
        change = Change(now)
        if message is not None:
            self._publish(message, change)
        return change.result()

    async def list_jobs(
        self,
        *,
        status: JobStatus | None = None,
        client: str | None = None,
        limit: int = 50,
        before: float | None = None,
    ) -> Sequence[Job]:
        found = [
            job
            for job in map(self._shown, self._jobs.values())
            if (status is None or job.status is status)
            and (client is None or job.client.name == client)
            and (before is None or job.created_at < before)
        ]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def in_status(
        self,
        status: JobStatus,
        *,
        client: str | None = None,
        limit: int = 50,
        offset: int = 0,
        before: tuple[float, str] | None = None,
    ) -> Sequence[tuple[str, float]]:
        found = [
            (job.id, self._status_since[job.id])
            for job in self._jobs.values()
            if job.status is status
            and (client is None or job.client.name == client)
            and (before is None or (self._status_since[job.id], job.id) < before)
        ]
        return sorted(found, key=lambda row: (row[1], row[0]), reverse=True)[offset : offset + limit]

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        return [self._shown(self._jobs[job_id]) for job_id in job_ids if job_id in self._jobs]

    async def count_by_status(self) -> dict[JobStatus, int]:
        return {status: sum(job.status is status for job in self._jobs.values()) for status in JobStatus}

    async def events(self, job_id: str, start: int = 0) -> Sequence[Event]:
        return self._events.get(job_id, [])[start:]

    async def changes(self) -> AsyncGenerator[Collection[str]]:
        follower: asyncio.Queue[str] = asyncio.Queue()
        self._followers.add(follower)
        try:
            yield ()
            while True:
                yield {await follower.get()}
        finally:
            self._followers.discard(follower)

    async def forget_expired(self, now: float, limit: int = 200) -> int:
        due = [
            job for job in self._jobs.values() if job.status.is_terminal and job.updated_at + max(1, int(self._retention)) <= now
        ]
        gone = sorted(due, key=lambda job: job.updated_at)[:limit]
        for job in gone:
            self._forget_job(job.id)
        return len(gone)

    def _forget_job(self, job_id: str) -> None:
        for kept in (self._jobs, self._events, self._branches, self._status_since, self._applied):
            kept.pop(job_id, None)
        self._job_logs.pop(job_id, None)

    async def feed(self, after: str = "", limit: int = 1000) -> Sequence[FeedEntry]:
        behind = int(after or 0)
        return [entry for entry in self._feed if int(entry.id) > behind][:limit]

    async def trim_feed(self, through: str, before: float) -> int:
        kept = [e for e in self._feed if e.event.timestamp >= before or (through and int(e.id) > int(through))]
        gone = len(self._feed) - len(kept)
        self._feed = kept
        return gone

    async def feed_length(self) -> int:
        return len(self._feed)

    async def remember_request(self, client: str, key: str, digest: str, job_id: str, ttl: float) -> tuple[str, str]:
        return self._requests.setdefault((client, key), (digest, job_id))

    async def remembered_job(self, client: str, key: str) -> str | None:
        return self._requests.get((client, key), ("", None))[1]
