"""Every worker and every orchestrator says that it is there: registration under a boot id, and a heartbeat."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from avtomatika.broker.consumer import selected_queues
from avtomatika.broker.queues import ORCHESTRATOR
from avtomatika.broker.slots import SlotGate
from avtomatika.errors import RegistrationError, StoreUnavailableError
from avtomatika.jobs import WorkerRecord
from avtomatika.worker.sdk import capabilities_of, declared

if TYPE_CHECKING:
    from avtomatika.runtime import Runtime

logger = logging.getLogger(__name__)

START_SECONDS = 60.0


class Presence(bootsteps.StartStopStep):
    """Registers before the first fetch, so that a claim always belongs to a boot that somebody watches."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self._worker = worker
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        runtime: Runtime = worker.app.runtime
        runtime.worker_id = worker.hostname
        selected = selected_queues(worker.app)
        orchestrates = selected is not None and ORCHESTRATOR in selected
        try:
            runtime.run(self._arrive(runtime, selected, orchestrates), START_SECONDS)
        except (RegistrationError, StoreUnavailableError) as exc:
            logger.critical("the worker cannot start: %s", exc, extra={"action": "register"})
            raise SystemExit(1) from exc
        self._beating = asyncio.run_coroutine_threadsafe(self._beat(runtime, selected, orchestrates), runtime.loop)
        if orchestrates:
            self._watch(runtime)
        at_stop = getattr(worker.pool, "at_stop", None)
        if at_stop is not None:
            at_stop(lambda: self._leave(runtime))
        else:
            self._leaves_at_stop = runtime

    _beating: Future[None] | None = None
    _leaves_at_stop: Runtime | None = None

    def stop(self, worker: Any) -> None:
        """Under one of Celery's own pools, which have no farewell: the process leaves here."""
        if self._leaves_at_stop is not None:
            self._leaves_at_stop.run(self._leave(self._leaves_at_stop), 2.0)

    terminate = stop

    async def _arrive(self, runtime: Runtime, selected: list[str] | None, orchestrates: bool) -> None:
        """Registers. A store that is still starting is waited for."""
        wait = 0.1
        while True:
            try:
                await self._register(runtime, selected, orchestrates)
                return
            except StoreUnavailableError as exc:
                logger.warning("registration waits for the store: %s", exc, extra={"action": "register"})
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)

    async def _register(self, runtime: Runtime, selected: list[str] | None, orchestrates: bool) -> None:
        record = self._record(runtime, selected, orchestrates)
        await runtime.store.register(record, record.registered_at, runtime.settings.silence)
        logger.info(
            "registered as %s: %s", record.id, ", ".join(record.supported_tasks) or record.type,
            extra={"action": "register", "worker_id": record.id},
        )  # fmt: skip

    def _record(self, runtime: Runtime, selected: list[str] | None, orchestrates: bool) -> WorkerRecord:
        merged = declared()
        capabilities = {n: c.limit for n, c in capabilities_of(selected).items() if n != ORCHESTRATOR}
        tasks = [task for task in merged.tasks if merged.capability_of(task) in capabilities]
        kinds = sorted({w.worker_type for w in merged.workers}) or ["worker"]
        gate = SlotGate.current
        load = {n: c for n, c in gate.load().items() if n in capabilities} if gate is not None else {}
        taken = [load.get(n, 0) >= limit for n, limit in capabilities.items()]
        full = bool(taken) and (all(taken) or sum(load.values()) >= merged.max_concurrent_tasks)
        now = time.time()
        return WorkerRecord(
            id=runtime.worker_id,
            boot_id=runtime.boot_id,
            type=ORCHESTRATOR if orchestrates and not tasks else ",".join(kinds),
            status="busy" if full else "idle",
            supported_tasks=tuple(sorted(tasks)),
            capabilities=capabilities,
            max_concurrent_tasks=merged.max_concurrent_tasks if tasks else 0,
            load=load,
            hot_cache=tuple(sorted(runtime.hot_cache)),
            skill_dependencies=merged.skill_dependencies,
            resources={"cpu_cores": os.cpu_count() or 1},
            software={"python": platform.python_version(), "pid": os.getpid()},
            registered_at=now,
            seen_at=now,
        )

    async def _beat(self, runtime: Runtime, selected: list[str] | None, orchestrates: bool) -> None:
        """Until cancelled. Whatever goes wrong with one heartbeat, the next one comes: silence means death."""
        settings = runtime.settings
        while True:
            await asyncio.sleep(settings.heartbeat)
            try:
                record = self._record(runtime, selected, orchestrates)
                known = await runtime.store.heartbeat(record.id, record.boot_id, record.seen_at, settings.silence, record)
                if not known:
                    logger.warning("this process was counted as dead; it registers again", extra={"action": "register"})
                    await self._register(runtime, selected, orchestrates)
            except StoreUnavailableError as exc:
                logger.warning("a heartbeat is lost: %s", exc, extra={"action": "heartbeat"})
            except Exception:
                logger.exception("a heartbeat failed", extra={"action": "heartbeat"})

    @staticmethod
    def _watch(runtime: Runtime) -> None:
        from avtomatika.broker.probe import BrokerProbe
        from avtomatika.engine.watcher import Watcher

        watcher = Watcher(runtime.engine, BrokerProbe(runtime.app))
        asyncio.run_coroutine_threadsafe(watcher.run(), runtime.loop)

    async def _leave(self, runtime: Runtime) -> None:
        if self._beating is not None:
            self._beating.cancel()
        await runtime.store.unregister(runtime.worker_id, runtime.boot_id)
