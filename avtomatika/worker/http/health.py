"""The health endpoint of a worker over HTTP, for whoever restarts processes."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from avtomatika.errors import ConfigurationError
from avtomatika.worker.http.link import Link

logger = logging.getLogger(__name__)

#: So many heartbeats without an answer of any orchestrator, and the worker is not well.
MISSED = 3


class Health:
    """
    Args:
        running: how many tasks run.
        interval: between two heartbeats.
    """

    def __init__(self, worker_id: str, links: Sequence[Link], running: Callable[[], int], interval: float) -> None:
        self._worker_id = worker_id
        self._links = links
        self._running = running
        self._patience = MISSED * interval
        self._started_at = time.time()

    async def show(self, request: web.Request) -> web.Response:
        last = max((link.last_seen for link in self._links if link.last_seen is not None), default=self._started_at)
        well = time.time() - last <= self._patience
        body = {
            "status": "ok" if well else "no orchestrator is reached",
            "worker_id": self._worker_id,
            "running": self._running(),
            "orchestrators": [
                {"url": link.url, "connected": link.connected, "last_seen": link.last_seen} for link in self._links
            ],
        }
        return web.json_response(body, status=200 if well else 503)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[None]:
        """Raises ConfigurationError where the port is taken."""
        app = web.Application()
        app.router.add_get("/health", self.show)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as exc:
                raise ConfigurationError(
                    f"the health endpoint cannot listen on {host} port {port}: {exc.strerror}; change WORKER_HEALTH_PORT"
                ) from None
            logger.info("health at %s", runner.addresses, extra={"action": "health_started"})
            yield
        finally:
            await runner.cleanup()
