"""The facade: an aiohttp application over the service. It keeps no state, so any number of them may run."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from aiohttp import web

from avtomatika.api import client, public
from avtomatika.api.auth import ClientTokens
from avtomatika.api.keys import SERVICE, SETTINGS
from avtomatika.api.middleware import authentication, errors
from avtomatika.errors import ConfigurationError
from avtomatika.settings import Settings

if TYPE_CHECKING:
    from avtomatika.engine.service import Service

logger = logging.getLogger(__name__)

ROUTES = (
    web.get("/_public/status", public.status),
    web.get("/_public/ready", public.ready),
    web.post("/api/v1/jobs", client.create_job),
    web.get("/api/v1/jobs", client.list_jobs),
    web.get("/api/v1/jobs/{job_id}", client.show_job),
    web.get("/api/v1/jobs/{job_id}/history", client.job_history),
    web.post("/api/v1/jobs/{job_id}/decide", client.decide),
    web.get("/api/v1/blueprints", client.list_blueprints),
    web.get("/api/v1/blueprints/{name}/graph", client.blueprint_graph),
    web.get("/api/v1/workers", client.list_workers),
    web.get("/api/v1/dashboard", client.dashboard),
)


def create_app(service: Service, settings: Settings) -> web.Application:
    """The application with every blueprint's endpoint; closes the service when it ends.

    Raises:
        ConfigurationError: there is no token, or a blueprint's endpoint is taken.
    """
    tokens = ClientTokens.from_settings(settings)
    app = web.Application(middlewares=[errors, authentication(tokens)], client_max_size=int(settings.body_limit_mb * 1024 * 1024))
    app[SETTINGS] = settings
    app[SERVICE] = service
    app.add_routes(ROUTES)
    _add_endpoints(app, service)
    app.on_cleanup.append(_close)
    return app


def endpoint_path(api_version: str | None, api_endpoint: str) -> str:
    """Where a blueprint's endpoint is served: ``/api/{version}{endpoint}``."""
    parts = ["api", *([api_version.strip("/")] if api_version else []), api_endpoint.strip("/")]
    return "/" + "/".join(parts)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    ClientTokens.from_settings(settings)  # before anything else is started
    asyncio.run(_serve(settings, host, port))


async def _serve(settings: Settings, host: str, port: int) -> None:
    from avtomatika.engine.service import open_service

    over = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, over.set)
    runner = web.AppRunner(create_app(await open_service(settings), settings), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
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
        app.router.add_post(path, client.creator(blueprint.name))


async def _close(app: web.Application) -> None:
    await app[SERVICE].close()
