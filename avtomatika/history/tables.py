"""The tables. `body` and `record` hold the whole as JSON; the other columns copy parts of it, to be found and counted by."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text, false

metadata = MetaData()
#: Ids are ordered by their bytes everywhere, as Redis orders them.
_Id = String(64).with_variant(String(64, collation="C"), "postgresql")

#: One row a job: what it was when it last began, ended or was tried again.
job = Table(
    "job",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("client", Text, nullable=False),
    Column("blueprint", Text, nullable=False),
    Column("status", String(32), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("version", Integer, nullable=False),
    Column("record", Text, nullable=False),
    # How long its chain of events is, and the last one's hash: a cut end shows, too.
    Column("event_count", Integer, nullable=False),
    Column("last_hash", String(64), nullable=False),
    # Its retention has passed: nobody sees it any more, its rows are being deleted.
    Column("expired", Boolean, nullable=False, server_default=false()),
    Index("job_created", "created_at", "id"),
    Index("job_client_created", "client", "created_at", "id"),
    Index("job_blueprint_created", "blueprint", "created_at", "id"),
    Index("job_status_created", "status", "created_at", "id"),
    Index("job_ended", "ended_at"),
    Index("job_expired", "expired"),
)

#: One row an event. `seq` counts the events of a job from 1 on; `outcome` is set where an attempt of a task ended.
event = Table(
    "event",
    metadata,
    Column("job_id", _Id, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("event_type", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("state", Text),
    Column("next_state", Text),
    Column("task_id", Text),
    Column("task_type", Text),
    Column("worker_id", Text),
    Column("attempt", Integer),
    Column("duration_ms", Double),
    Column("outcome", Text),
    Column("cost", Double),
    Column("body", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("event_outcome_at", "at", postgresql_where=Column("outcome").is_not(None), sqlite_where=Column("outcome").is_not(None)),
)

#: One row a worker that was ever seen: what it costs is looked up here once it has gone.
worker = Table(
    "worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("cost_per_second", Double, nullable=False),
    Column("cost_per_skill", Text, nullable=False),
    Column("first_seen_at", Double, nullable=False),
    Column("last_seen_at", Double, nullable=False),
)

#: How far the feed of each namespace has been written.
position = Table(
    "history_position",
    metadata,
    Column("namespace", String(200), primary_key=True),
    Column("entry", String(64), nullable=False),
)
