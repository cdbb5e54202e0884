"""Writing a batch of the feed into SQL, in one transaction with the position behind it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from avtomatika.history.chain import body_of, columns_of, link, words
from avtomatika.history.tables import event as events
from avtomatika.history.tables import job as jobs
from avtomatika.history.tables import position as positions
from avtomatika.history.tables import worker as workers
from avtomatika.jobs import Event, Job, WorkerRecord
from avtomatika.state.base import FeedEntry

AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a job's chain as it is stored."""

    count: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Attributes:
        after: the position that the entries follow.
        tails: of those of their jobs that are stored.
        earlier: (place, event) of events that the feed no longer had, from the jobs' own lists.
        records: of jobs that are not stored yet and do not begin here.
    """

    after: str
    entries: Sequence[FeedEntry]
    tails: Mapping[str, Tail] = field(default_factory=dict)
    earlier: Mapping[str, Sequence[tuple[int, Event]]] = field(default_factory=dict)
    records: Mapping[str, Job] = field(default_factory=dict)

    def of_job(self) -> dict[str, list[tuple[int, Event]]]:
        """(place, event) of each job, in order, without those that are stored."""
        found: dict[str, list[tuple[int, Event]]] = {}
        for job_id, earlier in self.earlier.items():
            found.setdefault(job_id, []).extend(earlier)
        for entry in self.entries:
            found.setdefault(entry.event.job_id, []).append((entry.place, entry.event))
        return {job_id: list(_rising(told, self.tails.get(job_id, Tail()).count)) for job_id, told in found.items()}


def _rising(told: Sequence[tuple[int, Event]], last: int) -> Iterator[tuple[int, Event]]:
    for place, event in told:
        if place > last:
            last = place
            yield place, event


def read_position(connection: Connection, namespace: str) -> str:
    found = connection.execute(select(positions.c.entry).where(positions.c.namespace == namespace)).scalar()
    return found or ""


def read_tails(connection: Connection, job_ids: Collection[str]) -> dict[str, Tail]:
    out: dict[str, Tail] = {}
    for some in _slices(sorted(job_ids)):
        rows = connection.execute(select(jobs.c.id, jobs.c.event_count, jobs.c.last_hash).where(jobs.c.id.in_(some)))
        out |= {job_id: Tail(count, last) for job_id, count, last in rows}
    return out


def write_batch(connection: Connection, namespace: str, batch: Batch, prices: Mapping[str, WorkerRecord]) -> bool:
    """Writes it all, or nothing: false where somebody else has written from the same position meanwhile."""
    if not _still_at(connection, namespace, batch.after):
        return False
    told = batch.of_job()
    costs = _Costs(connection, prices, {event.worker_id for rows in told.values() for _, event in rows if event.worker_id})
    snapshots = dict(batch.records)
    snapshots |= {entry.event.job_id: entry.job for entry in batch.entries if entry.job is not None}
    event_rows: list[dict[str, Any]] = []
    known_rows: list[dict[str, Any]] = []
    job_rows: list[dict[str, Any]] = []
    for job_id, rows in told.items():
        tail = batch.tails.get(job_id)
        count, last = (tail.count, tail.hash) if tail is not None else (0, "")
        for place, event in rows:
            body = body_of(event)
            count, last = place, link(last, place, body)
            event_rows.append({**columns_of(event), "seq": place, "cost": costs.of(event), "body": body, "hash": last})
        job = snapshots.get(job_id)
        if job is None and tail is None:
            job = _unknown(job_id, batch)
        if job is not None:
            job_rows.append({**_job_row(job), "event_count": count, "last_hash": last})
        elif rows:
            known_rows.append({"the_id": job_id, "event_count": count, "last_hash": last})
    _insert_jobs(connection, job_rows)
    if known_rows:
        connection.execute(update(jobs).where(jobs.c.id == bindparam("the_id")), known_rows)
    if event_rows:
        connection.execute(events.insert(), event_rows)
    moved = update(positions).where(positions.c.namespace == namespace).values(entry=batch.entries[-1].id)
    connection.execute(moved)
    return True


def skip_entry(connection: Connection, namespace: str, batch: Batch) -> bool:
    """Goes past entries that cannot be written; false where somebody else has gone on meanwhile."""
    if not _still_at(connection, namespace, batch.after):
        return False
    connection.execute(update(positions).where(positions.c.namespace == namespace).values(entry=batch.entries[-1].id))
    return True


def write_workers(connection: Connection, records: Sequence[WorkerRecord], now: float) -> None:
    """Notes what live workers cost, and when they were seen last."""
    if not records:
        return
    insert = _insert(connection)(workers)
    kept = {name: insert.excluded[name] for name in ("type", "cost_per_second", "cost_per_skill", "last_seen_at")}
    rows = [
        {
            "id": words(record.id),
            "type": words(record.type),
            "cost_per_second": record.cost_per_second,
            "cost_per_skill": json.dumps(record.cost_per_skill),
            "first_seen_at": now,
            "last_seen_at": now,
        }
        for record in sorted(records, key=lambda record: record.id)
    ]
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=kept), rows)


def _still_at(connection: Connection, namespace: str, after: str) -> bool:
    """Locks the position until the end of the transaction, and compares it."""
    first = _insert(connection)(positions).values(namespace=namespace, entry="")
    connection.execute(first.on_conflict_do_nothing(index_elements=["namespace"]))
    locked = select(positions.c.entry).where(positions.c.namespace == namespace).with_for_update()
    return bool(connection.execute(locked).scalar_one() == after)


def _insert_jobs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    insert = _insert(connection)(jobs)
    changed = {name: insert.excluded[name] for name in rows[0] if name != "id"}
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed), rows)


def _insert(connection: Connection) -> Any:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def _job_row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "client": words(job.client.name),
        "blueprint": words(job.blueprint_name),
        "status": job.status.value,
        "created_at": job.created_at,
        "ended_at": job.updated_at if job.status.is_terminal else None,
        "version": job.version,
        "record": json.dumps(job.to_dict(), separators=(",", ":")),
        "expired": False,
    }


def _unknown(job_id: str, batch: Batch) -> Job:
    """A job of which only events are left: what they tell of it."""
    first = next(entry.event for entry in batch.entries if entry.event.job_id == job_id)
    return Job(job_id, "", first.state or "", created_at=first.timestamp, updated_at=first.timestamp)


def _slices(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]


class _Costs:
    """What attempts cost: their duration times what their worker costs a second for that task."""

    def __init__(self, connection: Connection, prices: Mapping[str, WorkerRecord], worker_ids: Collection[str]) -> None:
        self._prices = {
            worker_id: (record.cost_per_second, record.cost_per_skill)
            for worker_id, record in prices.items()
            if worker_id in worker_ids
        }
        for some in _slices(sorted(worker_ids - self._prices.keys())):
            asked = [words(worker_id) for worker_id in some]
            rows = connection.execute(
                select(workers.c.id, workers.c.cost_per_second, workers.c.cost_per_skill).where(workers.c.id.in_(asked))
            )
            self._prices |= {worker_id: (cost, json.loads(per_skill)) for worker_id, cost, per_skill in rows}

    def of(self, event: Event) -> float | None:
        found = self._prices.get(event.worker_id or "")
        columns = columns_of(event)
        if found is None or event.duration_ms is None or columns["outcome"] is None:
            return None
        per_second, per_skill = found
        return float(event.duration_ms / 1000 * per_skill.get(columns["task_type"] or "", per_second))
