"""The capability consumer: a channel a capability, its prefetch that capability's limit, acknowledgements late.

A Celery consumer bootstep that takes over from Celery's own task consumer, on Redis and on RabbitMQ alike.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import kombu
from celery import bootsteps
from kombu.common import QoS
from kombu.utils.encoding import safe_repr

from avtomatika.broker.queues import (
    ORCHESTRATOR,
    capability_queue,
    default_queue,
    direct_queue,
    direct_queue_name,
    is_direct,
)
from avtomatika.broker.slots import Lane, Slot, SlotGate
from avtomatika.settings import get_settings
from avtomatika.worker.sdk import capabilities_of, declared

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 1.0
PARK_SECONDS = 1.0  # how long a message that RabbitMQ delivered beyond the slots waits for one before it is handed back


@dataclass
class Share:
    """What one lane consumes.

    Attributes:
        counted: whether the limit over all capabilities counts it.
        ordinary: a queue of Celery's, as Celery declares it; no capability.
    """

    limit: int
    queues: dict[str, Any] = field(default_factory=dict)
    counted: bool = True
    ordinary: bool = False


Plan = dict[str, Share]


def selected_queues(app: Any) -> list[str] | None:
    """The names given with -Q; None where it was not given."""
    queues = app.amqp.queues
    if hasattr(queues, "given_names"):  # the plan has taken the place of what was given
        names: list[str] | None = queues.given_names
        return names
    return None if queues._consume_from is None else list(queues._consume_from)


def make_plan(app: Any, selected: list[str] | None, pool_limit: int, worker_id: str) -> Plan:
    """Capability -> what to consume, the worker's direct queue included.

    A selected name that is no capability is an ordinary Celery queue, a lane of its own.
    """
    plan: Plan = {}
    for name, capability in capabilities_of(selected).items():
        make = default_queue if name == ORCHESTRATOR else capability_queue
        queues = {queue: make(queue) for queue in capability.queues}
        if name != ORCHESTRATOR:
            direct = direct_queue_name(worker_id, name)
            queues[direct] = direct_queue(direct)
        plan[name] = Share(capability.limit, queues, name != ORCHESTRATOR)
    taken = {queue for share in plan.values() for queue in share.queues}
    ordinary = list(app.amqp.queues._default_consume_from) if selected is None and not plan else selected or ()
    for name in ordinary:
        if name not in plan and name not in taken:
            plan[name] = Share(pool_limit, {name: app.amqp.queues[name]}, ordinary=True)
    return plan


class CapabilityConsumer:
    """Stands where Celery expects its task consumer: one kombu consumer a lane behind one face."""

    def __init__(self, connection: Any, gate: SlotGate, plan: Plan, *, app: Any, hub: Any, pool_limit: int, on_decode_error: Any):
        self.on_message: Callable[[Any], Any] | None = None
        self._connection = connection
        self._gate = gate
        self._plan = plan
        self._app = app
        self._hub = hub
        self._pool_limit = pool_limit
        self._on_decode_error = on_decode_error
        self._errors = tuple(connection.connection_errors) + tuple(connection.channel_errors)
        self._adopts = connection.transport.driver_type == "redis"
        self._global_qos = _global_qos(connection)
        self._consumers: dict[str, Any] = {}
        self._parked: dict[str, deque[tuple[float, Any]]] = {}
        self._cancelled = False
        gate.on_free = self._start_parked
        for name in plan:
            self._open(name)
        self._adopt()

    # What Celery uses

    @property
    def channel(self) -> Any:
        return next((consumer.channel for consumer in self._consumers.values()), None)

    @property
    def connection(self) -> Any:
        return self._connection

    @property
    def queues(self) -> list[Any]:
        return [queue for consumer in self._consumers.values() for queue in consumer.queues]

    def consume(self, no_ack: bool | None = None) -> None:
        self._cancelled = False
        for consumer in self._consumers.values():
            consumer.consume(no_ack=no_ack)

    def cancel(self) -> None:
        """Fetches no more; what has not started goes back. Replies in flight are read while the pool drains."""
        self._cancelled = True
        for consumer in self._consumers.values():
            consumer.cancel()
        for parked in self._parked.values():
            while parked:
                self._hand_back(parked.popleft()[1])

    close = cancel

    def qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """The limits are the capabilities'; Celery's wish to change the prefetch is not followed."""

    def consuming_from(self, queue: Any) -> bool:
        return any(consumer.consuming_from(queue) for consumer in self._consumers.values())

    def add_queue(self, queue: Any) -> Any:
        """Adds a queue at run time: on its capability's channel, else on one of its own."""
        name = lane_of(queue.name, [name for name, share in self._plan.items() if not share.ordinary])
        # Celery would declare its own idea of the queue anew at each reconnect; the plan is what is consumed.
        self._app.amqp.queues.consume_from.pop(queue.name, None)
        if name is None:
            name = queue.name
            self._plan.setdefault(name, Share(self._pool_limit, ordinary=True))
        else:
            queue = _queue_of_ours(queue.name)
        self._plan[name].queues[queue.name] = queue
        if name not in self._consumers:
            self._open(name)
            return queue
        return self._consumers[name].add_queue(queue)

    def cancel_by_queue(self, queue: Any) -> None:
        name = getattr(queue, "name", queue)
        for share in self._plan.values():
            share.queues.pop(name, None)
        for consumer in self._consumers.values():
            consumer.cancel_by_queue(name)

    @property
    def polls(self) -> bool:
        """Whether it asks for each message (Redis), rather than being sent them (RabbitMQ)."""
        return self._adopts

    def open_lanes(self) -> list[Lane]:
        """Lanes that should be consuming now."""
        if self._cancelled:
            return []
        return [lane for lane in self._gate.lanes.values() if lane.name in self._consumers and self.queues_of(lane)]

    def queues_of(self, lane: Lane) -> list[str]:
        return [queue.name for queue in self._consumers[lane.name].queues]

    def fetching(self) -> bool:
        """Whether a fetch is in flight whose reply may hold a message that Redis has popped."""
        return any(lane.fetching for lane in self._gate.lanes.values())

    # Lanes

    def _open(self, name: str) -> None:
        share = self._plan[name]
        lane = self._gate.lane(name, share.limit, share.counted)
        channel = self._connection.channel()
        if self._adopts:
            channel.gate = lane
        lane.channel = channel
        prefetch = int(min(lane.limit, self._gate.limit)) if lane.counted else lane.limit
        channel.basic_qos(0, prefetch, self._global_qos)
        self._parked[name] = deque()
        self._consumers[name] = kombu.Consumer(
            channel,
            queues=list(share.queues.values()),
            accept=self._app.conf.accept_content,
            on_message=partial(self._arrived, lane),
            on_decode_error=self._on_decode_error,
            tag_prefix=f"{name}-",
        )

    def _adopt(self) -> None:
        """After a reconnect: what ran on goes on, on the new channel; what had not started is the broker's again."""
        for lane in self._gate.lanes.values():
            for slot in list(lane.slots):
                self._adopt_slot(lane, slot)

    def _adopt_slot(self, lane: Lane, slot: Slot) -> None:
        if slot.started_at is None:
            slot.drop()
        elif self._adopts and not slot.settled:
            slot.message.channel = lane.channel
            lane.channel.qos._quick_append(slot.message.delivery_tag, slot.message)
            self._repeat(slot)
        elif not self._adopts:
            slot.settle()  # RabbitMQ gives it out again; the slot is free when the coroutine has ended

    # Messages

    def _arrived(self, lane: Lane, message: Any) -> None:
        if self._cancelled:
            self._hand_back(message)
        elif lane.has_room() and not self._parked[lane.name]:
            self._start(lane, message)
        else:
            self._parked[lane.name].append((monotonic(), message))
            self._hub.call_later(PARK_SECONDS, self._return_parked)

    def _start(self, lane: Lane, message: Any) -> None:
        slot = lane.take(message)
        message.slot = slot
        for name in ("ack", "reject", "requeue"):
            setattr(message, name, partial(self._settle, slot, getattr(message, name)))
        try:
            assert self.on_message is not None
            self.on_message(message)
        except Exception as exc:
            # kombu takes a KeyError on Redis for a lost connection: one that got out would restart the consumer.
            if isinstance(exc, self._errors) and not isinstance(exc, KeyError):
                self._hand_back(message)
                raise
            logger.exception(
                "a message could not be handled and is dropped: %s",
                safe_repr(message.headers),
                extra={"action": "message_dropped"},
            )
            if not slot.running:
                message.reject_log_error(logger, self._errors)

    def _settle(self, slot: Slot, action: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Acknowledges or rejects. On Redis, what a broken connection swallowed is repeated, on the next one if need be."""
        try:
            action(*args, **kwargs)
        except Exception as exc:
            lost = isinstance(exc, self._errors) or not _is_open(slot.message.channel)
            if not lost:
                slot.settle()
                raise
            logger.warning(
                "the broker was not told of message %s: %r", slot.message.delivery_tag, exc, extra={"action": "ack_lost"}
            )
            if self._adopts:
                slot.repeat = partial(self._settle, slot, action, *args, **kwargs)
                self._hub.call_later(REPEAT_SECONDS, self._repeat, slot)
                return
        slot.settle()

    def _repeat(self, slot: Slot) -> None:
        repeat, slot.repeat = slot.repeat, None
        if repeat is not None:
            repeat()

    def _hand_back(self, message: Any) -> None:
        if _is_open(message.channel):  # a closed channel's messages are the broker's again
            message.reject_log_error(logger, self._errors, requeue=True)

    # Messages beyond the slots: RabbitMQ delivers by a channel's prefetch and knows nothing of the limit over all.

    def _start_parked(self) -> None:
        for lane in sorted(self._gate.lanes.values(), key=lambda lane: lane.last_start):
            parked = self._parked.get(lane.name)
            while parked and lane.has_room() and not self._cancelled:
                self._start(lane, parked.popleft()[1])

    def _return_parked(self) -> None:
        """Another worker may have a slot."""
        due = monotonic() - PARK_SECONDS
        for parked in self._parked.values():
            while parked and parked[0][0] <= due:
                self._hand_back(parked.popleft()[1])


def _is_open(channel: Any) -> bool:
    """Of either transport: kombu's virtual channels say `closed`, those of py-amqp `is_open`."""
    return channel is not None and not getattr(channel, "closed", False) and getattr(channel, "is_open", True)


def _queue_of_ours(name: str) -> Any:
    """As it is declared everywhere: RabbitMQ refuses other arguments."""
    if name.removeprefix(get_settings().queue_prefix) == ORCHESTRATOR:
        return default_queue(name)
    return direct_queue(name) if is_direct(name) else capability_queue(name)


def lane_of(queue: str, lanes: Iterable[str]) -> str | None:
    """The lane that a queue belongs to by its name: `<capability>`, `<capability>.<task>` or `worker.<id>.<capability>`."""
    name = queue.removeprefix(get_settings().queue_prefix)
    direct = name.rpartition(".")[2] if is_direct(queue) else ""
    return next((lane for lane in (name, direct, name.partition(".")[0]) if lane in lanes), None)


def _global_qos(connection: Any) -> bool:
    """Whether one prefetch can hold for all queues of a channel: classic queues on RabbitMQ 3. Elsewhere the gate alone does."""
    if connection.transport.driver_type != "amqp":
        return False
    version = str(connection.connection.server_properties.get("version", ""))
    return version.partition(".")[0] == "3"


class CapabilityConsumerStep(bootsteps.StartStopStep):
    """Takes over from Celery's task consumer. The gate and the plan outlive a reconnect, the channels don't."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.plan = make_plan(c.app, selected_queues(c.app), c.pool.num_processes, c.hostname)
        self.gate = SlotGate.current = SlotGate(declared().max_concurrent_tasks or None)
        self.consumer: CapabilityConsumer | None = None
        _announce(c.app, self.plan)
        if hasattr(c.pool, "wait_for"):
            c.pool.wait_for(lambda: self.consumer is not None and self.consumer.fetching())

    def start(self, c: Any) -> None:
        c.task_consumer.close()
        c.task_consumer = self.consumer = CapabilityConsumer(
            c.connection,
            self.gate,
            self.plan,
            app=c.app,
            hub=c.hub,
            pool_limit=c.pool.num_processes,
            on_decode_error=c.on_decode_error,
        )
        c.qos = QoS(_no_change, 0)
        c.qos_global = False

    def shutdown(self, c: Any) -> None:
        self.gate.closing = True


def _announce(app: Any, plan: Plan) -> None:
    """Shows Celery the queues as they are declared here: in its banner, to Tasks (which declares them), to its senders.

    Past its `add`, which would bind them to an exchange.
    """
    queues = app.amqp.queues
    queues.given_names = selected_queues(app)
    queues._consume_from = {name: queue for share in plan.values() for name, queue in share.queues.items()}
    for name, queue in queues._consume_from.items():
        dict.__setitem__(queues, name, queue)


def _no_change(prefetch_count: int) -> None:
    """The prefetch is the capabilities' limit; nothing changes it."""
