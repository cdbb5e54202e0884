"""What the facade asks: a job, its events, a page of jobs. Pages by key, never by offset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from avtomatika.history.chain import words
from avtomatika.history.tables import event as events
from avtomatika.history.tables import job as jobs
from avtomatika.jobs import Event, Job, JobStatus


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; None takes all."""

    client: str | None = None
    status: JobStatus | None = None
    blueprint: str | None = None
    since: float | None = None


def find_job(connection: Connection, job_id: str) -> Job | None:
    body = connection.execute(select(jobs.c.record).where(jobs.c.id == words(job_id), jobs.c.expired.is_(False))).scalar()
    return Job.from_dict(json.loads(body)) if body is not None else None


def find_events(connection: Connection, job_id: str) -> list[Event]:
    asked = select(events.c.body).where(events.c.job_id == words(job_id)).order_by(events.c.seq)
    return [Event.from_dict(json.loads(body)) for body in connection.execute(asked).scalars()]


def find_jobs(connection: Connection, wanted: JobFilter, before: tuple[float, str] | None, limit: int) -> Sequence[Job]:
    """Newest first, by (created_at, id); `before` is that of the last job of the page before."""
    asked = select(jobs.c.record).where(jobs.c.expired.is_(False))
    if wanted.client is not None:
        asked = asked.where(jobs.c.client == words(wanted.client))
    if wanted.status is not None:
        asked = asked.where(jobs.c.status == wanted.status.value)
    if wanted.blueprint is not None:
        asked = asked.where(jobs.c.blueprint == words(wanted.blueprint))
    if wanted.since is not None:
        asked = asked.where(jobs.c.created_at >= wanted.since)
    if before is not None:
        asked = asked.where(tuple_(jobs.c.created_at, jobs.c.id) < tuple_(*before))
    asked = asked.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    return [Job.from_dict(json.loads(body)) for body in connection.execute(asked).scalars()]
