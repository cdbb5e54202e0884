"""The facade over a memory store. Only the service is a stand-in: it creates jobs in the store and runs nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.api.app import create_app, make_runner
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.engine.explain import explain
from avtomatika.errors import WrongStateError
from avtomatika.jobs import Client, Event, Job, new_id
from avtomatika.settings import Settings, read_settings
from avtomatika.state.base import Commit, TaskRecord
from avtomatika.state.memory import MemoryStore
from tests.support.lent import lend

TOKEN = "a-client-token"
HEADERS = {"X-Avtomatika-Token": TOKEN}


def make_blueprint(name: str = "hello", version: str | None = "v1", endpoint: str | None = "/hello") -> Blueprint:
    blueprint = Blueprint(name, api_version=version, api_endpoint=endpoint)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions):
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end():
        return {}

    return blueprint


@dataclass
class StoringService:
    """What the facade needs of the service, without an engine."""

    store: MemoryStore = field(default_factory=MemoryStore)
    blueprints: BlueprintRegistry = field(default_factory=BlueprintRegistry)
    decisions: list[tuple[str, str, str | None, str]] = field(default_factory=list)
    keys: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    fault: BaseException | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        lend(self)

    async def create(
        self,
        blueprint_name: str,
        initial_data: dict[str, Any],
        client: Client,
        priority: float = 0.0,
        tags: tuple[str, ...] = (),
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        repeated: Callable[[], None] = lambda: None,
    ) -> Job:
        if self.fault is not None:
            raise self.fault
        blueprint = self.blueprints.get(blueprint_name)
        if idempotency_key in self.keys:
            job_id, data = self.keys[idempotency_key]
            if data != initial_data:
                raise WrongStateError("this Idempotency-Key belongs to another body")
            found = await self.store.load(job_id)
            assert found is not None
            repeated()
            return found
        now = time.time()
        job = Job(new_id(), blueprint.name, blueprint.start_state, created_at=now, updated_at=now)
        job = replace(job, initial_data=initial_data, client=client, priority=priority, tags=tuple(tags))
        job = replace(job, webhook_url=webhook_url)
        event = Event(f"{job.id}:0:0", job.id, "job_created", now, state=job.current_state)
        await self.store.commit(Commit(job, None, events=(event,)))
        if idempotency_key is not None:
            self.keys[idempotency_key] = (job.id, initial_data)
        return job

    @staticmethod
    def clock() -> float:
        return time.time()

    async def decide(self, job_id: str, decision: str, comment: str | None = None, who: str = "") -> None:
        self.decisions.append((job_id, decision, comment, who))

    async def explain(self, record: TaskRecord) -> dict[str, Any]:
        return await explain(self.store, record, time.time(), 30.0)

    async def flush(self) -> None:
        await self.store.flush()

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def settings() -> Settings:
    return read_settings(client_token=TOKEN, redis_url="redis://127.0.0.1:1/0", body_limit_mb=0.01)


@pytest.fixture
def service() -> StoringService:
    service = StoringService()
    service.blueprints.register(make_blueprint())
    service.blueprints.register(make_blueprint("inner", None, None))
    return service


class Server(TestServer):
    """Serves as the facade does."""

    async def _make_runner(self, **kwargs: Any) -> web.AppRunner:
        return make_runner(self.app)


Opener = Callable[[StoringService, Settings], Awaitable[TestClient[Any, Any]]]


@pytest.fixture
async def facade(service: StoringService, settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(Server(create_app(service, settings)), headers=HEADERS) as client:
        yield client
