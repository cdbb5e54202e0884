"""Every worker and every orchestrator says that it is there, and what it is: registration under a boot id, and heartbeats."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.platforms import EX_OK
from celery.worker import state

from avtomatika.broker.consumer import selected_queues
from avtomatika.broker.control import stop_tasks
from avtomatika.broker.queues import ORCHESTRATOR
from avtomatika.broker.slots import SlotGate
from avtomatika.errors import ConfigurationError, RegistrationError, StoreUnavailableError
from avtomatika.holdings import Reconciler, holdings
from avtomatika.jobs import WorkerRecord
from avtomatika.state.base import CommitResult
from avtomatika.worker.facts import find_facts
from avtomatika.worker.heartbeat import Heartbeat
from avtomatika.worker.pool import AsyncPool
from avtomatika.worker.sdk import capabilities_of, declared

if TYPE_CHECKING:
    from avtomatika.history import Archive
    from avtomatika.runtime import Runtime

logger = logging.getLogger(__name__)

START_SECONDS = 60.0


class Description:
    """What this process is, as its record says it: fixed at the start, but for load, models and what follows from them."""

    def __init__(self, runtime: Runtime, selected: list[str] | None) -> None:
        """
        Args:
            selected: what was given with -Q; None where it was not given.

        Raises:
            RegistrationError: WORKER_RESOURCES or WORKER_INSTALLED_MODELS does not fit.
        """
        self._runtime = runtime
        merged, settings = declared(), runtime.settings
        capabilities = {name: c.limit for name, c in capabilities_of(selected).items() if name != ORCHESTRATOR}
        self._capability_of = {task: merged.capability_of(task) for task in sorted(merged.tasks)}
        tasks = tuple(task for task, capability in self._capability_of.items() if capability in capabilities)
        self.orchestrates = selected is not None and ORCHESTRATOR in selected
        facts = find_facts(merged, settings)
        self._fixed: dict[str, Any] = {
            "id": runtime.worker_id,
            "boot_id": runtime.boot_id,
            "type": ORCHESTRATOR if self.orchestrates and not tasks else facts.worker_type,
            "tasks": tasks,
            "capabilities": capabilities,
            "max_concurrent_tasks": merged.max_concurrent_tasks if tasks else 0,
            "skill_dependencies": {task: models for task, models in merged.skill_dependencies.items() if task in tasks},
            "installed_models": facts.installed_models,
            "cost_per_second": facts.cost_per_second,
            "cost_per_skill": {task: cost for task, cost in merged.cost_per_skill.items() if task in tasks},
            "resources": facts.resources,
            "software": facts.software,
        }
        self._registered_at = 0.0

    def arrives(self) -> None:
        """From now on it counts as registered."""
        self._registered_at = self._runtime.clock()

    def record(self) -> WorkerRecord:
        """As it is now. Quick: nothing is looked up on the machine."""
        fixed = self._fixed
        capabilities: dict[str, int] = fixed["capabilities"]
        gate = SlotGate.current
        load = {name: taken for name, taken in gate.load().items() if name in capabilities} if gate is not None else {}
        full = {name for name, limit in capabilities.items() if load.get(name, 0) >= limit}
        most = fixed["max_concurrent_tasks"]
        busy = bool(capabilities) and (len(full) == len(capabilities) or 0 < most <= sum(load.values()))
        hot_cache = self._runtime.hot_cache
        return WorkerRecord(
            **fixed,
            status="busy" if busy else "idle",
            supported_tasks=tuple(task for task in fixed["tasks"] if self._capability_of[task] not in full),
            load=load,
            hot_cache=tuple(hot_cache),
            load_times=hot_cache.load_times,
            registered_at=self._registered_at,
            seen_at=self._runtime.clock(),
        )


class Presence(bootsteps.StartStopStep):
    """What the process says of itself, from `arrive` to its end."""

    requires = ("celery.worker.components:Pool",)

    _beating: Future[None] | None = None
    _leaves_at_stop: Runtime | None = None
    _description: Description
    _archive: Archive | None = None

    def start(self, worker: Any) -> None:
        runtime: Runtime = worker.app.runtime
        runtime.worker_id = worker.hostname
        worker.presence = self
        try:
            self._description = Description(runtime, selected_queues(worker.app))
            if self._description.orchestrates and runtime.settings.history_database_uri is not None:
                from avtomatika.history import open_archive

                self._archive = open_archive(runtime.settings)
        except (ConfigurationError, RegistrationError) as exc:
            raise _refused(exc) from exc

    def arrive(self, worker: Any) -> None:
        """Registers, once, when the worker is about to fetch: no task could start here before, no claim may be made before it."""
        if self._beating is not None:
            return
        runtime: Runtime = worker.app.runtime
        description = self._description
        description.arrives()
        heartbeat = Heartbeat(runtime, description.record, stop_tasks, _stop_worker)
        try:
            record = runtime.run(self._arrive(heartbeat, runtime), START_SECONDS)
        except (RegistrationError, StoreUnavailableError) as exc:
            raise _refused(exc) from exc
        logger.info(
            "registered as %s: %s", record.id, ", ".join(record.tasks) or record.type,
            extra={"action": "register", "worker_id": record.id},
        )  # fmt: skip
        runtime.hot_cache.on_change = heartbeat.changed
        if SlotGate.current is not None:
            SlotGate.current.on_change = heartbeat.changed
        self._beating = asyncio.run_coroutine_threadsafe(heartbeat.run(), runtime.loop)
        if AsyncPool.current is not None:  # under Celery's own pools others may hold what is claimed under this boot
            self._reconcile(runtime)
        if description.orchestrates:
            self._watch(runtime)
            self._record(runtime)
        at_stop = getattr(worker.pool, "at_stop", None)
        if at_stop is not None:
            at_stop(lambda: self._leave(runtime))
        else:
            self._leaves_at_stop = runtime

    def stop(self, worker: Any) -> None:
        """Under one of Celery's own pools, which have no farewell: the process leaves here."""
        if self._leaves_at_stop is not None:
            self._leaves_at_stop.run(self._leave(self._leaves_at_stop), 2.0)

    terminate = stop

    @staticmethod
    async def _arrive(heartbeat: Heartbeat, runtime: Runtime) -> WorkerRecord:
        """Registers. A store that is still starting is waited for."""
        wait = 0.1
        while True:
            try:
                await runtime.store.synchronise()  # first: every time that this process says is the store's
                return await heartbeat.register()
            except StoreUnavailableError as exc:
                logger.warning("registration waits for the store: %s", exc, extra={"action": "register"})
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)

    @staticmethod
    def _reconcile(runtime: Runtime) -> None:
        async def after(done: CommitResult) -> None:
            await runtime.publisher.flush(done.outbox)

        reconciler = Reconciler(runtime.store, holdings(), runtime.boot_id, after, stop_tasks, runtime.clock)
        asyncio.run_coroutine_threadsafe(reconciler.run(runtime.settings.heartbeat), runtime.loop)

    @staticmethod
    def _watch(runtime: Runtime) -> None:
        from avtomatika.broker.probe import BrokerProbe
        from avtomatika.engine.schedules import Scheduler
        from avtomatika.engine.watcher import Watcher

        watcher = Watcher(runtime.engine, BrokerProbe(runtime.app), Scheduler(runtime.engine, runtime.schedules))
        asyncio.run_coroutine_threadsafe(watcher.run(), runtime.loop)

    def _record(self, runtime: Runtime) -> None:
        if self._archive is None:
            logger.info("no history is written: HISTORY_DATABASE_URI is not set", extra={"action": "history_off"})
            return
        from avtomatika.engine.historian import Historian

        asyncio.run_coroutine_threadsafe(Historian(runtime.engine, self._archive).run(), runtime.loop)

    async def _leave(self, runtime: Runtime) -> None:
        if self._beating is not None:
            self._beating.cancel()
        done = await runtime.store.unregister(runtime.worker_id, runtime.boot_id, runtime.clock())
        await runtime.publisher.flush(done.outbox)


def _stop_worker() -> None:
    """A warm shutdown, begun by Celery's own loop at its next turn."""
    state.should_stop = EX_OK  # no failure: whoever restarts failed processes is not to start it against its successor


def _refused(exc: Exception) -> SystemExit:
    logger.critical("the worker cannot start: %s", exc, extra={"action": "register"})
    return SystemExit(1)


class Arrival(bootsteps.StartStopStep):
    """Registers the process when its consumer starts, which is after Celery has waited for its neighbours' answers."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        c.controller.presence.arrive(c.controller)
