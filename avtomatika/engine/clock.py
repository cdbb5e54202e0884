"""The time that a whole job may take: a deadline by the wall clock, kept with the job and as a timer in the store."""

from __future__ import annotations

from dataclasses import replace

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.errors import FailureCode
from avtomatika.jobs import Job, JobStatus, Timer
from avtomatika.settings import Settings


def job_timer(job_id: str, due: float) -> Timer:
    """When the time of a job is over."""
    return Timer("job", job_id, due)


def deadline_of(blueprint: Blueprint, settings: Settings, now: float) -> float | None:
    """Until when a job that starts (or is tried again) now has to end; None for as long as it takes."""
    seconds = blueprint.job_timeout_seconds or settings.job_timeout_seconds
    return None if seconds is None else now + seconds


def clocked(before: Job, after: Job) -> tuple[Job, list[Timer], list[str]]:
    """A job whose clock stands still while it is paused, with the timers to set, and to drop.

    The clock runs while the job waits, for whatever it waits. It is set anew by whoever gives the job another deadline.
    """
    now, stood = after.updated_at, before.status is JobStatus.PAUSED
    stands = after.status is JobStatus.PAUSED
    if stands and not stood and after.deadline_at is not None:
        after = replace(after, time_left=max(0.0, after.deadline_at - now), deadline_at=None)
    elif stood and not stands and after.time_left is not None:
        after = replace(after, time_left=None, deadline_at=None if after.status.is_terminal else now + after.time_left)
    runs = after.deadline_at is not None and not after.status.is_terminal
    ran = before.deadline_at is not None and not before.status.is_terminal
    if runs and (not ran or after.deadline_at != before.deadline_at):
        assert after.deadline_at is not None
        return after, [job_timer(after.id, after.deadline_at)], []
    return after, [], [job_timer(after.id, 0).member] if ran and not runs else []


def is_out_of_time(job: Job) -> bool:
    """Whether a job ended since its time was over."""
    return job.failure is not None and job.failure.code == FailureCode.JOB_TIMEOUT
