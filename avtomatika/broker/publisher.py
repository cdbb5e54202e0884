"""Publishes prepared messages that a commit could not push itself: on RabbitMQ, or on a Redis that is not the state's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.exceptions import LimitExceeded

from avtomatika.broker.queues import capability_queue, default_queue, direct_queue
from avtomatika.broker.redis import redis_priority
from avtomatika.jobs import Message
from avtomatika.state.base import OutboxStore

logger = logging.getLogger(__name__)


class Publisher:
    """Moves messages from the outbox to the broker. What fails stays in the outbox, and the watcher repeats it."""

    def __init__(self, app: Celery, store: OutboxStore) -> None:
        self._app = app
        self._store = store

    async def flush(self, outbox_ids: Sequence[str]) -> int:
        """Publishes those entries and clears them; returns how many reached the broker."""
        if not outbox_ids:
            return 0
        entries = await self._store.outbox_messages(outbox_ids)
        try:
            sent = await asyncio.to_thread(self._send, entries)
        except LimitExceeded:
            logger.warning("messages stay in the outbox: every connection to the broker is taken", extra={"action": "publish"})
            return 0
        await self._store.clear_outbox(sent)
        return len(sent)

    def _send(self, entries: Sequence[tuple[str, Message]]) -> list[str]:
        sent: list[str] = []
        with self._app.producer_pool.acquire(block=True, timeout=10) as producer:
            for outbox_id, message in entries:
                try:
                    _publish(producer, message)
                except Exception as exc:
                    cause = exc.__cause__ or exc
                    if not isinstance(
                        cause, (*producer.connection.channel_errors, *producer.connection.connection_errors, OSError)
                    ):
                        raise
                    logger.warning(
                        "a message stays in the outbox: the broker does not take it (%r)",
                        cause,
                        extra={"action": "publish", "queue": message.queue},
                    )
                    if isinstance(cause, (*producer.connection.connection_errors, OSError)):
                        break
                    # Refused for what it is (a queue declared otherwise, say): the others are not to wait for it.
                    producer.revive(producer.connection.channel())
                    continue
                sent.append(outbox_id)
        return sent


def _publish(producer: Any, message: Message) -> None:
    priority = message.priority
    if priority is not None and producer.connection.transport.driver_type == "redis":
        priority = redis_priority(priority)
    producer.publish(
        message.body,
        exchange=message.exchange,
        routing_key=message.queue,
        headers=message.headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        priority=priority,
        delivery_mode=2,
        declare=_declared(message),
        mandatory=True,
        retry=True,
        retry_policy={"max_retries": 3, "interval_start": 0, "interval_step": 0.2},
        **{name: value for name, value in message.properties.items() if value},
    )


def _declared(message: Message) -> list[object]:
    if message.declare == "capability":
        return [capability_queue(message.queue)]
    if message.declare == "direct":
        return [direct_queue(message.queue)]
    if message.declare == "default":
        return [default_queue(message.queue)]
    return []
