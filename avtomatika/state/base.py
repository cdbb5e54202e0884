"""What a state store promises. Two stores keep it (Redis and memory), and one contract suite holds both to it.

Times are seconds since the epoch, UTC, given by the caller, so that a store never reads a clock of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

from avtomatika.jobs import JSON, Event, Job, JobStatus, Message, Result, TaskInfo, Timer, WorkerRecord
from avtomatika.state.joblogs import LogStore
from avtomatika.state.listed import ListedStore
from avtomatika.state.outgoing import DeliveryStore, FeedStore
from avtomatika.state.outgoing import OutboxStore as OutboxStore
from avtomatika.state.schedules import ScheduleStore
from avtomatika.state.values import WARM as WARM
from avtomatika.state.values import Assignment as Assignment
from avtomatika.state.values import AssignOutcome as AssignOutcome
from avtomatika.state.values import BranchOutcome as BranchOutcome
from avtomatika.state.values import Candidate as Candidate
from avtomatika.state.values import Candidates as Candidates
from avtomatika.state.values import ClaimOutcome as ClaimOutcome
from avtomatika.state.values import Commit as Commit
from avtomatika.state.values import CommitResult as CommitResult
from avtomatika.state.values import Entry as Entry
from avtomatika.state.values import FeedEntry as FeedEntry
from avtomatika.state.values import Hold as Hold
from avtomatika.state.values import JobClaim as JobClaim
from avtomatika.state.values import News as News
from avtomatika.state.values import NewsKind as NewsKind
from avtomatika.state.values import NewTask as NewTask
from avtomatika.state.values import Order as Order
from avtomatika.state.values import Progress as Progress
from avtomatika.state.values import PullView as PullView
from avtomatika.state.values import Reputation as Reputation
from avtomatika.state.values import TaskClaim as TaskClaim
from avtomatika.state.values import TaskRecord as TaskRecord
from avtomatika.state.values import queue_room as queue_room
from avtomatika.state.workers import PullStore, WorkerStore


class JobStore(Protocol):
    async def commit(self, commit: Commit) -> CommitResult:
        """Applies the change if the version matches: record, indexes, tasks, timers, events and messages in one call."""

    async def load(self, job_id: str) -> Job | None:
        """The job; one that is claimed and pending is shown as running."""

    async def is_claimed(self, job_id: str, now: float) -> bool:
        """Whether a live process has the job in its hands."""

    async def claim_job(self, job_id: str, boot_id: str, now: float, key: str, *, version: int | None = None) -> JobClaim:
        """Loads a job and claims it for a process that is about to run its handler, for the control message `key`.

        A claim of a process whose boot has ended is taken over; one of the same boot is BUSY, too.
        With `version`, another stored version is STALE; so are unknown and terminal jobs. A process that was counted as dead and
        forgotten claims as a dead one: its claim is among `claims`, and its boot among `ended_boots`, until it registers again.
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

    async def in_status(
        self,
        status: JobStatus,
        *,
        client: str | None = None,
        limit: int = 50,
        offset: int = 0,
        before: tuple[float, str] | None = None,
    ) -> Sequence[tuple[str, float]]:
        """(id, since when) of the jobs in a stored status, latest first; its cost does not depend on jobs in other ones.

        Args:
            before: (since when, id) of the last job of the page before; of those of one time the highest id comes first.
        """

    async def load_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of the jobs that exist, in the order of the ids."""

    async def count_by_status(self) -> dict[JobStatus, int]: ...

    async def events(self, job_id: str, start: int = 0) -> Sequence[Event]:
        """The job's history, oldest first, from the event at index `start` on."""

    def changes(self) -> AsyncGenerator[Collection[str]]:
        """Ids of jobs as they get events, some at a time, for ever. The first answer is empty: from now on none is missed.

        Empty answers may come in between. Where the store breaks off it raises StoreUnavailableError: begin anew, and look at
        every job that matters.
        """

    async def forget_expired(self, now: float, limit: int = 200) -> int:
        """Forgets ended jobs whose retention has passed, the longest ago first: records, events, indexes. Returns how many."""

    async def remember_request(self, client: str, key: str, digest: str, job_id: str, ttl: float) -> tuple[str, str]:
        """Binds an idempotency key to a request; returns (digest, job id) of whoever came first."""

    async def remembered_job(self, client: str, key: str) -> str | None:
        """The id of the job that an idempotency key is bound to."""


