"""A real facade over HTTP for the commands that talk to one; jobs lie in a memory store."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from avtomatika.api.app import create_app
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.cli.main import main
from avtomatika.engine.explain import explain
from avtomatika.jobs import Client, Event, Job, JobStatus, WorkerRecord, new_id
from avtomatika.settings import get_settings, read_settings
from avtomatika.state.base import Commit, Reputation, TaskRecord
from avtomatika.state.memory import MemoryStore
from tests.support.lent import lend

TOKEN = "the-token"
Run = Callable[..., Result]
T = TypeVar("T")


class EndingService:
    """Creates jobs that are over at once, as their initial data say."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.decisions: list[tuple[str, str, str | None, str]] = []
        self.blueprints = BlueprintRegistry()
        blueprint = Blueprint("hello")
        blueprint.handler_for("start", is_start=True, is_end=True)(lambda: None)
        self.blueprints.register(blueprint)
        lend(self)

    @staticmethod
    def clock() -> float:
        return time.time()

    async def create(
        self,
        blueprint_name: str,
        initial_data: dict[str, str],
        client: Client,
        priority: float = 0.0,
        tags: tuple[str, ...] = (),
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        repeated: Callable[[], None] = lambda: None,
    ) -> Job:
        blueprint, now = self.blueprints.get(blueprint_name), time.time()
        status = JobStatus(initial_data.get("status", "finished"))
        job = Job(
            new_id(),
            blueprint.name,
            "start",
            status=status,
            initial_data=initial_data,
            result={"greeting": "hello"},
            error_message="it broke" if status is JobStatus.FAILED else None,
            tags=tuple(tags),
            created_at=now,
            updated_at=now,
        )
        await self.store.commit(Commit(job, None, events=(Event(f"{job.id}:0:0", job.id, "job_created", now, state="start"),)))
        return job

    async def decide(self, job_id: str, decision: str, comment: str | None = None, who: str = "") -> None:
        self.decisions.append((job_id, decision, comment, who))

    async def explain(self, record: TaskRecord) -> dict[str, Any]:
        return await explain(self.store, record, time.time(), 30.0)

    async def close(self) -> None:
        pass


@dataclass
class Served:
    url: str
    service: EndingService


@dataclass
class Here:
    """A facade in a thread of its own."""

    url: str
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something where the facade runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


@contextmanager
def serving(make: Callable[[], Coroutine[Any, Any, Any]]) -> Iterator[Here]:
    """Serves a service that is made on the facade's own loop."""
    loop = asyncio.new_event_loop()

    async def start() -> tuple[web.AppRunner, str]:
        runner = web.AppRunner(create_app(await make(), read_settings(client_token=TOKEN)), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    runner, url = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    here = Here(url, loop)
    yield here
    here.do(runner.cleanup())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def facade() -> Iterator[Served]:
    service = EndingService()

    async def make() -> EndingService:
        record = WorkerRecord(
            "worker-1@here",
            "boot",
            tasks=("draw", "paint"),
            supported_tasks=("draw", "paint"),
            capabilities={"gpu": 1},
            hot_cache=("m1",),
            skill_dependencies={"paint": ["m1"]},
            cost_per_second=0.5,
            cost_per_skill={"paint": 2.0},
        )
        await service.store.register(record, time.time(), 600)
        await service.store.set_reputation(record.id, Reputation(0.75, 20))
        return service

    with serving(make) as here:
        yield Served(here.url, service)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command in an empty folder, without this machine's settings."""
    for name in (
        "CLIENT_TOKEN",
        "AVTOMATIKA_URL",
        "REDIS_URL",
        "BROKER_URL",
        "BLUEPRINTS_DIR",
        "WORKERS_DIR",
        "HISTORY_DATABASE_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()

    def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(main, arguments, env=env)

    yield invoke
    get_settings.cache_clear()
