"""Whether what the facade stands on answers: the store, the broker, the database of the history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from kombu import Connection
from sqlalchemy import create_engine, select
from sqlalchemy.pool import NullPool

from avtomatika.history.database import database_url
from avtomatika.settings import Settings
from avtomatika.state.base import Store

logger = logging.getLogger(__name__)

OK, AWAY, NOT_CONFIGURED = "ok", "unavailable", "not configured"
_PATIENCE = 5.0
_CONNECT_SECONDS = 3


async def readiness(store: Store, settings: Settings) -> dict[str, str]:
    """``ok`` or ``unavailable`` of each, and of the history also ``not configured``; all are asked at the same time."""
    away_or_ok = await asyncio.gather(_answers("store", store.ping()), _broker(settings), _history(settings))
    found = dict(zip(("store", "broker", "history"), away_or_ok, strict=True))
    if settings.broker_is_state:
        found["broker"] = found["store"]
    return found


async def _answers(name: str, check: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await check
    except Exception as exc:  # whatever is wrong, the answer is no; its words may hold a password
        logger.warning("not ready: the %s does not answer (%s)", name, type(exc).__name__, extra={"action": "not_ready"})
        return AWAY
    return OK


async def _broker(settings: Settings) -> str:
    return OK if settings.broker_is_state else await _answers("broker", asyncio.to_thread(_reach_broker, settings))


async def _history(settings: Settings) -> str:
    if settings.history_database_uri is None:
        return NOT_CONFIGURED
    return await _answers("history", asyncio.to_thread(_reach_history, settings.history_database_uri.get_secret_value()))


def _reach_broker(settings: Settings) -> None:
    with Connection(settings.broker_url, connect_timeout=_CONNECT_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, timeout=_CONNECT_SECONDS)


def _reach_history(uri: str) -> None:
    url = database_url(uri)
    patience = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": _CONNECT_SECONDS}
    engine = create_engine(url, poolclass=NullPool, connect_args=patience)
    with engine.connect() as connection:
        connection.execute(select(1))
