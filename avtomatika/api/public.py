"""`/_public/…`: no token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web
from kombu import Connection

from avtomatika.api.keys import SERVICE, SETTINGS
from avtomatika.settings import Settings


async def status(request: web.Request) -> web.Response:
    """This process serves."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Whether the store and the broker answer; 503 while one does not."""
    settings = request.app[SETTINGS]
    answers = {"store": await _answers(request.app[SERVICE].store.ping())}
    if settings.broker_is_state:
        answers["broker"] = answers["store"]
    else:
        answers["broker"] = await _answers(asyncio.to_thread(_reach_broker, settings))
    ok = all(answers.values())
    body = {"status": "ready" if ok else "unavailable", **{name: "ok" if up else "unavailable" for name, up in answers.items()}}
    return web.json_response(body, status=200 if ok else 503, headers=None if ok else {"Retry-After": "2"})


async def _answers(check: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(5):
            await check
    except Exception:  # whatever is wrong, the answer is no
        return False
    return True


def _reach_broker(settings: Settings) -> None:
    with Connection(settings.broker_url, connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
