"""What the store is given and what it answers: commits, claims, entries, candidates. Frozen and typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from avtomatika.deliveries import Delivery
from avtomatika.jobs import JSON, Event, Job, JobStatus, Message, Result, TaskInfo, TaskState, Timer, WorkerRecord, new_id


@dataclass(frozen=True, slots=True)
class Entry:
    """How a task waits: in a lane with those that wait for the same.

    A lane belongs to a task type, a fairness key, a set of limits and a `signature`. Within a lane the highest priority goes
    first, then the oldest; among lanes each fairness key has its share (`TaskInfo.fairness_weight`). A lane whose limit is used
    up is parked, and the others go on.

    Attributes:
        message: it goes to its queue when its turn comes: at once while few of its type lie there unclaimed (see `queue_room`),
            else when others of them are claimed. None: it waits for a pick (`TaskStore.assign`).
        signature: of a pick: tasks that suit the same workers have the same one.
        unless_warm: where some worker holds the models of this task's skill (is warm for its type), it waits for a pick, with
            the signature `WARM`, instead of going to its queue.
    """

    message: Message | None = None
    signature: str = ""
    unless_warm: bool = False


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One event as the history reads it.

    Attributes:
        id: its position in the feed of all jobs' events.
        place: its position in its own job's events, from 1 on.
        job: the record that it was committed with, where the job began, ended or was tried again with it.
    """

    id: str
    event: Event
    place: int
    job: Job | None = None


#: The signature of a task that waits for a worker that is warm for it.
WARM = "warm"


