"""Whether a queue has moved past a message: then it was lost on its way, and publishing it again harms nobody.

On Redis a fetch and its record are two steps, and a kill between them loses the message. A queue is first in, first out
within one priority: is it empty, or is its oldest message younger than ours, then ours is no longer in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

from celery import Celery
from kombu.exceptions import ChannelError, LimitExceeded, OperationalError

from avtomatika.broker.messages import PUBLISHED_AT
from avtomatika.broker.redis import queue_key, redis_priority
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Message

T = TypeVar("T")


class QueueProbe(Protocol):
    async def passed(self, message: Message, published_at: float) -> bool:
        """Whether everything older than `published_at` has left the message's queue. In doubt: false."""

    async def purge(self, queues: Sequence[str]) -> None:
        """Throws away what lies in queues of ours; one that does not exist is empty."""


class BrokerProbe:
    """Asks the broker that the app is configured for."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def passed(self, message: Message, published_at: float) -> bool:
        if message.exchange or message.declare == "nothing":
            return False  # a plain Celery task: its fleet's queue is not ours to judge
        return await self._ask(lambda connection: _look(connection, message, published_at))

    async def purge(self, queues: Sequence[str]) -> None:
        if queues:
            await self._ask(lambda connection: _purge(connection, queues))

    async def _ask(self, question: Callable[[Any], T]) -> T:
        try:
            return await asyncio.to_thread(self._twice, question)
        except (OSError, OperationalError, LimitExceeded, *self._errors) as exc:
            raise StoreUnavailableError(f"the broker does not answer ({type(exc).__name__})") from exc

    def _twice(self, question: Callable[[Any], T]) -> T:
        try:
            return self._once(question)
        except self._errors:
            # The pooled connection was idle for long and is closed by now; the pool has thrown it away.
            return self._once(question)

    def _once(self, question: Callable[[Any], T]) -> T:
        with self._app.pool.acquire(block=True, timeout=10) as connection:
            return question(connection)

    @cached_property
    def _errors(self) -> tuple[type[BaseException], ...]:
        return tuple(self._app.connection_for_read().connection_errors)


def _look(connection: Any, message: Message, published_at: float) -> bool:
    channel = connection.default_channel
    if connection.transport.driver_type == "redis":
        step = redis_priority(message.priority) if message.priority is not None else 0
        return _older_than_oldest(channel.client, queue_key(message.queue, step), published_at)
    try:
        return bool(channel.queue_declare(message.queue, passive=True).message_count == 0)
    except ChannelError:
        return True  # the queue is gone, and what was in it, too


def _purge(connection: Any, queues: Sequence[str]) -> None:
    for queue in queues:
        with connection.channel() as channel:  # one a queue: RabbitMQ closes it where the queue does not exist
            try:
                channel.queue_purge(queue)
            except ChannelError:
                continue


def _older_than_oldest(client: Any, key: str, published_at: float) -> bool:
    oldest = client.lindex(key, -1)
    if oldest is None:
        return True
    at = json.loads(oldest).get("headers", {}).get(PUBLISHED_AT)
    return at is not None and float(at) > published_at
