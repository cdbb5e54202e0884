"""From a Celery signature to a prepared message, without touching a broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery
from celery.canvas import Signature
from celery.signals import after_task_publish, before_task_publish
from kombu.serialization import dumps

from avtomatika.jobs import JSON, Message, new_id

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

    Celery's own path is taken (routes, headers, before_task_publish and after_task_publish), only the last step is not; where
    nobody listens to those signals, what it made for a task and a queue is the template of the next such message.
    """
    rest = [then] if then is not None else None
    usual = signature.options.keys() <= _USUAL and not before_task_publish.receivers and not after_task_publish.receivers
    templates = _templates.setdefault(app, {})
    place = (signature.task, signature.options.get("queue"))
    if usual and place in templates:
        message = _from_template(templates[place], signature, rest)
    else:
        message = _by_celery(app, signature, rest)
        if usual:
            own = signature.options.get("headers") or {}
            shared = {name: value for name, value in message["headers"].items() if name not in own}
            templates[place] = {**message, "headers": shared}
    return Message(
        **{**message, "headers": {**message["headers"], PUBLISHED_AT: now}}, priority=priority, declare=declare, key=key
    )


def _by_celery(app: Celery, signature: Signature, chain: list[Signature] | None) -> JSON:
    producer = CapturingProducer()
    app.send_task(
        signature.task,
        args=signature.args,
        kwargs=signature.kwargs,
        producer=producer,
        chain=chain,
        add_to_parent=False,
        **signature.options,
    )
    return producer.captured


def prepare_control(app: Celery, task: str, queue: str, root_id: str, kwargs: JSON, now: float, key: str) -> Message | None:
    """The message of a control task, without a signature, where one of its kind was prepared before; the way of every step."""
    template = _templates.get(app, {}).get((task, queue))
    if template is None or before_task_publish.receivers or after_task_publish.receivers:
        return None
    own = {"root_id": root_id, "argsrepr": "()", "kwargsrepr": repr(kwargs), PUBLISHED_AT: now}
    fields = _filled(template, new_id(), _encode([(), kwargs, _EMBED]), own)
    return Message(**fields, declare="default", key=key)


_EMBED: JSON = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_encode = json.JSONEncoder().encode
#: Options that change nothing in a message but what `_from_template` sets anew.
_USUAL = frozenset({"queue", "task_id", "root_id", "priority", "headers", "argsrepr", "kwargsrepr"})
_templates: WeakKeyDictionary[Celery, dict[tuple[str, str | None], JSON]] = WeakKeyDictionary()


def _from_template(template: JSON, signature: Signature, chain: list[Signature] | None) -> JSON:
    """The message as Celery made the last one of this task for this queue, with this one's ids and body.

    What routes, task options and settings decide is the same for both, and most of the time to make a message goes there.
    """
    options = signature.options
    task_id = options.get("task_id") or new_id()
    _, _, body = dumps([signature.args, signature.kwargs, {**_EMBED, "chain": chain}], "json")
    own = {
        "root_id": options.get("root_id") or task_id,
        "argsrepr": options.get("argsrepr"),
        "kwargsrepr": options.get("kwargsrepr"),
        **(options.get("headers") or {}),
    }
    return _filled(template, task_id, body, own)


def _filled(template: JSON, task_id: str, body: str, headers: JSON) -> JSON:
    """A template as the message of one task."""
    return {
        **template,
        "body": body,
        "headers": {**template["headers"], "id": task_id, **headers},
        "properties": {**template["properties"], "correlation_id": task_id},
    }


def published_again(message: Message, now: float) -> Message:
    """The same message with a fresh time of publish."""
    fields = message.to_dict()
    fields["headers"] = {**message.headers, PUBLISHED_AT: now}
    return Message(**fields)
