"""Whether the history is what was written: each job's chain of hashes, link by link."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, Row, exists, select

from avtomatika.history.chain import columns_of, link, words
from avtomatika.history.tables import event as events
from avtomatika.history.tables import job as jobs
from avtomatika.jobs import Event, Job

_JOBS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """What does not fit. `seq` is the place of an event, None where it is about the job as a whole."""

    job_id: str
    seq: int | None
    what: str


@dataclass
class Counts:
    jobs: int = 0
    events: int = 0


def verify(connection: Connection, job_id: str | None, counts: Counts) -> Iterator[Problem]:
    """Looks at one job or at all, in order of their ids; `counts` grows with what was looked at."""
    after = ""
    while True:
        asked = select(jobs).where(jobs.c.expired.is_(False)).order_by(jobs.c.id).limit(_JOBS_AT_ONCE)
        asked = asked.where(jobs.c.id == job_id) if job_id is not None else asked.where(jobs.c.id > after)
        some = connection.execute(asked).all()
        if not some:
            break
        yield from _chains(connection, some, counts)
        after = some[-1].id
        if job_id is not None:
            return
    yield from _orphans(connection, job_id)


def _chains(connection: Connection, some: Sequence[Row[tuple[object, ...]]], counts: Counts) -> Iterator[Problem]:
    asked = select(events).where(events.c.job_id.in_([row.id for row in some])).order_by(events.c.job_id, events.c.seq)
    rows = connection.execution_options(yield_per=1000).execute(asked)
    told = {row.id: row for row in some}
    for job_id, chain in groupby(rows, key=lambda row: str(row.job_id)):
        yield from _chain(told.pop(job_id), chain, counts)
    for row in told.values():
        yield from _chain(row, iter(()), counts)


def _chain(job: Row[tuple[object, ...]], chain: Iterator[Row[tuple[object, ...]]], counts: Counts) -> Iterator[Problem]:
    counts.jobs += 1
    last_seq, last_hash = 0, ""
    for row in chain:
        counts.events += 1
        if row.seq != last_seq + 1:
            yield Problem(job.id, last_seq + 1, _missing(last_seq + 1, row.seq - 1))
        # Behind a gap nobody knows the hash before, unless the gap was there when it was written.
        if row.hash != link(last_hash, row.seq, row.body):
            yield Problem(job.id, row.seq, "it does not follow from the event before: edited, moved, or one before it is gone")
        elif not _copies_fit(row):
            yield Problem(job.id, row.seq, "its columns are not what its body says: edited")
        last_seq, last_hash = row.seq, row.hash
    if last_seq < job.event_count:
        yield Problem(job.id, last_seq + 1, _missing(last_seq + 1, job.event_count))
    elif last_seq > job.event_count or last_hash != job.last_hash:
        yield Problem(job.id, last_seq, "it is not the event that the job's row knows as its last: edited or added")
    if not _record_fits(job):
        yield Problem(job.id, None, "the columns of the job are not what its record says: edited")


def _missing(first: int, last: int) -> str:
    return f"event {first} is missing" if first == last else f"events {first} to {last} are missing"


def _copies_fit(row: Row[tuple[object, ...]]) -> bool:
    try:
        wanted = columns_of(Event.from_dict(json.loads(row.body)))
    except (ValueError, TypeError, AttributeError):
        return False
    return all(getattr(row, name) == value for name, value in wanted.items())


def _record_fits(row: Row[tuple[object, ...]]) -> bool:
    try:
        job = Job.from_dict(json.loads(row.record))
    except (ValueError, TypeError, KeyError):
        return False
    found = (row.id, row.client, row.blueprint, row.status, row.version, row.created_at)
    return found == (job.id, words(job.client.name), words(job.blueprint_name), job.status.value, job.version, job.created_at)


def _orphans(connection: Connection, job_id: str | None) -> Iterator[Problem]:
    known = exists().where(jobs.c.id == events.c.job_id)
    asked = select(events.c.job_id).where(~known).distinct().order_by(events.c.job_id)
    if job_id is not None:
        asked = asked.where(events.c.job_id == job_id)
    for orphan in connection.execute(asked).scalars():
        yield Problem(orphan, None, "its events are there, its row is gone")
