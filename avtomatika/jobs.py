"""The records: what a job, a task, a result and an event are. Frozen and typed; dicts only in `to_dict` and `from_dict`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any

from avtomatika.records import Limit as Limit
from avtomatika.records import Message as Message
from avtomatika.records import Timer as Timer
from avtomatika.records import WorkerRecord as WorkerRecord
from avtomatika.results import JSON as JSON
from avtomatika.results import Failure as Failure
from avtomatika.results import Result as Result
from avtomatika.results import ResultError as ResultError
from avtomatika.results import RetryPolicy as RetryPolicy

#: The two highest bits of a UUID's variant digit are 1 and 0.
_VARIANT = {f"{number:x}": f"{8 | number & 3:x}" for number in range(16)}


def new_id() -> str:
    """A random id (UUID 4, as Celery's own task ids are), written without the detour over `uuid.UUID`: each job takes several."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


class JobStatus(StrEnum):
    """Where a job stands. Exactly one at a time; a terminal one changes only by an explicit retry."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING_FOR_WORKER = "waiting_for_worker"
    WAITING_FOR_PARALLEL_TASKS = "waiting_for_parallel_tasks"
    WAITING_FOR_SUB_JOB = "waiting_for_sub_job"
    WAITING_FOR_HUMAN = "waiting_for_human"
    AWAITING_RETRY = "awaiting_retry"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUARANTINED})


class TaskState(StrEnum):
    """Where one attempt of one task stands in the store."""

    UNROUTED = "unrouted"  # no worker has named the task yet: it waits in the store, not in a queue
    DELAYED = "delayed"  # it is tried again once its timer is due
    WAITING = "waiting"  # it waits in the store: for its turn, for a limit, or for a worker that suits it
    DISPATCHED = "dispatched"  # its message is on the broker (or in the outbox)
    CLAIMED = "claimed"  # a worker runs it
    DONE = "done"  # the worker has reported; the orchestrator has not taken the result yet


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One attempt of one task: what its message says and what the engine needs to judge its result.

    Attributes:
        id: names this ONE attempt, on the wire and as Celery's task id; a retry gets a new one.
        type: the task's name, e.g. ``resize_image``.
        attempt: 1 for the first.
        branch, fanout_id: index of the branch, and the fan-out it belongs to; None for a single dispatch.
        queue: set for a plain Celery task: the queue (or "" where task_routes decides) that its message goes to.
        timeout_seconds: from the claim; None means WORKER_TIMEOUT_SECONDS.
        deaths: how many workers died under earlier attempts; counted apart from retries.
        limits: the keys whose limits it counts against, with their names filled in.
        fairness_key, fairness_weight: whose turn it takes while tasks wait, and how big that one's share is.
        avoid: ids of workers that failed it or did not take it; another one is preferred.
    """

    id: str
    job_id: str
    type: str
    params: JSON
    transitions: dict[str, str]
    attempt: int = 1
    branch: int | None = None
    fanout_id: str | None = None
    priority: float = 0.0
    queue: str | None = None
    timeout_seconds: float | None = None
    dispatch_timeout_seconds: float | None = None
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    dispatch_strategy: str = "default"
    resource_requirements: JSON | None = None
    max_cost: float | None = None
    limits: tuple[Limit, ...] = ()
    fairness_key: str = ""
    fairness_weight: float = 1.0
    avoid: tuple[str, ...] = ()
    deaths: int = 0
    tracing_context: JSON = field(default_factory=dict)
    created_at: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether this is a plain Celery task, not written with the SDK: nobody claims it."""
        return self.queue is not None

    @property
    def needs_pick(self) -> bool:
        """Whether a worker has to be chosen for it; else whoever is free first may take it from the capability's queue."""
        return not self.is_plain and (
            self.dispatch_strategy != "default" or bool(self.resource_requirements) or self.max_cost is not None
        )

    def again(self, *, died: bool = False, now: float | None = None, avoid: str | None = None) -> TaskInfo:
        """The next attempt of the same task, under a new id; `avoid` is the worker that it should rather not meet again."""
        return replace(
            self,
            id=new_id(),
            attempt=self.attempt + 1,
            deaths=self.deaths + (1 if died else 0),
            avoid=(*self.avoid, avoid) if avoid and avoid not in self.avoid else self.avoid,
            created_at=time.time() if now is None else now,
        )

    def to_dict(self) -> JSON:
        out = {name: getattr(self, name) for name in self.__slots__}
        out["retries"] = self.retries.to_dict()
        out["limits"] = [[limit.key, limit.count, limit.seconds] for limit in self.limits]
        return out

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TaskInfo:
        fields = dict(value)
        fields["retries"] = RetryPolicy(**fields.get("retries") or {})  # which makes a tuple of its list
        fields["limits"] = tuple(Limit(*limit) for limit in fields.get("limits") or ())
        fields["avoid"] = tuple(fields.get("avoid") or ())
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class FanOut:
    """A job waits for the branches of one fan-out; which are done is kept beside the record, not in it.

    Attributes:
        need: the verdict is clear once so many branches have succeeded; None waits for all of them.
        may_fail: the verdict is clear, and bad, once more than so many have failed; None lets any number fail.
        deadline_at: the verdict is found at this time with what has come.
        on_failure: the policy as it was declared, for people.
        failure_state: where a bad verdict leads; None fails the job.
        max_concurrency: how many of the branches may run at once; None means any number.
        settled: the verdict was good before all branches had ended: the others were dropped, and the aggregator is about to run.
    """

    id: str
    aggregate_into: str
    total: int
    need: int | None = None
    may_fail: int | None = None
    deadline_at: float | None = None
    on_failure: str = "collect"
    failure_state: str | None = None
    max_concurrency: int | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class SubJob:
    """A job waits for a child job."""

    job_id: str
    blueprint_name: str
    transitions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Approval:
    """A job waits for a person's decision. `token_hash` is the SHA-256 of the single-use token.

    Attributes:
        deadline_at: when it waits no longer; None for as long as it takes.
        on_timeout: the state that it goes to then; None fails the job.
        options: for the integration.
    """

    id: str
    integration: str
    message: str
    transitions: dict[str, str]
    token_hash: str
    asked_at: float
    deadline_at: float | None = None
    on_timeout: str | None = None
    options: JSON = field(default_factory=dict)


Waiting = TaskInfo | FanOut | SubJob | Approval
_WAITING: dict[str, type[Any]] = {"task": TaskInfo, "fanout": FanOut, "sub_job": SubJob, "approval": Approval}
_WAITING_KIND: dict[type[Any], str] = {cls: kind for kind, cls in _WAITING.items()}


def _waiting_to_dict(waiting: Waiting | None) -> JSON | None:
    if waiting is None:
        return None
    body = waiting.to_dict() if isinstance(waiting, TaskInfo) else asdict(waiting)
    return {"kind": _WAITING_KIND[type(waiting)], **body}


def _waiting_from_dict(value: Mapping[str, Any] | None) -> Waiting | None:
    if value is None:
        return None
    fields = dict(value)
    cls = _WAITING[fields.pop("kind")]
    if cls is TaskInfo:
        return TaskInfo.from_dict(fields)
    waiting: Waiting = cls(**fields)
    return waiting


@dataclass(frozen=True, slots=True)
class Client:
    """Who asked for a job. `params` is whatever else clients.toml says of the client."""

    name: str = ""
    plan: str = ""
    role: str = "default"
    admin: bool = False
    params: JSON = field(default_factory=dict)

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a blueprint.

    Attributes:
        version: grows by one with every change; every change is a compare-and-set on it.
        waiting: what a non-running job waits for.
        step_failures: how often the current state's handler has failed in a row.
        retry_count: retries of tasks and handlers in all.
        result: what the end state's handler returned.
        cancel_requested: somebody wants it to end; it does once what it waits for has stopped and its clean-up is done.
        cancel_of: what is being stopped for that: the id of the attempt or of the child job that it waits for.
        pause_requested: it pauses before its next step.
        parent_job_id: the job that waits for this one.
        webhook_url: who is told of the job's end.
        blueprint_version: `Blueprint.version` of the code that began it, or that it was moved to.
        pinned: it belongs to that version: other code that lacks its state lets it pause, instead of giving it up.
        deadline_at: when the time of the whole job is over; None for as long as it takes.
        time_left: of that time, while it is paused.
        failure: why it was quarantined or has failed, and over what.
    """

    id: str
    blueprint_name: str
    current_state: str
    status: JobStatus = JobStatus.PENDING
    version: int = 0
    initial_data: JSON = field(default_factory=dict)
    state_history: JSON = field(default_factory=dict)
    client: Client = field(default_factory=Client)
    priority: float = 0.0
    tags: tuple[str, ...] = ()
    waiting: Waiting | None = None
    step_failures: int = 0
    retry_count: int = 0
    result: Any = None
    error_message: str | None = None
    cancel_requested: bool = False
    cancel_of: str | None = None
    pause_requested: bool = False
    parent_job_id: str | None = None
    child_job_ids: tuple[str, ...] = ()
    webhook_url: str | None = None
    blueprint_version: str = ""
    pinned: bool = False
    deadline_at: float | None = None
    time_left: float | None = None
    failure: Failure | None = None
    tracing_context: JSON = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0

    def to_dict(self) -> JSON:
        out = dict(zip(self.__slots__, _fields_of(self), strict=True))
        out["status"] = self.status.value
        out["failure"] = None if self.failure is None else self.failure.to_dict()
        out["client"] = self.client.to_dict()
        out["waiting"] = _waiting_to_dict(self.waiting)
        return out

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Job:
        fields = dict(value)
        fields["status"] = JobStatus(fields["status"])
        fields["client"] = Client(**fields["client"])
        fields["waiting"] = _waiting_from_dict(fields["waiting"])
        fields["tags"] = tuple(fields["tags"])
        fields["child_job_ids"] = tuple(fields["child_job_ids"])
        if fields.get("failure") is not None:
            fields["failure"] = Failure(**fields["failure"])
        return cls(**fields)


_fields_of = attrgetter(*Job.__slots__)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history.

    Attributes:
        id: ``<job id>:<version>:<n>``, so that whoever writes it twice can tell.
        duration_ms: of the attempt or of the handler that this event ends.
        timestamp: seconds since the epoch, UTC.
    """

    id: str
    job_id: str
    event_type: str
    timestamp: float
    state: str | None = None
    next_state: str | None = None
    task_id: str | None = None
    worker_id: str | None = None
    attempt: int | None = None
    duration_ms: float | None = None
    details: JSON = field(default_factory=dict)

    def to_dict(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Event:
        return cls(**value)