class TaskStore(Protocol):
    async def get_task(self, task_id: str) -> TaskRecord | None: ...

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
        """A worker is about to run this attempt. OK once; sets timeout_at, and its timer, from the attempt's own timeout.

        STALE, too, while it waits in the store, and for every worker but the one that it was assigned to. Others of its type
        that wait for their turn go to the queue in the same call. A process that was counted as dead and forgotten counts as
        alive again for a minute, so that its claim is given out again if it really ends.

        Args:
            handing: a facade claims it for an HTTP worker, and is about to hand it over (see `PullStore.delivered`).
            call: an id of the caller's; whoever did not hear the answer gets the same one for the same id.
        """

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
        """Records the result and publishes the message that carries it, in one call, if this boot holds the claim.

        Its leases end: what waited for them may go. `outcome` is noted for the worker's reputation (see `note_outcome`).

        Args:
            call: an id of the caller's; whoever did not hear the answer and asks again, within a minute, hears that it was
                applied, though the attempt may be over and gone by then.
        """

    async def enter(self, task_id: str, entry: Entry, now: float) -> CommitResult:
        """Lets an UNROUTED, DELAYED or WAITING attempt wait as `entry` says (WAITING: anew, at its old place in time)."""

    async def picking(self) -> Sequence[str]:
        """The task types of which tasks wait for a pick."""

    async def heads(self, task_type: str, limit: int = 16) -> Sequence[TaskRecord]:
        """The first task of each lane that waits for a pick (parked lanes left out), in the order of their turns.

        Of each fairness key its first lane, then of each its second, so that none keeps others out of sight.
        """

    async def assign(
        self, task_id: str, worker: WorkerRecord, capability: str, message: Message, now: float, decision: JSON, *, ahead: int = 0
    ) -> Assignment:
        """Gives a waiting task to a worker in one call: leases, slot, event (`task_assigned`), message on its direct queue.

        A slot is free by what is claimed and assigned, not by what the worker says.

        Args:
            ahead: so many may lie in its direct queue beyond its free slots.
            decision: the funnel, kept with the task and in the event's details.
        """

    async def unassign(self, task_id: str, now: float, *, avoid: bool = False) -> CommitResult:
        """Takes an assigned, unclaimed attempt back: it waits for a pick again, at its old place in time; its leases end.

        With `avoid` its TaskInfo names the worker from now on as one to avoid.
        """

    async def assigned(self, boot_id: str) -> Sequence[str]:
        """Ids of the attempts that lie unclaimed in the direct queues of a process."""

    async def unpark(self, limit_key: str, now: float) -> CommitResult:
        """Lets the lanes that wait for a limit try again: a rate's time has passed (timers of kind `limit` carry the key)."""

    async def sweep_leases(self, now: float) -> CommitResult:
        """Ends the leases of attempts that are over, should any be left, and lets those that wait for them go."""

    async def lane_position(self, task_id: str) -> int | None:
        """How many tasks of its own lane are ahead of a waiting one; None where it does not wait."""

    async def release_task(self, task_id: str, boot_id: str, now: float) -> bool:
        """The worker gives an unfinished attempt back: it is DISPATCHED again, and another will take its message."""

    async def task_progress(self, task_id: str, boot_id: str, progress: float, message: str, status: str = "") -> bool:
        """How far an attempt is, what it does, and as what an operation calls that (see `TaskStatus`)."""

    async def progress_of(self, task_ids: Sequence[str]) -> dict[str, Progress]:
        """What the workers of these attempts said last, where they have said something."""

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
        """Counts a branch as done. The one that makes the verdict clear publishes `aggregate`, once.

        Success is the status ``success`` or one of the worker's own; ``failure``, ``timeout`` and ``cancelled`` are failures.
        The verdict is clear when all are done, when `FanOut.need` have succeeded, or more than `FanOut.may_fail` have failed.
        """

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


class TimerStore(Protocol):
    async def due(self, now: float, limit: int = 1000) -> Sequence[Timer]: ...

    async def set_timer(self, timer: Timer) -> None: ...

    async def drop_timer(self, timer: Timer) -> None:
        """Drops a timer that has fired, unless it was set to another time meanwhile."""


class LockStore(Protocol):
    async def acquire(self, name: str, holder: str, ttl: float) -> bool:
        """True where the holder has the lock now; one that had it before keeps it."""

    async def renew(self, name: str, holder: str, ttl: float) -> bool: ...

    async def release(self, name: str, holder: str) -> bool: ...


class QuotaStore(Protocol):
    """How often and how much clients ask."""

    async def take_requests(self, key: str, rate: float, burst: int, now: float, count: int = 1) -> tuple[int, float]:
        """Up to `count` requests of a token: how many may go, and where none may, the seconds until one may (0 otherwise).

        `rate` requests a second go, and `burst` at once after a pause.
        """

    async def take_attempt(self, client: str, period: str, most: int, ttl: float) -> bool:
        """Counts an attempt of a period, where fewer than `most` are; the count is kept for `ttl` seconds."""

    async def return_attempt(self, client: str, period: str) -> None:
        """Takes one off the count, never below none."""


class Store(
    JobStore,
    LogStore,
    ListedStore,
    FeedStore,
    TaskStore,
    WorkerStore,
    PullStore,
    TimerStore,
    OutboxStore,
    DeliveryStore,
    ScheduleStore,
    LockStore,
    QuotaStore,
    Protocol,
):
    """All concerns together: what `avtomatika.state.open_store` returns."""

    async def ping(self) -> None: ...

    async def flush(self) -> None:
        """Deletes everything in the namespace: for development alone."""

    async def close(self) -> None: ...
