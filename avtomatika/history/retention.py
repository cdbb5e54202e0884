"""What is older than HISTORY_RETENTION_SECONDS leaves the database, a few rows a transaction."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, delete, exists, select, tuple_, update

from avtomatika.history.tables import event as events
from avtomatika.history.tables import job as jobs
from avtomatika.history.tables import worker as workers

JOBS_AT_ONCE = 500
EVENTS_AT_ONCE = 2000


def mark(connection: Connection, before: float) -> int:
    """Jobs that ended before a time are seen by nobody from now on, whole or not."""
    some = (
        select(jobs.c.id).where(jobs.c.ended_at < before, jobs.c.expired.is_(False)).order_by(jobs.c.ended_at).limit(JOBS_AT_ONCE)
    )
    return connection.execute(update(jobs).where(jobs.c.id.in_(some)).values(expired=True)).rowcount


def delete_events(connection: Connection, _: float) -> int:
    some = (
        select(events.c.job_id, events.c.seq)
        .join(jobs, jobs.c.id == events.c.job_id)
        .where(jobs.c.expired.is_(True))
        .limit(EVENTS_AT_ONCE)
    )
    return connection.execute(delete(events).where(tuple_(events.c.job_id, events.c.seq).in_(some))).rowcount


def delete_jobs(connection: Connection, _: float) -> int:
    left = exists().where(events.c.job_id == jobs.c.id)
    some = select(jobs.c.id).where(jobs.c.expired.is_(True), ~left).limit(JOBS_AT_ONCE)
    return connection.execute(delete(jobs).where(jobs.c.id.in_(some))).rowcount


def delete_workers(connection: Connection, before: float) -> int:
    return connection.execute(delete(workers).where(workers.c.last_seen_at < before)).rowcount


#: In this order, each again and again until it finds nothing more.
STEPS: tuple[Callable[[Connection, float], int], ...] = (mark, delete_events, delete_jobs, delete_workers)
