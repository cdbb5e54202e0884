"""The facade: an aiohttp application over the service. It keeps no state, so any number of them may run."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from avtomatika.api import (
    analytics,
    approvals,
    client,
    docs,
    events,
    orders,
    public,
    quarantine,
    queue,
    schedules,
    websocket,
    worker,
    workertokens,
)
from avtomatika.api.auth import authentication
from avtomatika.api.clients import AccountBook
from avtomatika.api.compression import compression
from avtomatika.api.endpoints import endpoint_operation
from avtomatika.api.keys import ACCOUNTS, ARCHIVE, HUB, METRICS, REMOTE, SERVICE, SETTINGS, SOCKETS, TLS, WORKER_TOKENS
from avtomatika.api.metrics import RequestMetrics, measuring
from avtomatika.api.middleware import errors
from avtomatika.api.quota import quota
from avtomatika.api.ratelimit import rate_limit
from avtomatika.api.tls import open_tls
from avtomatika.book import Book
from avtomatika.errors import ConfigurationError
from avtomatika.history import open_archive
from avtomatika.loops import new_event_loop
from avtomatika.operations.config import config_book
from avtomatika.operations.registry import registry
from avtomatika.settings import Settings

if TYPE_CHECKING:
    from avtomatika.engine.service import Service

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0

ROUTES = (
    web.get("/_public/status", public.status),
    web.get("/_public/ready", public.ready),
    web.post("/_public/webhooks/approval/{job_id}", approvals.decide_by_token),
    web.get("/_public/metrics", public.metrics),
    web.get("/_public/jobs/quarantined", public.quarantined),
    web.get("/_public/openapi.json", docs.openapi),
    web.get("/_public/docs", docs.page),
    web.get("/_public/docs/{file}", docs.page_file),
    web.post("/api/v1/jobs", client.create_job),
    web.get("/api/v1/jobs", client.list_jobs),
    web.get("/api/v1/jobs/quarantined", quarantine.list_quarantined),  # before what it would be an id for
    web.post("/api/v1/jobs/quarantined/retry", quarantine.retry_quarantined),
    web.post("/api/v1/jobs/quarantined/discard", quarantine.discard_quarantined),
    web.get("/api/v1/jobs/quarantined/{job_id}", quarantine.show_quarantined),
    web.get("/api/v1/jobs/{job_id}", client.show_job),
    web.get("/api/v1/jobs/{job_id}/history", client.job_history),
    web.get("/api/v1/jobs/{job_id}/events", events.job_events, allow_head=False),
    web.post("/api/v1/jobs/{job_id}/decide", client.decide),
    web.post("/api/v1/jobs/{job_id}/cancel", orders.cancel_job),
    web.post("/api/v1/jobs/{job_id}/retry", orders.retry_job),
    web.post("/api/v1/jobs/{job_id}/discard", quarantine.discard_job),
    web.post("/api/v1/jobs/{job_id}/quarantine", quarantine.quarantine_job),
    web.post("/api/v1/jobs/{job_id}/pause", orders.pause_job),
    web.post("/api/v1/jobs/{job_id}/resume", orders.resume_job),
    web.get("/api/v1/blueprints", client.list_blueprints),
    web.get("/api/v1/blueprints/{name}/graph", client.blueprint_graph),
    web.get("/api/v1/schedules", schedules.list_schedules),
    web.get("/api/v1/schedules/{name}", schedules.show_schedule),
    web.post("/api/v1/schedules/{name}/pause", schedules.pause_schedule),
    web.post("/api/v1/schedules/{name}/resume", schedules.resume_schedule),
    web.post("/api/v1/schedules/{name}/trigger", schedules.trigger_schedule),
    *queue.ROUTES,
    web.get("/api/v1/workers", client.list_workers),
    web.get("/api/v1/dashboard", client.dashboard),
    web.get("/api/v1/analytics", analytics.analytics),
    web.post("/api/v1/admin/reload-workers", workertokens.reload_workers),
    web.post("/_worker/workers/register", worker.register),
    web.patch("/_worker/workers/{worker_id}", worker.heartbeat),
    web.get("/_worker/workers/{worker_id}/tasks/next", worker.next_task, allow_head=False),
    web.post("/_worker/tasks/result", worker.take_result),
    web.get("/_worker/ws", websocket.worker_socket, allow_head=False),
    web.get("/_worker/ws/{worker_id}", websocket.worker_socket, allow_head=False),
)

DEBUG_ROUTES = (web.post("/_public/debug/flush_db", public.flush_db),)


def create_app(service: Service, settings: Settings) -> web.Application:
    """The application with every blueprint's endpoint; closes the service when it ends.

    Raises:
        ConfigurationError: there is no token, a file of tokens, of operations or of certificates is wrong, or a blueprint's
            endpoint is taken.
    """
    metrics = RequestMetrics()
    limited = rate_limit(service.store, settings, service.clock)
    app = web.Application(middlewares=[measuring(metrics), errors, compression, authentication, limited, quota])
    app[SETTINGS] = settings
    app[ACCOUNTS] = AccountBook(settings)
    app[WORKER_TOKENS] = workertokens.WorkerTokenBook(settings)
    app[TLS] = open_tls(settings)
    if config_book(settings.operations_config_path).current.policy:
        registry()  # it takes a second: not while a request waits for it, and others behind it
    app[SERVICE] = service
    app[REMOTE] = service.remote
    app[SOCKETS] = websocket.Sockets(service.store, service.remote)
    app[HUB] = service.make_hub(app[SOCKETS].stop, app[SOCKETS].catch_up)
    app.cleanup_ctx.append(_serve_workers)
    app.on_shutdown.append(_let_workers_go)
    app[METRICS] = metrics
    app[ARCHIVE] = open_archive(settings)
    app[docs.DOCUMENT] = {}
    app.add_routes(ROUTES)
    if settings.debug:
        app.add_routes(DEBUG_ROUTES)
    _add_endpoints(app, service)
    app.cleanup_ctx.append(_watched_files)
    events.open_listeners(app)
    app.on_cleanup.append(_close)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """What serves an application: it leaves packed bodies as they come, since intake.py unpacks them within bounds."""
    return web.AppRunner(app, access_log=None, shutdown_timeout=1.0, auto_decompress=False)


def endpoint_path(api_version: str | None, api_endpoint: str) -> str:
    """Where a blueprint's endpoint is served: ``/api/{version}{endpoint}``."""
    parts = ["api", *([api_version.strip("/")] if api_version else []), api_endpoint.strip("/")]
    return "/" + "/".join(parts)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    # Before anything else is started.
    AccountBook(settings), workertokens.WorkerTokenBook(settings), open_tls(settings)
    config_book(settings.operations_config_path)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(settings, host, port))


