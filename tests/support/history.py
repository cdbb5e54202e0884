"""A history of a test's own: its database, and a writer over a store in memory or in Redis."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from avtomatika.engine.historian import Historian
from avtomatika.history import Archive
from avtomatika.jobs import Client, Event, Job, JobStatus, new_id
from avtomatika.settings import Settings, read_settings
from avtomatika.state.base import Commit, Store
from avtomatika.state.memory import MemoryStore
from tests.support.records import NOW, a_job


@contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """A database on this server that nobody else uses; dropped at the end."""
    name = f"avtomatika_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass
class Place:
    """What a writer needs of an engine: a store, settings, a clock that the test moves, and a boot id."""

    uri: str
    store: Store = field(default_factory=MemoryStore)
    overrides: dict[str, Any] = field(default_factory=dict)
    now: float = NOW
    boot_id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        self.settings: Settings = read_settings(
            history_database_uri=self.uri, redis_url="redis://127.0.0.1:1/0", **self.overrides
        )

    def clock(self) -> float:
        return self.now

    def archive(self) -> Archive:
        return Archive(self.uri, upgrades=True)

    def historian(self, archive: Archive, **options: Any) -> Historian:
        return Historian(self, archive, **options)  # type: ignore[arg-type]

    async def job(self, **fields: Any) -> Job:
        """A new job, with its first event."""
        job = a_job(**{"created_at": self.now, "updated_at": self.now, **fields})
        event = Event(f"{job.id}:0:0", job.id, "job_created", self.now, state="start", details={"blueprint": job.blueprint_name})
        assert (await self.store.commit(Commit(job, None, events=(event,)))).applied
        return job

    async def change(self, job: Job, event_type: str = "transition", status: JobStatus | None = None, **fields: Any) -> Job:
        """The next version of a job, with one event."""
        after = replace(job, version=job.version + 1, updated_at=self.now, status=status or job.status)
        event = Event(f"{job.id}:{after.version}:0", job.id, event_type, self.now, **fields)
        assert (await self.store.commit(Commit(after, job.version, job.status, events=(event,)))).applied
        return after

    async def whole_job(self, changes: int = 2, status: JobStatus = JobStatus.FINISHED, **fields: Any) -> Job:
        """A job with `changes + 2` events, from its beginning to its end."""
        job = await self.job(**fields)
        for _ in range(changes):
            job = await self.change(job, status=JobStatus.RUNNING)
        return await self.change(job, f"job_{status.value}", status)


async def write_all(historian: Historian) -> int:
    """Writes until the feed has no more; how many entries that were."""
    total = 0
    while written := await historian.step():
        total += written
    return total


def client(name: str) -> Client:
    return Client(name)