def queue_room(workers: int) -> int:
    """How many unclaimed tasks of one type may lie in its queue while others wait in the store: few, so that shares hold."""
    return 4 + 2 * workers


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to store with a commit. With an entry its state is the store's to decide: WAITING, or DISPATCHED at once."""

    info: TaskInfo
    state: TaskState = TaskState.WAITING
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """The new jobs of a blueprint are held back. `at`: seconds since the epoch, UTC."""

    at: float
    by: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """One change of one job, applied as a whole or not at all.

    Attributes:
        job: the record as it shall be; its version is ``expected_version + 1`` (0 for a new job).
        expected_version: the version that must be stored now; None for a new job.
        previous_status: the status that the job was loaded with; None for a new job.
        messages: published with the commit, through the outbox where the broker is not the same Redis.
        tasks: stored; those DISPATCHED have their message among `messages`.
        drop_tasks: ids of attempts that are over; their messages and results do nothing from now on.
        cancel_tasks: ids of attempts that are asked to stop; a claimed one goes on until its worker reports.
        drop_branches: forget the branches of the last fan-out; attempts of it that are still out are over.
        settle_branches: attempts of the last fan-out that are still out are over; its results stay.
        children: new jobs that come into being with this change.
        timers, drop_timers: set and removed; `drop_timers` holds `Timer.member` strings.
        settles: keys of control messages that this change has answered.
        deliveries: what the world outside is told of this change.
        boot_id: the process that commits and holds the claim on the job; None for one that holds none.
        keep_claim: that process goes on with the job after this commit.
        hold: it applies only while its blueprint is held back by this.
        unheld: it applies only while its blueprint is not held back.
        unbegun: it applies only while no worker has begun one of these attempts; those of a fan-out are all of its branches.
        id: names this change: applied again after a lost answer, it changes nothing and counts as applied.
    """

    job: Job
    expected_version: int | None
    previous_status: JobStatus | None = None
    events: tuple[Event, ...] = ()
    messages: tuple[Message, ...] = ()
    tasks: tuple[NewTask, ...] = ()
    drop_tasks: tuple[str, ...] = ()
    cancel_tasks: tuple[str, ...] = ()
    drop_branches: bool = False
    settle_branches: bool = False
    children: tuple[Commit, ...] = ()
    timers: tuple[Timer, ...] = ()
    drop_timers: tuple[str, ...] = ()
    settles: tuple[str, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    boot_id: str | None = None
    keep_claim: bool = False
    hold: Hold | None = None
    unheld: bool = False
    unbegun: tuple[str, ...] = ()
    id: str = field(default_factory=new_id)

    @property
    def is_turn(self) -> bool:
        """Whether the job begins, ends, or is tried again after an end."""
        return self.previous_status is None or self.job.status.is_terminal or self.previous_status.is_terminal


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a change led to.

    Attributes:
        applied: false where a guard (the version) did not hold: nothing was changed.
        outbox: ids of messages still to be published.
        picks: task types of which a task came to wait for a pick.
        stops: (worker id, task id) of claimed attempts that are over or cancelled: their workers are to stop.
    """

    applied: bool
    outbox: tuple[str, ...] = ()
    picks: tuple[str, ...] = ()
    stops: tuple[tuple[str, str], ...] = ()


class ClaimOutcome(StrEnum):
    OK = "ok"
    STALE = "stale"  # unknown, over, or an older version: the message does nothing
    BUSY = "busy"  # a live process holds it
    CANCELLED = "cancelled"  # its cancel flag is set: it must not start
    FULL = "full"  # a facade claims for an HTTP worker that has no free slot for it: another one may
    GONE = "gone"  # a facade claims for a start of an HTTP worker that has ended: another may have it


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
    progress_status: str = ""
    cancel_requested: bool = False
    reported: Result | None = None
    waiting_since: float | None = None
    """Since when it has waited in the store for its turn or a pick; None where it never did."""
    parked_on: str | None = None
    """The key of the limit that its lane waits for."""
    assigned_to: str | None = None
    """The worker that it was picked for; its message is in that one's direct queue."""
    decision: JSON | None = None
    """The funnel of the pick; see `engine/dispatch.py`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is, 0..1, and what its worker says about it."""

    value: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class TaskClaim:
    """`outbox`: ids of others' messages whose turn came with this claim."""

    outcome: ClaimOutcome
    timeout_at: float | None = None
    outbox: tuple[str, ...] = ()


class NewsKind(StrEnum):
    RESUMED = "resumed"  # the subscription begins, or begins again: what came before it is not told
    TASK = "task"  # an attempt of this type has gone to the queue of its type
    WORKER = "worker"  # an attempt was assigned to this HTTP worker
    STOP = "stop"  # this HTTP worker is to stop an attempt


@dataclass(frozen=True, slots=True)
class News:
    """What facades want to know at once; a hint, since nobody keeps it. `name`: the task type, or the worker's id."""

    kind: NewsKind
    name: str = ""
    task_id: str = ""
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class PullView:
    """An HTTP worker as the facade sees it that one of its polls has reached.

    Attributes:
        leases: what it runs: task id -> capability.
        assigned: what was picked for it and waits for its poll: task id -> capability.
        handing: of the leases those whose hand-over nobody has confirmed, with the time of it: the facade may have died over it.
    """

    worker: WorkerRecord
    leases: dict[str, str] = field(default_factory=dict)
    assigned: dict[str, str] = field(default_factory=dict)
    handing: dict[str, float] = field(default_factory=dict)


class BranchOutcome(StrEnum):
    DONE = "done"  # counted; others are still out
    LAST = "last"  # counted, and the verdict is clear with it: the aggregate message was published
    STALE = "stale"  # not of this fan-out, not this attempt, dropped, or counted before: nothing was changed


class AssignOutcome(StrEnum):
    OK = "ok"
    GONE = "gone"  # the task waits no longer, or not for a pick
    FULL = "full"  # the worker has no free slot, or has ended
    LIMITED = "limited"  # a limit of its own is used up: its lane is parked


@dataclass(frozen=True, slots=True)
class Assignment:
    outcome: AssignOutcome
    outbox: tuple[str, ...] = ()


class Order(StrEnum):
    """The orders in which the store keeps the idle workers of each task, lowest first."""

    COST = "cost"  # cost_of(task)
    LOAD = "load"  # slots taken
    VALUE = "value"  # cost / reputation
    TURN = "turn"  # when it was last picked for this task
    WARM = "warm"  # those that are warm for the task only, by cost


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live worker as a pick sees it.

    Attributes:
        free: slots of the task's capability that are free now: neither claimed nor assigned; negative where more were assigned.
        taken: slots taken over all its capabilities: claimed or assigned.
        turn: number of its last pick for this task; 0 for none.
        warm: it holds the models of the task's skill.
        idle: it is offered to picks: it takes the task by its own word, has a slot, and has not failed to take an assigned one.
    """

    worker: WorkerRecord
    free: int
    taken: int
    reputation: float = 1.0
    turn: int = 0
    warm: bool = False
    idle: bool = True


@dataclass(frozen=True, slots=True)
class Candidates:
    """One page of the workers that could take a task, and how many there are in all.

    Attributes:
        known: live workers that declare the task.
        idle: of those, the ones with a free slot for it.
        warm: of those known, the ones that hold its skill's models, busy or not.
        more: whether there is another page.
    """

    found: tuple[Candidate, ...]
    known: int
    idle: int
    warm: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class Reputation:
    """How well a worker's recent attempts went. `made_of`: outcome -> how many."""

    value: float = 1.0
    samples: int = 0
    made_of: dict[str, int] = field(default_factory=dict)
    computed_at: float | None = None


def microseconds(rate: float, burst: int, now: float) -> tuple[int, int, int]:
    """Now, the time of one request, and that of a whole burst, for the count of requests; whole numbers add up exactly."""
    one = max(1, int(1_000_000 / rate))
    return int(now * 1_000_000), one, burst * one


_DISOWNED = "~"


def disowned_by(boot_id: str) -> str:
    """The boot, ended from its beginning, that holds what a live one says it does not work on (`WorkerStore.disown`)."""
    return boot_id + _DISOWNED


def is_disowned(boot_id: str) -> bool:
    """Whether it is such a boot."""
    return boot_id.endswith(_DISOWNED)