class _Brief(logging.Filter):
    """What is no HTTP is a stranger's fault: one line without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        exc = record.exc_info[1] if record.exc_info else None
        if isinstance(exc, HttpProcessingError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "%s: it is no HTTP: %s", (record.getMessage(), " ".join(exc.message.split()))
            record.exc_info = record.exc_text = None
        return True


async def _serve(settings: Settings, host: str, port: int) -> None:
    from avtomatika.engine.service import open_service

    over = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, over.set)
    app = create_app(await open_service(settings), settings)
    if any(book.path is not None for book in _books(app)):  # else SIGHUP ends the facade, as it always has
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reread, app)
    logging.getLogger("aiohttp.server").addFilter(_Brief())
    runner = make_runner(app)
    await runner.setup()
    try:
        tls = app[TLS]
        site = web.TCPSite(runner, host, port, ssl_context=tls.context() if tls is not None else None)
        try:
            await site.start()
        except OSError as exc:
            raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror}") from None
        logger.info(
            "the facade serves on %s", ", ".join(str(place) for place in runner.addresses), extra={"action": "facade_started"}
        )
        await over.wait()
    finally:
        await runner.cleanup()


def _add_endpoints(app: web.Application, service: Service) -> None:
    taken = {route.resource.canonical for route in app.router.routes() if route.method == "POST" and route.resource is not None}
    for blueprint in service.blueprints:
        if not blueprint.api_endpoint:
            continue
        path = endpoint_path(blueprint.api_version, blueprint.api_endpoint)
        if path in taken:
            raise ConfigurationError(
                f"blueprint {blueprint.name!r} wants {path}, which is taken: change its api_endpoint or api_version"
            )
        taken.add(path)
        handler = client.creator(blueprint.name)
        handler.operation = endpoint_operation(blueprint)  # type: ignore[attr-defined]
        app.router.add_post(path, handler)


async def _serve_workers(app: web.Application) -> AsyncIterator[None]:
    app[HUB].start()
    yield
    await app[HUB].close()


async def _let_workers_go(app: web.Application) -> None:
    app[HUB].release()
    await app[SOCKETS].close()


def _books(app: web.Application) -> list[Book[Any]]:
    accounts, workers, tls = app[ACCOUNTS], app[WORKER_TOKENS], app[TLS]
    books: list[Book[Any]] = [accounts, workers, config_book(app[SETTINGS].operations_config_path)]
    return books if tls is None else [*books, tls]


def _reread(app: web.Application) -> None:
    for book in _books(app):
        if book.path is not None:
            book.try_reload()


async def _watched_files(app: web.Application) -> AsyncIterator[None]:
    """Reads the files of tokens, operations and certificates again when they change."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for book in _books(app):
                await asyncio.to_thread(book.refresh)

    task = asyncio.create_task(watch())
    yield
    task.cancel()


async def _close(app: web.Application) -> None:
    archive = app[ARCHIVE]
    if archive is not None:
        await archive.close()
    await app[SERVICE].close()
