"""What a state store promises. Two stores keep it (Redis and memory), and one contract suite holds both to it.

Times are seconds since the epoch, UTC, given by the caller, so that a store never reads a clock of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from avtomatika.jobs import Event, Job, JobStatus, Message, Result, TaskInfo, TaskState, Timer, WorkerRecord, new_id


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to store with a commit."""

    info: TaskInfo
    state: TaskState


@dataclass(frozen=True, slots=True)
class Commit:
    """One change of one job, applied as a whole or not at all.

    Attributes:
        job: the record as it shall be; its version is ``expected_version + 1`` (0 for a new job).
        expected_version: the version that must be stored now; None for a new job.
        previous_status: the status that is stored now, for the indexes; None for a new job.
        messages: published with the commit, through the outbox where the broker is not the same Redis.
        tasks: stored; those DISPATCHED have their message among `messages`.
        drop_tasks: ids of attempts that are over; their messages and results do nothing from now on.
        drop_branches: forget the branches of the last fan-out.
        children: new jobs that come into being with this change.
        timers, drop_timers: set and removed; `drop_timers` holds `Timer.member` strings.
        settles: keys of control messages that this change has answered.
        boot_id: the process that commits and holds the claim on the job; None for one that holds none.
        keep_claim: that process goes on with the job after this commit.
        id: names this change: applied again after a lost answer, it changes nothing and counts as applied.
    """

    job: Job
    expected_version: int | None
    previous_status: JobStatus | None = None
    events: tuple[Event, ...] = ()
    messages: tuple[Message, ...] = ()
    tasks: tuple[NewTask, ...] = ()
    drop_tasks: tuple[str, ...] = ()
    drop_branches: bool = False
    children: tuple[Commit, ...] = ()
    timers: tuple[Timer, ...] = ()
    drop_timers: tuple[str, ...] = ()
    settles: tuple[str, ...] = ()
    boot_id: str | None = None
    keep_claim: bool = False
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class CommitResult:
    """`applied` is false where the version did not match: nothing was changed. `outbox` holds ids still to be published."""

    applied: bool
    outbox: tuple[str, ...] = ()


class ClaimOutcome(StrEnum):
    OK = "ok"
    STALE = "stale"  # unknown, over, or an older version: the message does nothing
    BUSY = "busy"  # a live process holds it
    CANCELLED = "cancelled"  # its cancel flag is set: it must not start


@dataclass(frozen=True, slots=True)
class JobClaim:
    outcome: ClaimOutcome
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A stored attempt with what happened to it so far."""

    info: TaskInfo
    state: TaskState
    worker_id: str | None = None
    boot_id: str | None = None
    dispatched_at: float = 0.0
    claimed_at: float | None = None
    timeout_at: float | None = None
    progress: float | None = None
    progress_message: str | None = None
    cancel_requested: bool = False
    reported: Result | None = None


@dataclass(frozen=True, slots=True)
class TaskClaim:
    outcome: ClaimOutcome
    timeout_at: float | None = None


class BranchOutcome(StrEnum):
    DONE = "done"  # counted; others are still out
    LAST = "last"  # counted, and it was the last one: the aggregate message was published with it
    STALE = "stale"  # not of this fan-out, not this attempt, or counted before: nothing was changed


class JobStore(Protocol):
    async def commit(self, commit: Commit) -> CommitResult:
        """Applies the change if the version matches: record, indexes, tasks, timers, events and messages in one call."""

    async def load(self, job_id: str) -> Job | None:
        """The job; one that is claimed and pending is shown as running."""

    async def claim_job(self, job_id: str, boot_id: str, now: float, key: str, *, version: int | None = None) -> JobClaim:
        """Loads a job and claims it for a process that is about to run its handler, for the control message `key`.

        A claim of a process whose boot has ended is taken over; one of the same boot is BUSY, too.
        With `version`, another stored version is STALE; so are unknown and terminal jobs.
        """

    async def release_job(self, job_id: str, boot_id: str, message: Message | None = None, now: float = 0.0) -> CommitResult:
        """Gives a claim back without a change, if this boot holds it, and publishes a message in the same call."""

    async def list_jobs(
        self,
        *,
        status: JobStatus | None = None,
        client: str | None = None,
        limit: int = 50,
        before: float | None = None,
    ) -> Sequence[Job]:
        """Jobs, newest first (by created_at); `before` is exclusive and pages on."""

    async def count_by_status(self) -> dict[JobStatus, int]: ...

    async def events(self, job_id: str) -> Sequence[Event]:
        """The job's history, oldest first."""

    async def forget_expired(self, before: float, limit: int = 1000) -> int:
        """Takes jobs whose records have expired out of the indexes; `before` bounds them by creation."""

    async def remember_request(self, client: str, key: str, digest: str, job_id: str, ttl: float) -> tuple[str, str]:
        """Binds an idempotency key to a request; returns (digest, job id) of whoever came first."""


