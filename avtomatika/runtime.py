"""What one process holds: its boot id, its store, its engine, and the event loop they live on."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine
from functools import cached_property, partial
from typing import Any, TypeVar

from celery import Celery

from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.control import tell_stops
from avtomatika.broker.publisher import Publisher
from avtomatika.broker.redis import prepare_push
from avtomatika.compiler import Compiler
from avtomatika.discovery import load_blueprints
from avtomatika.engine.results import Engine
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import new_id
from avtomatika.loops import new_event_loop
from avtomatika.operations.blueprint import operation
from avtomatika.schedules.file import ScheduleBook
from avtomatika.settings import Settings
from avtomatika.state.clock import StoreClock
from avtomatika.state.redis import RedisStore, connect
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.sdk import declared

logger = logging.getLogger(__name__)

T = TypeVar("T")


def open_store(settings: Settings, patience: float | None = None, clock: StoreClock | None = None) -> RedisStore:
    """The store of these settings; it connects at first use. Where broker and state are one Redis, commits publish, too.

    Args:
        patience, clock: see `RedisBase`.
    """
    return RedisStore(
        connect(settings.state_url),
        settings.namespace,
        push=prepare_push if settings.broker_is_state else None,
        retention=settings.job_retention_seconds,
        stream_length=settings.event_stream_length,
        snapshots=settings.history_database_uri is not None,
        patience=patience,
        clock=clock,
    )


async def pin_declared(settings: Settings) -> None:
    """Pins the tasks that this process declares to their capabilities. A store that is still starting is waited for."""
    tasks = {task.name: task.capability for task in declared().tasks.values()}
    store = open_store(settings)
    wait = 0.1
    try:
        while True:
            try:
                declared().pinned.update(await store.pin_tasks(tasks))
                return
            except StoreUnavailableError as exc:
                logger.warning("the worker waits for the store: %s", exc, extra={"action": "start"})
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
    finally:
        await store.close()


class Runtime:
    """One a process. Everything in it belongs to one event loop: the pool's, or a thread of its own.

    Attributes:
        clock: the store's time; what this process says to the store is said in it.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.boot_id = new_id()
        self.worker_id = ""
        self.clock = StoreClock()
        self.hot_cache = hot_cache()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A forked child must not share its parent's sockets or loop; it keeps the boot id, whose claims it makes."""
        for name in ("store", "publisher", "engine"):
            self.__dict__.pop(name, None)
        self._loop = None
        self._lock = threading.Lock()

    @cached_property
    def compiler(self) -> Compiler:
        return Compiler(self.app)

    @cached_property
    def blueprints(self) -> BlueprintRegistry:
        found = load_blueprints(self.settings.blueprints_dir)
        found.register(operation)
        return found

    @cached_property
    def schedules(self) -> ScheduleBook:
        return ScheduleBook(self.settings, self.blueprints)

    @cached_property
    def store(self) -> RedisStore:
        return open_store(self.settings, clock=self.clock)

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(self.app, self.store)

    @cached_property
    def engine(self) -> Engine:
        return Engine(
            store=self.store,
            compiler=self.compiler,
            publisher=self.publisher,
            blueprints=self.blueprints,
            settings=self.settings,
            boot_id=self.boot_id,
            clock=self.clock,
            stop=partial(tell_stops, self.app),
        )

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The pool's loop where our pool runs, else one in a thread of its own."""
        from avtomatika.worker.pool import AsyncPool

        if AsyncPool.current is not None:
            return AsyncPool.current.loop
        with self._lock:
            if self._loop is None:
                self._loop = new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="avtomatika-loop", daemon=True).start()
            return self._loop

    def run(self, coro: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine on the process's loop and waits for it; never call it from that loop."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result(timeout)
