"""From a Celery signature to a prepared message, without touching a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.canvas import Signature
from kombu.serialization import dumps

from avtomatika.jobs import JSON, Message

#: Header with the time of the last publish, in seconds: the age of a queue's oldest message tells whether an older one is lost.
PUBLISHED_AT = "avtomatika_at"


class _Connection:
    """The little of a kombu Connection that Celery asks of a producer on its way to publish."""

    @contextmanager
    def _reraise_as_library_errors(self) -> Iterator[None]:
        yield


class CapturingProducer:
    """Takes the place of a kombu Producer and keeps what would have been published."""

    connection = _Connection()

    def __init__(self) -> None:
        self.captured: JSON = {}

    def publish(
        self,
        body: Any,
        *,
        exchange: Any = "",
        routing_key: str = "",
        serializer: str = "json",
        headers: JSON | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        **_: Any,
    ) -> None:
        content_type, content_encoding, serialised = dumps(body, serializer)
        if not isinstance(serialised, str):
            serialised = serialised.decode(content_encoding)
        self.captured = {
            "queue": routing_key,
            "exchange": getattr(exchange, "name", exchange) or "",
            "body": serialised,
            "headers": headers or {},
            "properties": {"correlation_id": correlation_id, "reply_to": reply_to or ""},
            "content_type": content_type,
            "content_encoding": content_encoding,
        }


def prepare(
    app: Celery,
    signature: Signature,
    now: float,
    *,
    then: Signature | None = None,
    priority: int | None = None,
    declare: str = "capability",
    key: str | None = None,
) -> Message:
    """The message that `signature.apply_async()` would publish; `then` is the rest of its chain.

    Celery's own path is taken (routes, headers, before_task_publish and after_task_publish), only the last step is not.
    """
    producer = CapturingProducer()
    options = dict(signature.options)
    app.send_task(
        signature.task,
        args=signature.args,
        kwargs=signature.kwargs,
        producer=producer,
        chain=[then] if then is not None else None,
        add_to_parent=False,
        **options,
    )
    message = producer.captured
    message["headers"][PUBLISHED_AT] = now
    return Message(**message, priority=priority, declare=declare, key=key)


def published_again(message: Message, now: float) -> Message:
    """The same message with a fresh time of publish."""
    fields = message.to_dict()
    fields["headers"] = {**message.headers, PUBLISHED_AT: now}
    return Message(**fields)