class TaskStore(Protocol):
    async def get_task(self, task_id: str) -> TaskRecord | None: ...

    async def claim_task(self, task_id: str, worker_id: str, boot_id: str, now: float, default_timeout: float) -> TaskClaim:
        """A worker is about to run this attempt. OK once; sets timeout_at, and its timer, from the attempt's own timeout."""

    async def finish_task(self, task_id: str, boot_id: str, result: Result, message: Message, now: float) -> CommitResult:
        """Records the result and publishes the message that carries it, in one call, if this boot holds the claim."""

    async def release_task(self, task_id: str, boot_id: str, now: float) -> bool:
        """The worker gives an unfinished attempt back: it is DISPATCHED again, and another will take its message."""

    async def task_progress(self, task_id: str, boot_id: str, progress: float, message: str) -> bool: ...

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
        """Counts a branch as done. The one that completes the join publishes `aggregate` (second item: outbox ids)."""

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
        """A branch is tried again: the new attempt takes the place of the old one, if that is still out."""

    async def branches(self, job_id: str) -> dict[str, Result | None]:
        """Results by task id, in the order of the dispatch; None for a branch that is still out."""

    async def redispatch(self, task_id: str, message: Message, now: float) -> CommitResult:
        """Publishes the message of an UNROUTED or never claimed attempt (again), if it is still unclaimed."""

    async def unrouted(self, task_type: str) -> Sequence[str]:
        """Ids of attempts that wait for a worker that names their task."""

    async def unrouted_types(self) -> Sequence[str]:
        """The tasks that attempts wait for so."""

    async def unclaimed(self, dispatched_before: float, limit: int = 1000) -> Sequence[TaskRecord]:
        """Dispatched attempts (of SDK tasks) that nobody has claimed since before that time, oldest first."""


class WorkerStore(Protocol):
    async def register(self, record: WorkerRecord, now: float, ttl: float) -> None:
        """Registers a process. Another boot under the same id ends: its claims are given out again by the housekeeping."""

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        """Refreshes the TTL and replaces the record where one is given; false: not registered (any more), register again."""

    async def unregister(self, worker_id: str, boot_id: str) -> None:
        """An orderly end. What it still held is given out again."""

    async def workers(self, now: float) -> Sequence[WorkerRecord]: ...

    async def pin_tasks(self, tasks: dict[str, str | None]) -> dict[str, str]:
        """Pins task -> capability at first sight and returns the pinned ones; raises RegistrationError on a conflict.

        None takes the pinned capability, or the task's own name where nothing is pinned yet. All or nothing.
        """

    async def capability_of(self, task_type: str) -> str | None: ...

    async def capabilities(self) -> dict[str, str]:
        """Every pinned task with its capability."""

    async def ended_boots(self, now: float) -> Sequence[str]:
        """Boots that were replaced, unregistered or fell silent, with claims still on them."""

    async def claims(self, boot_id: str) -> tuple[dict[str, str], Sequence[str]]:
        """What a boot holds: {job id: key of the control message it was claimed for}, and task ids."""

    async def drop_claim(self, boot_id: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        """Takes one entry off a boot's claims."""

    async def forget_boot(self, boot_id: str, now: float) -> None:
        """Forgets an ended boot that holds nothing any more."""


class TimerStore(Protocol):
    async def due(self, now: float, limit: int = 1000) -> Sequence[Timer]: ...

    async def set_timer(self, timer: Timer) -> None: ...

    async def drop_timer(self, timer: Timer) -> None:
        """Drops a timer that has fired, unless it was set to another time meanwhile."""


class OutboxStore(Protocol):
    """Messages on their way: the outbox (not yet on the broker) and the ledger (published, not yet answered)."""

    async def publish(self, message: Message, now: float) -> CommitResult:
        """Publishes (or puts into the outbox) one message; one with a key goes into the ledger, replacing its older entry."""

    async def outbox(self, older_than: float, limit: int = 1000) -> Sequence[tuple[str, Message]]: ...

    async def outbox_messages(self, ids: Sequence[str]) -> Sequence[tuple[str, Message]]: ...

    async def clear_outbox(self, ids: Sequence[str]) -> None: ...

    async def ledger(self, published_before: float, limit: int = 1000) -> Sequence[tuple[Message, float]]:
        """Control messages without an answer, oldest first, each with the time it was last published."""

    async def ledger_get(self, key: str) -> Message | None: ...

    async def settle(self, keys: Sequence[str]) -> None:
        """Forgets ledger entries: their messages were answered, or can do nothing any more."""


class LockStore(Protocol):
    async def acquire(self, name: str, holder: str, ttl: float) -> bool:
        """True where the holder has the lock now; one that had it before keeps it."""

    async def renew(self, name: str, holder: str, ttl: float) -> bool: ...

    async def release(self, name: str, holder: str) -> bool: ...


class Store(JobStore, TaskStore, WorkerStore, TimerStore, OutboxStore, LockStore, Protocol):
    """All concerns together: what `avtomatika.state.open_store` returns."""

    async def ping(self) -> None: ...

    async def close(self) -> None: ...
