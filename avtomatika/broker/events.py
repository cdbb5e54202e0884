"""Celery's event dispatcher, which the hub publishes with: it must not wait there until a broker that is away comes back."""

from __future__ import annotations

from collections import deque
from typing import Any

from celery.app import events
from celery.events import dispatcher

#: Events kept for a broker that is away: the latest.
BUFFERED = 1000
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


class EventDispatcher(dispatcher.EventDispatcher):
    """Where Celery's tries again for ever, this one tries on one more connection, then keeps the event."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outbound_buffer: deque[Any] = deque(maxlen=BUFFERED)

    def _publish(
        self, event: Any, producer: Any, routing_key: str, retry: bool = False, retry_policy: Any = None, **kwargs: Any
    ) -> Any:
        return super()._publish(
            event, producer, routing_key, retry=retry, retry_policy=_ONCE_MORE if retry else retry_policy, **kwargs
        )


class Events(events.Events):
    """Used as ``Celery(events="avtomatika.broker.events:Events")``."""

    dispatcher_cls = "avtomatika.broker.events:EventDispatcher"
