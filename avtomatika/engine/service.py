"""What the facade, the client side of the command line and tests do with jobs: create, decide, read."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection

from celery import Celery

from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.engine.draft import new_job_commit
from avtomatika.engine.results import Engine
from avtomatika.engine.steps import start_state
from avtomatika.errors import WrongStateError
from avtomatika.jobs import JSON, Client, Job, new_id
from avtomatika.settings import Settings
from avtomatika.state.base import Store, TaskRecord

IDEMPOTENCY_SECONDS = 24 * 3600


class Service:
    """
    Attributes:
        store: for reading.
        blueprints: those of BLUEPRINTS_DIR.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.store: Store = engine.store
        self.blueprints: BlueprintRegistry = engine.blueprints

    async def create(
        self,
        blueprint_name: str,
        initial_data: JSON,
        *,
        client: Client | None = None,
        priority: float = 0.0,
        tags: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Job:
        """Stores a new job together with the message that starts it; when this returns, the job cannot be lost.

        Raises:
            UnknownBlueprintError: no such blueprint here.
            WrongStateError: the idempotency key was used for another request.
            StoreUnavailableError: nothing was stored.
        """
        blueprint = self.blueprints.get(blueprint_name)
        client = client or Client()
        job_id = new_id()
        if idempotency_key is not None:
            job_id = await self._first(client, idempotency_key, job_id, [blueprint_name, initial_data, priority, sorted(tags)])
            known = await self.store.load(job_id)
            if known is not None:
                return known
        now = time.time()
        job = Job(
            id=job_id,
            blueprint_name=blueprint.name,
            current_state=start_state(blueprint),
            initial_data=initial_data,
            client=client,
            priority=priority,
            tags=tuple(tags),
            created_at=now,
            updated_at=now,
        )
        done = await self.store.commit(new_job_commit(job, self._engine.compiler, now))
        if not done.applied:  # the same idempotent request at the same time
            return await self.store.load(job_id) or job
        await self._engine.after(done)
        return job

    async def _first(self, client: Client, key: str, job_id: str, request: list[object]) -> str:
        body = json.dumps(request, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        first, first_job = await self.store.remember_request(client.name, key, digest, job_id, IDEMPOTENCY_SECONDS)
        if first != digest:
            raise WrongStateError(
                f"Idempotency-Key {key!r} was used for another request (job {first_job}); use a new key for a new request"
            )
        return first_job

    async def decide(self, job_id: str, decision: str, comment: str | None = None, who: str = "") -> Job:
        """A person's decision; see Engine.decide."""
        return await self._engine.decide(job_id, decision, comment=comment, who=who)

    async def explain(self, record: TaskRecord) -> JSON:
        """Why a task waits, as things are now; see Dispatcher.explain."""
        return await self._engine.dispatcher.explain(record)

    async def close(self) -> None:
        await self._engine.dispatcher.settled()
        await self.store.close()


async def open_service(settings: Settings, app: Celery | None = None) -> Service:
    """A service for these settings. Without an app, one is made that only publishes."""
    from avtomatika.celery import configuration
    from avtomatika.runtime import Runtime

    if app is None:
        app = Celery("avtomatika", set_as_current=False)
        app.conf.update(configuration(settings))
    runtime = Runtime(app, settings)
    runtime.worker_id = f"service-{os.getpid()}"
    return Service(runtime.engine)
