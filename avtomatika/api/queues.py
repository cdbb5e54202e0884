"""How many messages wait in the queues, asked of the broker itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from kombu import Connection

from avtomatika.jobs import WorkerRecord
from avtomatika.settings import Settings
from avtomatika.state.workers import WorkerStore


async def depths(settings: Settings, store: WorkerStore, workers: Sequence[WorkerRecord]) -> dict[str, int]:
    """Waiting messages by queue: the orchestrator's and those of every task that a live worker supports."""
    names = {f"{settings.queue_prefix}orchestrator"}
    for task in {task for record in workers for task in record.supported_tasks}:
        capability = await store.capability_of(task)
        if capability is not None:
            names.add(f"{settings.queue_prefix}{capability}.{task}")
    return await asyncio.to_thread(_ask, settings.broker_url, sorted(names))


def _ask(url: str, names: Iterable[str]) -> dict[str, int]:
    with Connection(url, connect_timeout=3, transport_options=_options()) as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
        return {name: _depth(connection, name) for name in names}


def _depth(connection: Connection, name: str) -> int:
    # A channel a queue: a broker closes the channel where the queue does not exist.
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(name, passive=True).message_count)
        except connection.channel_errors:
            return 0


def _options() -> dict[str, Any]:
    """As our own transport has it: ten priorities, each with a list of its own on Redis."""
    return {"priority_steps": list(range(10)), "socket_connect_timeout": 3, "socket_timeout": 3}
