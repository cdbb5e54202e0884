"""What the facade, the client side of the command line and tests do with jobs: create, decide, read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace

from celery import Celery

from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.fetch import Fetcher, open_fetcher
from avtomatika.broker.hub import PullHub
from avtomatika.broker.probe import BrokerProbe
from avtomatika.broker.queues import ORCHESTRATOR, direct_queue_name, queue_name
from avtomatika.engine.approvals import decide, decide_by_token
from avtomatika.engine.deploys import Deploys
from avtomatika.engine.draft import new_job, new_job_commit
from avtomatika.engine.orders import Orders
from avtomatika.engine.quarantine import Quarantine
from avtomatika.engine.remote import RemoteWorkers
from avtomatika.engine.results import Engine
from avtomatika.engine.webhooks import webhook_of
from avtomatika.errors import StoreUnavailableError, WrongStateError
from avtomatika.jobs import JSON, Client, Job, JobStatus, new_id
from avtomatika.settings import Settings
from avtomatika.state.base import News, Store, TaskRecord
from avtomatika.state.listed import LISTED

IDEMPOTENCY_SECONDS = 24 * 3600
#: People wait for the facade: it says within two seconds that the store is away.
STORE_PATIENCE_SECONDS = 1.8


class Service:
    """
    Attributes:
        store: for reading.
        blueprints: those of BLUEPRINTS_DIR.
        orders: cancel, pause, resume, retry, quarantine, discard.
        quarantine: lists, and orders to many.
        deploys: jobs of older versions of the blueprints.
        remote: the HTTP workers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.store: Store = engine.store
        self.settings: Settings = engine.settings
        self.blueprints: BlueprintRegistry = engine.blueprints
        self.orders = Orders(engine)
        self.deploys = Deploys(engine, self.orders)
        self.quarantine = Quarantine(engine.store, self.orders, lambda: engine.clock())
        self.remote = RemoteWorkers(engine)

    async def create(
        self,
        blueprint_name: str,
        initial_data: JSON,
        *,
        client: Client | None = None,
        priority: float = 0.0,
        tags: Collection[str] = (),
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        repeated: Callable[[], None] = lambda: None,
    ) -> Job:
        """Stores a new job together with the message that starts it; when this returns, the job cannot be lost.

        One of a blueprint that is held back (`ListedStore.hold`) is stored paused.

        Args:
            webhook_url: who is told of its end; None means the client's own, where it has one.
            repeated: called where the same idempotent request has made the job before.

        Raises:
            UnknownBlueprintError: no such blueprint here.
            OperationError: a queue task that does not fit, or that its client may not run.
            WrongStateError: the idempotency key was used for another request.
            StoreUnavailableError: nothing was stored.
        """
        blueprint = self.blueprints.get(blueprint_name)
        client = client or Client()
        # As it was asked for: a repetition is one, whatever an admission would make of it by now.
        request = [blueprint_name, initial_data, priority, sorted(tags), *([webhook_url] if webhook_url else [])]
        if blueprint.admit is not None:  # which may read files, and wait for a lock on the audit's
            initial_data = await asyncio.to_thread(blueprint.admit, {"priority": priority, **initial_data}, client, self.settings)
            priority = initial_data["priority"]
        job_id = new_id()
        if idempotency_key is not None:
            job_id = await self._first(client, idempotency_key, job_id, request)
            known = await self.store.load(job_id)
            if known is not None:
                repeated()
                return known
        now = self.clock()
        job = new_job(
            blueprint,
            self.settings,
            now,
            id=job_id,
            initial_data=initial_data,
            client=client,
            priority=priority,
            tags=tuple(tags),
            webhook_url=webhook_of(webhook_url, client),
        )
        stored, is_new = await self._store_new(job)
        if not is_new:  # the same idempotent request at the same time
            repeated()
        return stored

    async def _store_new(self, job: Job) -> tuple[Job, bool]:
        """Stores a new job, paused while its blueprint is held back; or gives the one that has its id already, and false."""
        while True:
            hold = await self.store.held(job.blueprint_name) if job.blueprint_name in LISTED else None
            # One that is stored as if nothing held it, and just too late, is held by the engine (`Engine.step`).
            made = job if hold is None else _paused(job)
            done = await self.store.commit(replace(new_job_commit(made, self._engine.compiler, job.created_at), hold=hold))
            if done.applied:
                await self._engine.after(done)
                return made, True
            known = await self.store.load(job.id)
            if known is not None or hold is None:
                return known or made, False
            # else it is held no more, or by another one

    def clock(self) -> float:
        """Now, as every process of this installation counts it."""
        return self._engine.clock()

    @property
    def _remembered(self) -> float:
        """How long an idempotency key is kept: never longer than the job that it stands for."""
        return min(IDEMPOTENCY_SECONDS, self.settings.job_retention_seconds)

    async def _first(self, client: Client, key: str, job_id: str, request: list[object]) -> str:
        body = json.dumps(request, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        first, first_job = await self.store.remember_request(client.name, key, digest, job_id, self._remembered)
        if first != digest:
            raise WrongStateError(
                f"Idempotency-Key {key!r} was used for another request (job {first_job}); use a new key for a new request"
            )
        return first_job

    async def decide(self, job_id: str, decision: str, comment: str | None = None, who: str = "") -> Job:
        """A person's decision; see approvals.decide."""
        return await decide(self._engine, job_id, decision, comment=comment, who=who)

    def make_hub(
        self,
        on_stop: Callable[[News], Awaitable[None]],
        on_resumed: Callable[[], Awaitable[None]],
        fetcher: Fetcher | None = None,
    ) -> PullHub:
        """A hub for polls of HTTP workers, not started yet; see `PullHub`."""
        engine = self._engine
        return PullHub(
            store=engine.store,
            fetcher=fetcher or open_fetcher(engine.compiler.app, engine.settings),
            compiler=engine.compiler,
            publish=engine.publisher.flush,
            settings=engine.settings,
            capability_of=engine.capability_of,
            on_cancelled=self.remote.never_ran,
            on_stop=on_stop,
            on_resumed=on_resumed,
            clock=self.clock,
        )

    async def has_socket(self, worker_id: str | None, *, shared: bool) -> bool:
        """Whether some facade holds a WebSocket by which this worker is told to stop.

        Args:
            shared: one of the global token hears its orders, too.
        """
        return worker_id is not None and await self.store.has_socket(worker_id, self.clock(), shared=shared)

    async def decide_by_token(self, job_id: str, decision: str, token: str, comment: str | None = None) -> Job:
        """The decision of whoever has the question's token; see `engine.approvals.decide_by_token`."""
        return await decide_by_token(self._engine, job_id, decision, token, comment)

    async def explain(self, record: TaskRecord) -> JSON:
        """Why a task waits, as things are now; see Dispatcher.explain."""
        return await self._engine.dispatcher.explain(record)

    async def flush(self) -> None:
        """Deletes all jobs, tasks and workers of this namespace, and what lies in the queues of this prefix."""
        names = {queue_name(ORCHESTRATOR)}
        for task, capability in (await self.store.capabilities()).items():
            names |= {queue_name(capability), queue_name(capability, task)}
        for record in await self.store.workers(self.clock()):
            names |= {direct_queue_name(record.id, capability) for capability in record.capabilities}
        await BrokerProbe(self._engine.compiler.app).purge(sorted(names))
        await self.store.flush()

    async def close(self) -> None:
        await self._engine.dispatcher.settled()
        await self.store.close()


def _paused(job: Job) -> Job:
    """A new job of a blueprint that is held: its time stands still as well."""
    left = None if job.deadline_at is None else job.deadline_at - job.created_at
    return replace(job, status=JobStatus.PAUSED, time_left=left, deadline_at=None)


async def open_service(
    settings: Settings,
    app: Celery | None = None,
    *,
    blueprints: BlueprintRegistry | None = None,
    patience: float = STORE_PATIENCE_SECONDS,
) -> Service:
    """A service for these settings.

    Args:
        app: without one, one is made that only publishes.
        blueprints: in place of those of BLUEPRINTS_DIR.
        patience: seconds after which a call that the store has not answered fails.
    """
    from avtomatika.celery import configuration
    from avtomatika.runtime import Runtime, open_store

    if app is None:
        app = Celery("avtomatika", set_as_current=False)
        app.conf.update(configuration(settings))
    runtime = Runtime(app, settings)
    runtime.worker_id = f"service-{os.getpid()}"
    runtime.store = open_store(settings, patience, runtime.clock)
    with suppress(StoreUnavailableError):  # the first call that it answers will do
        await runtime.store.synchronise()
    if blueprints is not None:
        runtime.blueprints = blueprints
    return Service(runtime.engine)
