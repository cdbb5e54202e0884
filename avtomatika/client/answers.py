"""What the facade answers, typed and frozen. Fields that this version does not know are kept as attributes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from avtomatika.jobs import JobStatus

#: A status that this version does not know stays a string.
Status = Annotated[JobStatus | str, Field(union_mode="left_to_right")]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class JobSummary(Answer):
    """A job in a list."""

    id: str
    blueprint_name: str
    status: Status
    current_state: str
    error_message: str | None = None
    retry_count: int = 0
    priority: float = 0.0
    tags: tuple[str, ...] = ()
    parent_job_id: str | None = None
    child_job_ids: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def is_terminal(self) -> bool:
        return isinstance(self.status, JobStatus) and self.status.is_terminal

    @property
    def is_finished(self) -> bool:
        return self.status == JobStatus.FINISHED


class TaskView(Answer):
    """The attempt that a job waits for. `why`: why it does not run; None while it does."""

    task_id: str
    type: str
    attempt: int = 1
    worker_id: str | None = None
    state: str | None = None
    since: datetime | None = None
    progress: float | None = None
    message: str | None = None
    why: str | None = None


class JobView(JobSummary):
    """A job with its data, and what it waits for."""

    initial_data: dict[str, Any] = Field(default_factory=dict)
    state_history: dict[str, Any] = Field(default_factory=dict)
    result: Any = None
    progress: float | None = None
    current_task: TaskView | None = None
    waiting_for: dict[str, Any] | None = None
    cancel_requested: bool = False


class EventView(Answer):
    """One line of a job's history."""

    id: str
    job_id: str
    event_type: str
    timestamp: datetime
    state: str | None = None
    next_state: str | None = None
    task_id: str | None = None
    worker_id: str | None = None
    attempt: int | None = None
    duration_ms: float | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class ProgressView(Answer):
    """How far the job's current task is, 0..1. Only `watch` tells; it is not part of the history."""

    progress: float
    message: str = ""
    task_id: str | None = None
    status: Status | None = None


class JobPage(Answer):
    jobs: tuple[JobSummary, ...]
    next_cursor: str | None = None


class QuarantinedView(Answer):
    """A quarantined job; `error_message` says why it is there.

    `last_attempt` and the data are those of `quarantined_job` alone.
    """

    id: str
    blueprint_name: str
    current_state: str | None = None
    error_message: str | None = None
    code: str | None = None
    task: str | None = None
    attempts: int = 0
    retry_count: int = 0
    quarantined_at: datetime | None = None
    last_attempt: dict[str, Any] | None = None
    initial_data: dict[str, Any] = Field(default_factory=dict)
    state_history: dict[str, Any] = Field(default_factory=dict)


class ManyView(Answer):
    """What an order to many jobs came to; `refused` has a job_id and an error for each that took it no more."""

    count: int
    job_ids: tuple[str, ...] = ()
    refused: tuple[dict[str, str], ...] = ()
    next_cursor: str | None = None
    dry_run: bool = False


class Percentiles(Answer):
    """Milliseconds; None where nothing was measured."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class Counted(Answer):
    """What ended under one name: jobs of a blueprint, or attempts of a task or of a worker."""

    key: str
    count: int
    succeeded: int
    success_rate: float
    outcomes: dict[str, int] = Field(default_factory=dict)
    duration_ms: Percentiles = Field(default_factory=Percentiles)
    cost: float | None = None


class Analytics(Answer):
    by: str
    since: datetime | None = None
    until: datetime | None = None
    groups: tuple[Counted, ...] = ()


class BlueprintView(Answer):
    """A blueprint of the facade's BLUEPRINTS_DIR."""

    name: str
    api_version: str | None = None
    api_endpoint: str | None = None
    start_state: str | None = None
    end_states: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


class FiringView(Answer):
    """The latest job that a due time made."""

    due_at: datetime
    fired_at: datetime
    job_id: str
    missed: int = 0


class ComingView(Answer):
    """A due time to come; `local` as the clocks of the schedule's zone show it."""

    utc: datetime
    local: datetime


class ScheduleView(Answer):
    """A schedule; `next_firings` is there where one was asked for by its name."""

    name: str
    blueprint_name: str
    cron: str | None = None
    every_seconds: float | None = None
    timezone: str = "UTC"
    catch_up: str = "last"
    paused: bool = False
    paused_by: str | None = None
    next_due_at: datetime | None = None
    last: FiringView | None = None
    next_firings: tuple[ComingView, ...] = ()


class WorkerView(Answer):
    """A live worker. `load` and `limits` are slots by capability."""

    worker_id: str
    status: str
    supported_tasks: tuple[str, ...] = ()
    load: dict[str, int] = Field(default_factory=dict)
    limits: dict[str, int] = Field(default_factory=dict)
    hot_cache: tuple[str, ...] = ()
    hot_skills: tuple[str, ...] = ()
    resources: dict[str, Any] = Field(default_factory=dict)
    cost_per_second: float = 0.0
    cost_per_skill: dict[str, float] = Field(default_factory=dict)
    reputation: float = 1.0


class Dashboard(Answer):
    """Counts: workers, jobs by status, waiting messages by queue."""

    workers: dict[str, int] = Field(default_factory=dict)
    jobs: dict[str, int] = Field(default_factory=dict)
    queues: dict[str, int] = Field(default_factory=dict)
