"""The queues as Kombu objects: everything goes through the default exchange, so that no binding can be missing."""

from __future__ import annotations

from kombu import Exchange, Queue

from avtomatika.settings import get_settings

#: The engine's own queue.
ORCHESTRATOR = "orchestrator"

#: Priorities that a capability's queue tells apart, on every broker.
MAX_PRIORITY = 10

DIRECT_EXPIRES_MS = 24 * 3600 * 1000

_DEFAULT_EXCHANGE = Exchange("")


def capability_queue(name: str) -> Queue:
    """A queue of a capability: durable, with priorities (RabbitMQ needs them declared; Redis ignores the argument)."""
    return Queue(name, exchange=_DEFAULT_EXCHANGE, routing_key=name, queue_arguments={"x-max-priority": MAX_PRIORITY})


def direct_queue(name: str) -> Queue:
    """A worker's own queue: as a capability's, but RabbitMQ deletes it once nobody has used it for a day."""
    arguments = {"x-max-priority": MAX_PRIORITY, "x-expires": DIRECT_EXPIRES_MS}
    return Queue(name, exchange=_DEFAULT_EXCHANGE, routing_key=name, queue_arguments=arguments)


def default_queue(name: str) -> Queue:
    """A queue with default arguments, as any Celery app would declare it: the orchestrator's."""
    return Queue(name, exchange=_DEFAULT_EXCHANGE, routing_key=name)


def queue_name(capability: str, task: str | None = None) -> str:
    """The physical queue: `<prefix><capability>.<task>`, or the capability's plain queue."""
    prefix = get_settings().queue_prefix
    return f"{prefix}{capability}.{task}" if task else f"{prefix}{capability}"


def direct_queue_name(worker_id: str, capability: str) -> str:
    """The queue of the tasks that were picked for one worker."""
    return f"{get_settings().queue_prefix}worker.{worker_id}.{capability}"


def is_direct(queue: str) -> bool:
    """Whether a physical queue is one worker's own, by its name."""
    return queue.removeprefix(get_settings().queue_prefix).startswith("worker.")
