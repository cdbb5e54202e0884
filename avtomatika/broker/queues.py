"""The queues as Kombu objects: everything goes through the default exchange, so that no binding can be missing."""

from __future__ import annotations

from kombu import Exchange, Queue

from avtomatika.settings import get_settings

#: The engine's own queue.
ORCHESTRATOR = "orchestrator"

#: Priorities that a capability's queue tells apart, on every broker.
MAX_PRIORITY = 10

_DEFAULT_EXCHANGE = Exchange("")


def capability_queue(name: str) -> Queue:
    """A queue of a capability: durable, with priorities (RabbitMQ needs them declared; Redis ignores the argument)."""
    return Queue(name, exchange=_DEFAULT_EXCHANGE, routing_key=name, queue_arguments={"x-max-priority": MAX_PRIORITY})


def default_queue(name: str) -> Queue:
    """A queue with default arguments, as any Celery app would declare it: the orchestrator's."""
    return Queue(name, exchange=_DEFAULT_EXCHANGE, routing_key=name)


def queue_name(capability: str, task: str | None = None) -> str:
    """The physical queue: `<prefix><capability>.<task>`, or the capability's plain queue."""
    prefix = get_settings().queue_prefix
    return f"{prefix}{capability}.{task}" if task else f"{prefix}{capability}"
