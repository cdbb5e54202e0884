"""What the API answers, field by field: the schemas of the OpenAPI document. `engine/views.py` makes the values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from avtomatika.jobs import JobStatus, TaskState

JSONObject = dict[str, Any]
_JOB_ID = "82f44c9f-b764-43ee-a1d2-d8d1d816b843"
JobId = Annotated[str, Field(examples=[_JOB_ID])]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-31T12:00:00.000Z"])]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Error(BaseModel):
    """What is wrong, and what to do."""

    error: str = Field(examples=["what is wrong; what to do about it"])


class Accepted(BaseModel):
    """The job is stored and cannot be lost."""

    status: Literal["accepted"]
    job_id: JobId


class ApprovalReceived(BaseModel):
    """A decision was taken; the job goes on."""

    status: Literal["approval_received"]
    job_id: JobId


class JobSummary(BaseModel):
    """A job in a list."""

    id: JobId
    blueprint_name: str
    status: JobStatus
    current_state: str
    error_message: str | None
    retry_count: int
    priority: float
    tags: list[str]
    parent_job_id: str | None
    child_job_ids: list[str]
    created_at: Timestamp | None
    updated_at: Timestamp | None


class Funnel(BaseModel):
    """How many workers each step of a pick left."""

    strategy: str
    known: int
    idle: int
    looked_at: int
    resources: int
    cost: int
    chosen: str | None
    reason: str


class CurrentTask(BaseModel):
    """The attempt that a job waits for, and why it does not run yet."""

    task_id: str
    type: str
    attempt: int
    worker_id: str | None
    state: TaskState
    since: Timestamp | None
    progress: float | None
    message: str | None
    why: str | None
    funnel: Funnel | None
    decision: JSONObject | None = Field(description="The funnel with which its worker was picked.")


class WaitingBranch(BaseModel):
    """The first branch of a fan-out that does not run."""

    task_id: str
    type: str | None
    branch: int | None
    why: str | None
    funnel: Funnel | None


class WaitingForTasks(BaseModel):
    """A fan-out. `running` and `waiting` are null where there are too many branches to look at each."""

    kind: Literal["parallel_tasks"]
    total: int
    done: int
    failed: int
    running: int | None
    waiting: int | None
    first_waiting: WaitingBranch | None
    aggregate_into: str
    on_failure: str
    deadline_at: Timestamp | None


class WaitingForJob(BaseModel):
    """A child job."""

    kind: Literal["sub_job"]
    job_id: JobId
    blueprint_name: str


class DeliveryAttempt(BaseModel):
    at: Timestamp | None
    status_code: int | None = None
    error: str | None = None
    duration_ms: float


class DeliveryView(BaseModel):
    """How an outgoing request goes; the latest 20 attempts."""

    status: Literal["pending", "delivered", "failed"]
    attempts: list[DeliveryAttempt]
    next_attempt_at: Timestamp | None


class WebhookView(DeliveryView):
    """The request that tells of the job's end."""

    url: str


class WaitingForApproval(BaseModel):
    """A person's decision."""

    kind: Literal["approval"]
    integration: str
    message: str
    decisions: list[str]
    asked_at: Timestamp | None
    deadline_at: Timestamp | None
    on_timeout: str | None = Field(description="The state that follows where nobody decides in time.")
    request: DeliveryView


class JobView(JobSummary):
    """A job with what it waits for right now, and why."""

    initial_data: JSONObject
    state_history: JSONObject
    result: Any = Field(description="What the end state's handler returned.")
    progress: float | None = Field(description="Of what the job waits for, 0 to 1; null where nobody can tell.")
    current_task: CurrentTask | None
    waiting_for: Annotated[WaitingForTasks | WaitingForJob | WaitingForApproval, Field(discriminator="kind")] | None
    code: str | None = Field(description="Of the failure, where it failed or was quarantined.", examples=["WORKER_LOST"])
    deadline_at: Timestamp | None = Field(description="When the time of the whole job is over.")
    blueprint_version: str | None = Field(description="The version that it began with.")
    cancel_requested: bool
    pause_requested: bool
    webhook: WebhookView | None
    client: str


class JobsPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobSummary]
    next_cursor: str | None = Field(description="The `cursor` of the next page; null at the end.")


class QuarantinedJob(BaseModel):
    """A job that needs a person, and why."""

    id: JobId
    blueprint_name: str
    error_message: str | None
    code: str | None = Field(description="Of the failure.", examples=["TRANSIENT_ERROR"])
    task: str | None = Field(description="The task over which it happened.")
    attempts: int = Field(description="How often it was tried in the end; without those whose worker died.")
    current_state: str
    quarantined_at: Timestamp | None
    retry_count: int


class LastAttempt(BaseModel):
    task_id: str
    type: str
    params: JSONObject
    attempt: int
    deaths: int = Field(description="How many workers died over earlier attempts.")
    worker_id: str | None


class QuarantinedDetails(QuarantinedJob):
    """The same with what it takes to understand it."""

    last_attempt: LastAttempt | None
    initial_data: JSONObject
    state_history: JSONObject
    blueprint_version: str | None
    parent_job_id: str | None
    tags: list[str]
    client: str
    created_at: Timestamp | None


class EventView(BaseModel):
    """One line of a job's history."""

    id: str
    job_id: JobId
    event_type: str = Field(examples=["job_created"])
    timestamp: Timestamp | None
    state: str | None
    next_state: str | None
    task_id: str | None
    worker_id: str | None
    attempt: int | None
    duration_ms: float | None
    details: JSONObject


class BlueprintView(BaseModel):
    name: str
    api_version: str | None
    api_endpoint: str | None
    version: str = Field(description="A hash of states, flags, conditions and transitions.")
    start_state: str
    end_states: list[str]
    states: list[str]
    tasks: list[str]


class WorkerView(BaseModel):
    """A live worker. `limits` and `load` are by capability; `supported_tasks` are those that it could start now."""

    worker_id: str
    worker_type: str
    http: bool = Field(description="It pulls over HTTP, and not from the broker.")
    status: str
    tasks: list[str]
    supported_tasks: list[str]
    load: dict[str, float]
    limits: dict[str, int]
    max_concurrent_tasks: int
    hot_cache: list[str]
    hot_skills: list[str]
    installed_models: list[str]
    load_times: dict[str, float]
    cost_per_second: float
    cost_per_skill: dict[str, float]
    reputation: Fraction
    reputation_made_of: dict[str, int]
    resources: JSONObject
    software: JSONObject
    registered_at: Timestamp | None
    seen_at: Timestamp | None


class WorkerCount(BaseModel):
    total: int


class Dashboard(BaseModel):
    workers: WorkerCount
    jobs: dict[str, int] = Field(
        description="By status; `queued` are the pending ones.", examples=[{"queued": 2, "finished": 40}]
    )
    queues: dict[str, int] = Field(description="Messages that wait, by queue.", examples=[{"orchestrator": 0, "gpu.draw": 3}])


class Serves(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    """Whether what the facade stands on answers."""

    status: Literal["ready", "unavailable"]
    store: Literal["ok", "unavailable"]
    broker: Literal["ok", "unavailable"]
    history: Literal["ok", "unavailable", "not configured"]


class Flushed(BaseModel):
    status: Literal["db_flushed"]
