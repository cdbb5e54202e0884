"""Counts, success rates, durations and cost, by blueprint, task or worker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, FromClause, case, cast, func, null, select

from avtomatika.history.chain import words
from avtomatika.history.tables import event as events
from avtomatika.history.tables import job as jobs
from avtomatika.jobs import JobStatus, Result

MAX_GROUPS = 1000
PERCENTILES = (50, 90, 99)
_BAD = (Result.FAILURE, Result.TIMEOUT, Result.CANCELLED, "retried", "lost", "unknown")


class By(StrEnum):
    BLUEPRINT = "blueprint"
    TASK = "task"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Group:
    """What was counted under one name.

    Attributes:
        key: the blueprint, the task or the worker.
        count: jobs that ended, or attempts of tasks that ended.
        succeeded: jobs that finished; attempts with success or a status of their worker's own.
        outcomes: how many ended in which way.
        p50, p90, p99: milliseconds; of jobs from their creation to their end, of attempts what their workers measured; None
            where none was measured.
        cost: sum of what the attempts cost, by what their workers cost a second; None where that is not known of any.
    """

    key: str
    count: int
    succeeded: int
    outcomes: dict[str, int]
    p50: float | None
    p90: float | None
    p99: float | None
    cost: float | None

    @property
    def success_rate(self) -> float:
        return self.succeeded / self.count


def analyse(connection: Connection, by: By, since: float, until: float, client: str | None) -> list[Group]:
    """Of what ended from `since` (inclusive) until `until` (exclusive), the most frequent first; of one client, or of all."""
    ended = _jobs(since, until, client) if by is By.BLUEPRINT else _attempts(by, since, until, client)
    rows = connection.execute(_totals(ended)).all()
    outcomes: dict[str, dict[str, int]] = {}
    for key, outcome, count in connection.execute(
        select(ended.c.key, ended.c.outcome, func.count()).group_by(ended.c.key, ended.c.outcome)
    ):
        outcomes.setdefault(key, {})[outcome] = count
    costs = _blueprint_costs(connection, since, until, client) if by is By.BLUEPRINT else {row.key: row.cost for row in rows}
    return [
        Group(row.key, row.count_, row.succeeded, outcomes.get(row.key, {}), row.p50, row.p90, row.p99, costs.get(row.key))
        for row in rows
    ]


def _jobs(since: float, until: float, client: str | None) -> FromClause:
    asked = select(
        jobs.c.blueprint.label("key"),
        jobs.c.status.label("outcome"),
        case((jobs.c.status == JobStatus.FINISHED.value, 1), else_=0).label("good"),
        ((jobs.c.ended_at - jobs.c.created_at) * 1000).label("ms"),
        cast(null(), Double).label("cost"),
    ).where(jobs.c.ended_at >= since, jobs.c.ended_at < until, jobs.c.expired.is_(False))
    if client is not None:
        asked = asked.where(jobs.c.client == words(client))
    return asked.subquery()


def _attempts(by: By, since: float, until: float, client: str | None) -> FromClause:
    key: ColumnElement[Any] = events.c.worker_id if by is By.WORKER else events.c.task_type
    asked = (
        select(
            key.label("key"),
            events.c.outcome.label("outcome"),
            case((events.c.outcome.in_(_BAD), 0), else_=1).label("good"),
            events.c.duration_ms.label("ms"),
            events.c.cost.label("cost"),
        )
        .join(jobs, jobs.c.id == events.c.job_id)
        .where(events.c.outcome.is_not(None), key.is_not(None), events.c.at >= since, events.c.at < until)
        .where(jobs.c.expired.is_(False))
    )
    if client is not None:
        asked = asked.where(jobs.c.client == words(client))
    return asked.subquery()


def _totals(ended: FromClause) -> Any:
    """One row a key. A percentile is the smallest duration that so many of a hundred do not exceed (nearest rank)."""
    measured = func.count(ended.c.ms).over(partition_by=ended.c.key)
    # Those without a duration come last, in both databases.
    order = (case((ended.c.ms.is_(None), 1), else_=0), ended.c.ms)
    ranked = select(ended, measured.label("n"), func.row_number().over(partition_by=ended.c.key, order_by=order).label("rank"))
    rows = ranked.subquery()
    percentiles = [
        func.max(case((rows.c.rank == (rows.c.n * share + 99) // 100, rows.c.ms))).label(f"p{share}") for share in PERCENTILES
    ]
    count = func.count()
    return (
        select(
            rows.c.key,
            count.label("count_"),
            func.sum(rows.c.good).label("succeeded"),
            func.sum(rows.c.cost).label("cost"),
            *percentiles,
        )
        .group_by(rows.c.key)
        .order_by(count.desc(), rows.c.key)
        .limit(MAX_GROUPS)
    )


def _blueprint_costs(connection: Connection, since: float, until: float, client: str | None) -> dict[str, float | None]:
    """Of all attempts of the jobs that ended in that time."""
    asked = (
        select(jobs.c.blueprint, func.sum(events.c.cost))
        .join(events, events.c.job_id == jobs.c.id)
        .where(jobs.c.ended_at >= since, jobs.c.ended_at < until, jobs.c.expired.is_(False), events.c.outcome.is_not(None))
        .group_by(jobs.c.blueprint)
    )
    if client is not None:
        asked = asked.where(jobs.c.client == words(client))
    return {row[0]: row[1] for row in connection.execute(asked)}
