"""Drafts of commits: from a job and what happened to it, the change to store. Pure but for the ids it makes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.compiler import Compiler, child_key
from avtomatika.deliveries import Delivery
from avtomatika.engine.clock import clocked, deadline_of, job_timer
from avtomatika.engine.webhooks import end_delivery
from avtomatika.jobs import (
    JSON,
    Approval,
    Event,
    Failure,
    FanOut,
    Job,
    JobStatus,
    Message,
    TaskInfo,
    TaskState,
    Timer,
    Waiting,
    new_id,
)
from avtomatika.settings import Settings
from avtomatika.state.base import Commit, Entry, NewTask


@dataclass
class Draft:
    """One change of one job in the making. `job` is the record as it is stored now; `commit()` closes the draft."""

    job: Job
    now: float
    compiler: Compiler
    boot_id: str | None = None
    settles: tuple[str, ...] = ()
    changes: JSON = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    tasks: list[NewTask] = field(default_factory=list)
    children: list[Commit] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    drop_timers: list[str] = field(default_factory=list)
    drop_tasks: list[str] = field(default_factory=list)
    cancel_tasks: list[str] = field(default_factory=list)
    drop_branches: bool = False
    settle_branches: bool = False
    deliveries: list[Delivery] = field(default_factory=list)
    unbegun: tuple[str, ...] = ()

    def fork(self) -> Draft:
        """A copy to go on with, while this one stays as it is."""
        return replace(
            self,
            changes=dict(self.changes),
            events=list(self.events),
            messages=list(self.messages),
            tasks=list(self.tasks),
            children=list(self.children),
            timers=list(self.timers),
            drop_timers=list(self.drop_timers),
            drop_tasks=list(self.drop_tasks),
            cancel_tasks=list(self.cancel_tasks),
            deliveries=list(self.deliveries),
        )

    @property
    def next_version(self) -> int:
        return self.job.version + 1

    def event(self, event_type: str, **fields: Any) -> None:
        """Adds a line of history."""
        event_id = f"{self.job.id}:{self.next_version}:{len(self.events)}"
        self.events.append(Event(event_id, self.job.id, event_type, self.now, **fields))

    def set(self, **changes: Any) -> None:
        self.changes.update(changes)

    def enter(self, state: str) -> None:
        """The job goes on with a state."""
        self.set(current_state=state, status=JobStatus.RUNNING, waiting=None, step_failures=0)

    def pause(self) -> None:
        """It stays where it is until somebody lets it go on."""
        self.set(status=JobStatus.PAUSED, pause_requested=False)
        self.event("job_paused", state=self.changes.get("current_state", self.job.current_state))

    def go_to(self, state: str) -> None:
        """The job goes on with a state, over the queue; or it pauses there, where somebody has asked for that."""
        self.enter(state)
        if self.changes.get("pause_requested", self.job.pause_requested):
            self.pause()
        else:
            self.messages.append(self.compiler.step_message(self.job.id, self.next_version, self.now))

    def wait(self, status: JobStatus, waiting: Waiting | None) -> None:
        self.set(status=status, waiting=waiting, step_failures=0)

    def end(self, status: JobStatus, reason: str | None = None, failure: Failure | None = None) -> None:
        """The job ends; its parent, if it has one, is told in the same change."""
        self.set(status=status, waiting=None, cancel_of=None, pause_requested=False, failure=failure)
        if reason is not None:
            self.set(error_message=reason)
        details = {**({"reason": reason} if reason else {}), **({"code": failure.code} if failure and failure.code else {})}
        self.event(f"job_{status.value}", state=self.changes.get("current_state", self.job.current_state), details=details)
        if self.job.parent_job_id is not None:
            self.messages.append(self.compiler.child_message(self.job.parent_job_id, self.job.id, self.now))

    def task(self, info: TaskInfo, capability: str | None) -> None:
        """Stores an attempt: the store says when its message goes."""
        self.tasks.append(new_task(info, capability, self.compiler, self.now))

    def leave_waiting(self) -> None:
        """Whatever the job waited for is over: its messages and results do nothing from now on."""
        waiting = self.job.waiting
        if isinstance(waiting, TaskInfo):
            self.drop_tasks.append(waiting.id)
        elif isinstance(waiting, FanOut):
            self.drop_branches = True
            if waiting.deadline_at is not None:
                self.drop_timers.append(deadline_timer(self.job.id, waiting.id, waiting.deadline_at).member)
        elif isinstance(waiting, Approval):
            if waiting.deadline_at is not None:
                self.drop_timers.append(approval_timer(self.job.id, waiting.id, waiting.deadline_at).member)
        elif waiting is not None and hasattr(waiting, "job_id"):
            self.settles += (child_key(waiting.job_id),)

    def commit(self, *, keep_claim: bool = False) -> Commit:
        job = replace(self.job, **self.changes, version=self.next_version, updated_at=self.now)
        job, timers, drop_timers = clocked(self.job, job)
        ends = job.status.is_terminal and not self.job.status.is_terminal
        told = (end_delivery(job),) if ends and job.webhook_url is not None else ()
        return Commit(
            job=job,
            expected_version=self.job.version,
            previous_status=self.job.status,
            events=tuple(self.events),
            messages=tuple(self.messages),
            tasks=tuple(self.tasks),
            drop_tasks=tuple(self.drop_tasks),
            cancel_tasks=tuple(self.cancel_tasks),
            drop_branches=self.drop_branches,
            settle_branches=self.settle_branches,
            children=tuple(self.children),
            timers=(*self.timers, *timers),
            drop_timers=(*self.drop_timers, *drop_timers),
            settles=self.settles,
            deliveries=(*self.deliveries, *told),
            boot_id=self.boot_id,
            keep_claim=keep_claim,
            unbegun=self.unbegun,
        )


def deadline_timer(job_id: str, fanout_id: str, due: float) -> Timer:
    """When the verdict on a fan-out is found with what has come."""
    return Timer("deadline", f"{job_id}|{fanout_id}", due)


def approval_timer(job_id: str, approval_id: str, due: float) -> Timer:
    """When a question is waited for no longer."""
    return Timer("approval", f"{job_id}|{approval_id}", due)


def new_task(info: TaskInfo, capability: str | None, compiler: Compiler, now: float) -> NewTask:
    """An attempt to store; while nobody has named its capability, it can do nothing but wait for that."""
    if capability is None and not info.is_plain:
        return NewTask(info, TaskState.UNROUTED)
    return NewTask(info, entry=entry_of(info, capability, compiler, now))


def entry_of(info: TaskInfo, capability: str | None, compiler: Compiler, now: float) -> Entry:
    """How an attempt waits: for a pick, or for its turn in the capability's queue unless some worker is warm for it."""
    if info.needs_pick:
        wishes = [info.dispatch_strategy, info.resource_requirements, info.max_cost]
        return Entry(signature=json.dumps(wishes, sort_keys=True, separators=(",", ":")))
    return Entry(compiler.task_message(info, capability, now), unless_warm=not info.is_plain)


def new_job(blueprint: Blueprint, settings: Settings, now: float, **fields: Any) -> Job:
    """A job of a registered blueprint, as it begins."""
    given = {
        "current_state": blueprint.start_state,
        "blueprint_version": blueprint.version,
        "deadline_at": deadline_of(blueprint, settings, now),
        "created_at": now,
        "updated_at": now,
    }
    return Job(fields.pop("id", None) or new_id(), blueprint.name, **{**given, **fields})


def new_job_commit(job: Job, compiler: Compiler, now: float) -> Commit:
    """A job comes into being, with the message that starts it; one that is paused waits for whoever resumes it."""
    created = Event(
        f"{job.id}:0:0", job.id, "job_created", now, state=job.current_state, details={"blueprint": job.blueprint_name}
    )
    timers = () if job.deadline_at is None else (job_timer(job.id, job.deadline_at),)
    messages = () if job.status is JobStatus.PAUSED else (compiler.step_message(job.id, 0, now),)
    return Commit(job, None, events=(created,), messages=messages, timers=timers)
