"""One worker process over HTTP: registered with its orchestrators, pulling from them, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from avtomatika.errors import ConfigurationError
from avtomatika.loops import new_event_loop
from avtomatika.results import JSON
from avtomatika.settings import Settings
from avtomatika.worker import models
from avtomatika.worker.facts import Facts, find_facts
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.http.client import Client, Task
from avtomatika.worker.http.config import Config, Orchestrator
from avtomatika.worker.http.health import Health
from avtomatika.worker.http.link import Link
from avtomatika.worker.http.outbox import Outbox
from avtomatika.worker.http.puller import Puller
from avtomatika.worker.http.runs import Runs
from avtomatika.worker.http.slots import Slots
from avtomatika.worker.http.socket import Socket
from avtomatika.worker.http.spool import Entry, Spool, default_root
from avtomatika.worker.process import ProcessRunner
from avtomatika.worker.sdk import Declared
from avtomatika.worker.threads import DaemonThreads

logger = logging.getLogger(__name__)

#: At a stop: for orchestrators to hear of it, for cancelled tasks to clean up, and for results to be delivered.
FAREWELL_SECONDS = 1.0
CANCEL_SECONDS = 1.75
FLUSH_SECONDS = 3.0
LEAVE_SECONDS = 0.5
PLAIN_THREADS = 256


class HTTPWorker:
    """Of one event loop. `run` returns when `stop` was called and everything is in order."""

    def __init__(self, config: Config, merged: Declared, settings: Settings) -> None:
        """Raises RegistrationError or ConfigurationError where what is declared or set does not fit."""
        if not merged.tasks:
            raise ConfigurationError("this process declares no task: decorate a function with @worker.task, or check WORKERS_DIR")
        self._config = config
        self._merged = merged
        self._facts: Facts = find_facts(merged, settings)
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._refused = asyncio.Event()
        self._slots = Slots(merged, self._changed)
        self._runs: Runs
        self._links: list[Link] = []
        self._sockets: dict[str, Socket] = {}
        self._puller: Puller | None = None

    def stop(self) -> None:
        """Takes no new task and lets running ones end, within the grace; called again, it ends them at once."""
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    async def run(self) -> None:
        """Raises ConfigurationError where no orchestrator lets this worker in."""
        loop = asyncio.get_running_loop()
        config = self._config
        loop.set_default_executor(DaemonThreads(max(PLAIN_THREADS, self._merged.max_concurrent_tasks), "plain"))
        spool = Spool(config.spool_dir or default_root(), config.worker_id, config.family)
        async with AsyncExitStack() as stack:
            stack.callback(spool.close)
            left = spool.entries()
            self._runs = Runs(self._merged, self._slots, config.worker_id, [entry.task_id for entry in left])
            for orchestrator in config.orchestrators:
                stack.push_async_callback(self._add(orchestrator, spool, left).close)
            _warn_of_strays(left, config)
            _live_on(loop, self._changed)
            stack.callback(_live_on, None, None)
            self._puller = Puller(
                self._links,
                [orchestrator.rank for orchestrator in config.orchestrators],
                self._slots,
                self._start,
                backlog=max(8, 2 * self._merged.max_concurrent_tasks),
            )
            if config.health_port is not None:
                health = Health(config.worker_id, self._links, lambda: self._runs.running, config.heartbeat_seconds)
                await stack.enter_async_context(health.serve(config.health_host, config.health_port))
            await self._work(self._puller)

    def _add(self, orchestrator: Orchestrator, spool: Spool, left: list[Entry]) -> Client:
        client = Client(orchestrator, self._config.worker_id)
        outbox = Outbox(client, spool, [entry for entry in left if entry.url == client.url], self._changed)
        link = Link(
            client,
            outbox,
            describe=self._describe,
            state=self._state,
            cancel=self._runs.cancel,
            on_change=self._changed,
            interval=self._config.heartbeat_seconds,
        )
        self._links.append(link)
        self._sockets[link.url] = Socket(client, self._runs.cancel)
        return client

    def _describe(self) -> JSON:
        merged, facts = self._merged, self._facts
        capabilities: dict[str, JSON] = {
            name: {
                "limit": limit,
                "tasks": [task for task, capability in self._slots.capability_of.items() if capability == name],
            }
            for name, limit in self._slots.limits.items()
        }
        return {
            "worker_id": self._config.worker_id,
            "worker_type": facts.worker_type,
            "max_concurrent_tasks": merged.max_concurrent_tasks,
            "resources": facts.resources,
            "installed_models": list(facts.installed_models),
            "cost_per_second": facts.cost_per_second,
            "cost_per_skill": merged.cost_per_skill,
            "skill_dependencies": merged.skill_dependencies,
            "capabilities": capabilities,
            "heartbeat_interval": self._config.heartbeat_seconds,
            "software": facts.software,
        }

    def _state(self) -> JSON:
        hot = list(hot_cache())
        skills = self._merged.skill_dependencies
        hot_skills = sorted(task for task, needed in skills.items() if needed and set(needed) <= set(hot))
        state = {**self._slots.state(), "hot_cache": hot, "hot_skills": hot_skills}
        return {**state, "status": "busy", "supported_tasks": []} if self._stopping.is_set() else state

    def _changed(self) -> None:
        for link in self._links:
            link.changed()
        if self._puller is not None:
            self._puller.changed()
        if self._links and all(link.refused for link in self._links):
            self._refused.set()

    def _start(self, task: Task, link: Link) -> None:
        socket = self._sockets[link.url]

        async def report(task_id: str, job_id: str, progress: float, message: str) -> None:
            socket.send_progress(task_id, job_id, progress, message)

        self._runs.start(task, report, lambda body: link.outbox.put(Entry(link.url, body)))

    async def _work(self, puller: Puller) -> None:
        """Everything at once, until a stop; then in order: no new tasks, the running ones, their results."""
        loop = asyncio.get_running_loop()
        beating = [loop.create_task(link.run(), name=f"link {link.url}") for link in self._links]
        if self._config.websocket:
            beating += [loop.create_task(socket.run(), name=f"socket {url}") for url, socket in self._sockets.items()]
        pulling = loop.create_task(puller.run(), name="puller")
        refused = loop.create_task(self._wait_for_refusal(), name="refusal")
        stopping = loop.create_task(self._stopping.wait())
        logger.info(
            "worker %s: %s", self._config.worker_id, ", ".join(sorted(self._merged.tasks)), extra={"action": "worker_started"}
        )
        try:
            done, _ = await asyncio.wait({stopping, refused, pulling, *beating}, return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            await self._unless_hurried(puller.close(FAREWELL_SECONDS))
            await _end(pulling)
            await self._let_end()
            for task in done:
                task.result()  # what ended by itself ended with an error
        finally:
            await _end(pulling, refused, stopping)
            await asyncio.gather(*(link.outbox.close() for link in self._links))
            await _end(*beating)
            await ProcessRunner.close_current()
            logger.info("worker %s has stopped", self._config.worker_id, extra={"action": "worker_stopped"})

    async def _let_end(self) -> None:
        """Running tasks have the grace to end; the rest is cancelled, and their results go out."""
        runs, grace = self._runs, self._config.grace_seconds
        if runs.running:
            logger.info("waiting up to %g s for %d tasks", grace, runs.running, extra={"action": "worker_stops"})
        await self._unless_hurried(runs.wait(grace))
        runs.stop()
        await self._unless_hurried(runs.wait(CANCEL_SECONDS))
        if not await runs.wait(LEAVE_SECONDS):
            logger.warning("%d tasks did not end", runs.running, extra={"action": "worker_stops"})
        await self._unless_hurried(asyncio.gather(*(link.outbox.flush(FLUSH_SECONDS) for link in self._links if link.connected)))

    async def _unless_hurried(self, waiting: Awaitable[object]) -> None:
        """Waits, unless a second stop says that there is no time."""
        hurry = asyncio.ensure_future(self._at_once.wait())
        one = asyncio.ensure_future(waiting)
        await asyncio.wait({hurry, one}, return_when=asyncio.FIRST_COMPLETED)
        await _end(hurry, one)

    async def _wait_for_refusal(self) -> None:
        """Raises ConfigurationError once every orchestrator has refused this worker, without ever having let it in."""
        await self._refused.wait()
        raise ConfigurationError("; ".join(str(link.refused) for link in self._links))


def _live_on(loop: asyncio.AbstractEventLoop | None, changed: Callable[[], None] | None) -> None:
    """Where models are loaded, and who is told of them, from any thread."""
    models.live_on(loop)

    def tell() -> None:
        if loop is not None and changed is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the worker
                loop.call_soon_threadsafe(changed)

    hot_cache().on_change = tell if loop is not None else None


def _warn_of_strays(left: list[Entry], config: Config) -> None:
    strays = {entry.url for entry in left} - {orchestrator.url for orchestrator in config.orchestrators}
    for url in sorted(strays):
        logger.warning("results for %s stay on the disk: it is not among the orchestrators", url, extra={"action": "spool"})


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def work(config: Config, merged: Declared, settings: Settings) -> None:
    """Works until SIGTERM or SIGINT; a second one ends it at once. Raises ConfigurationError and RegistrationError."""
    loop = new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_work(config, merged, settings))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:  # handlers that do not let themselves be cancelled are not waited for
            loop.run_until_complete(asyncio.wait(left, timeout=LEAVE_SECONDS))
        asyncio.set_event_loop(None)
        loop.close()


async def _work(config: Config, merged: Declared, settings: Settings) -> None:
    worker = HTTPWorker(config, merged, settings)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()
