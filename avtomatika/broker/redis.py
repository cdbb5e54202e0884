"""kombu's Redis transport, tuned: one client a channel, slots asked before each fetch, running work kept over a reconnect.

Used as ``broker_transport = "avtomatika.broker.redis:Transport"``; on the wire it is kombu's own format, so plain Celery apps
and this transport share queues freely.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from queue import Empty
from time import monotonic, time
from typing import Any, Protocol

from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from avtomatika.broker.queues import is_direct
from avtomatika.jobs import Message, new_id
from avtomatika.settings import Settings, get_settings

logger = logging.getLogger(__name__)

PRIORITY_STEPS = list(range(10))
SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and its priority step
TOUCH_SECONDS = 20.0
BATCH = 16

#: Moves up to ARGV[1] messages from the lists KEYS[3..], in that order, to the unacknowledged, as kombu records them.
FETCH = """
local out, left = {}, tonumber(ARGV[1])
for k = 3, #KEYS do
  while left > 0 do
    local item = redis.call('RPOP', KEYS[k])
    if not item then break end
    local readable, message = pcall(cjson.decode, item)
    local properties = readable and type(message) == 'table' and message['properties']
    local info = properties and properties['delivery_info']
    if not info or not properties['delivery_tag'] then
      redis.call('RPUSH', KEYS[k], item) -- nothing of kombu's: the ordinary fetch says so
      left = 0
      break
    end
    local place = ',' .. cjson.encode(info['exchange']) .. ',' .. cjson.encode(info['routing_key']) .. ']'
    redis.call('ZADD', KEYS[2], ARGV[2], properties['delivery_tag'])
    redis.call('HSET', KEYS[1], properties['delivery_tag'], '[' .. item .. place)
    out[#out + 1] = KEYS[k]
    out[#out + 1] = item
    left = left - 1
  end
end
return out
"""
RESTORE_INTERVAL_SECONDS = 5.0


def redis_priority(priority: int) -> int:
    """The priority step of ours (0..10, highest first) on Redis, where step 0 is fetched first."""
    return 9 - round(0.9 * max(0, min(10, priority)))


def queue_key(queue: str, step: int) -> str:
    """The list that holds a queue's messages of one priority step."""
    return f"{queue}{SEPARATOR}{step}" if step else queue


_encode = json.JSONEncoder(separators=(",", ":")).encode


def prepare_push(message: Message) -> tuple[str, str]:
    """The list key and the JSON payload that kombu's Redis channel would LPUSH for this message (default exchange only)."""
    step = redis_priority(message.priority) if message.priority is not None else 0
    payload = {
        "body": base64.b64encode(message.body.encode()).decode(),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": message.headers,
        "properties": {
            **message.properties,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": message.queue},
            "priority": step,
            "body_encoding": "base64",
            "delivery_tag": new_id(),
        },
    }
    return queue_key(message.queue, step), _encode(payload)


def transport_options(settings: Settings) -> dict[str, Any]:
    """What goes into Celery's `broker_transport_options` where the broker is Redis."""
    return {
        "visibility_timeout": settings.visibility_timeout_seconds,
        "unacked_restore_interval": RESTORE_INTERVAL_SECONDS,
        "unacked_restore_throttle": 1,
        "priority_steps": PRIORITY_STEPS,
        # A fetch waits in the hub, not in its socket: a second at most, so that an overdue reply means a dead connection.
        "socket_timeout": settings.broker_timeout_seconds,
        "socket_connect_timeout": settings.broker_timeout_seconds,
        "socket_keepalive": True,
        "health_check_interval": settings.broker_timeout_seconds,
    }


class Gate(Protocol):
    """What a channel asks before it fetches, and before it hands messages back."""

    def may_fetch(self, fetching: bool) -> bool:
        """Whether one more message may come; `fetching`: a fetch of this channel is out, its slot already reserved."""

    def fetch_seconds(self) -> float | None:
        """How long a fetch may hold its slot; None means the transport's own time."""

    def fetched(self, found: bool) -> None:
        """A fetch has come back."""

    def stands_back(self) -> bool:
        """Whether the other channels come first for now."""

    def batch(self) -> int:
        """How many more messages may be taken along with the one that has just come."""

    def keeps(self, message: Any) -> bool:
        """Whether this unacknowledged message belongs to running work and must not be handed back."""


class QoS(kombu_redis.QoS):
    """Prefetch and acknowledgements of one channel."""

    channel: Channel

    def can_consume(self) -> bool:
        gate = self.channel.gate
        if gate is None:
            return super().can_consume()
        fetching = bool(self.channel._in_poll)
        return (fetching or super().can_consume()) and gate.may_fetch(fetching)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        # One round trip without MULTI and EXEC: nobody may see the record and its index apart for longer than that, and the
        # sweep looks at old entries only.
        if pipe is not None:
            yield pipe
        else:
            with self.channel.conn_or_acquire(client) as client:
                yield client.pipeline(transaction=False)

    def append(self, message: Any, delivery_tag: str) -> None:
        if self.channel.recorded:
            self._quick_append(delivery_tag, message)
        else:
            super().append(message, delivery_tag)

    def held(self) -> list[str]:
        """Tags delivered and neither acknowledged nor rejected yet."""
        return [tag for tag in tuple(self._delivered) if tag not in self._dirty]

    def touch(self) -> None:
        """Tells every other worker's sweep that what this channel holds is alive."""
        tags = self.held()
        if tags:
            with self.channel.conn_or_acquire() as client:
                client.zadd(self.unacked_index_key, dict.fromkeys(tags, time()), xx=True)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            # To the end that is fetched from: a queue stays first in, first out, as it does on RabbitMQ.
            self.restore_by_tag(delivery_tag, leftmost=False)
            self._quick_ack(delivery_tag)
        else:
            super().reject(delivery_tag, requeue=False)

    def restore_unacked(self, client: Any = None) -> None:
        """Hands back what has not started: a running request goes on, and is adopted by the next channel."""
        gate = self.channel.gate
        with self.channel.conn_or_acquire(client) as client:
            for tag, message in reversed(list(self._delivered.items())):  # the oldest last: it is fetched first
                if gate is None or not gate.keeps(message):
                    self.restore_by_tag(tag, client=client)
        self._delivered.clear()


class MultiChannelPoller(kombu_redis.MultiChannelPoller):
    """Fetches for the channel that has waited longest first, so that scarce slots go round."""

    def on_poll_start(self) -> None:
        self._update_brpop_polling()
        for channel in sorted(self._channels, key=_turn):
            if channel.active_queues and channel.qos.can_consume():
                self._register_BRPOP(channel)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def touch_held(self) -> None:
        for channel in list(self._channels):
            try:
                channel.qos.touch()
            except channel.connection_errors as exc:
                # The poll loop notices a broken connection by itself and reconnects. The other channels have the same server:
                # each of them would wait for it as long.
                logger.debug("could not touch what is held: %r", exc)
                return


def _turn(channel: Channel) -> tuple[bool, float]:
    return channel.gate is not None and channel.gate.stands_back(), channel._brpop_sent_at or float("-inf")


class Channel(kombu_redis.Channel):
    """A channel with one client for all its commands, and a gate.

    Attributes:
        gate: asked before each fetch; None means prefetch alone decides.
    """

    QoS = QoS
    gate: Gate | None = None
    priority_steps = PRIORITY_STEPS
    unacked_restore_throttle = 1
    unacked_mutex_expire = 30  # a sweeper that died holds up the others for no longer

    _commands: Any = None
    recorded = False  # what is being delivered is in the unacknowledged already

    @cached_property
    def visibility_timeout(self) -> float:
        return get_settings().visibility_timeout_seconds

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        if client is None:
            client = self._commands
            if client is None:
                client = self._commands = self._create_client()
        yield client

    def _disconnect_pools(self) -> None:
        self._commands = None
        super()._disconnect_pools()

    def _brpop_start(self, timeout: float | None = None) -> None:
        if timeout is None and self.gate is not None:
            timeout = self.gate.fetch_seconds()
        queues = self._queue_cycle.consume(len(self.active_queues))
        if queues:
            self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            keys = self._fetch_keys(queues)
            self.client.connection.send_command("BRPOP", *keys, (self.brpop_timeout if timeout is None else timeout) or 0)

    def _fetch_keys(self, queues: list[str]) -> list[str]:
        """Highest priority first; but neither the worker's direct queue nor the others twice while the other side has messages.

        What lies in a direct queue was picked for this worker and holds a slot of it by then: it must not wait behind a
        backlog of higher priority. The queue that was fetched from last is at the end.
        """
        last = is_direct(queues[-1])
        first = [queue for queue in queues if is_direct(queue) != last]
        second = [queue for queue in queues if is_direct(queue) == last]
        return [self._q_for_pri(queue, step) for side in (first, second) for step in self.priority_steps for queue in side]

    def _brpop_read(self, **options: Any) -> Any:
        try:
            found = super()._brpop_read(**options)
        except Empty:
            if self.gate is not None:
                self.gate.fetched(False)
            raise
        if self.gate is not None:
            self.gate.fetched(True)
            self._fetch_more(self.gate.batch())
        return found

    @cached_property
    def _fetch_script(self) -> Any:
        return self.client.register_script(FETCH)

    def _fetch_more(self, count: int) -> None:
        """Takes what else is waiting, each recorded as unacknowledged in the same call as it leaves its queue."""
        count = min(count, BATCH)
        if count < 1 or self.closed or self._closing:
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        keys = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        with self.conn_or_acquire() as client:
            replies = self._fetch_script(
                keys=[self.unacked_key, self.unacked_index_key, *keys], args=[count, time()], client=client
            )
        for key, item in zip(replies[::2], replies[1::2], strict=True):
            self.recorded = True
            try:
                self.connection._deliver(loads(bytes_to_str(item)), bytes_to_str(key).rsplit(self.sep, 1)[0])
            finally:
                self.recorded = False

    def close(self) -> None:
        # The reply of a fetch in flight may hold a message that Redis has popped already; without a consumer it is handed
        # back. A broken socket must not keep the rest from being handed back.
        if self._in_poll:
            with suppress(Empty, *self.connection_errors):
                self._brpop_read()
        super().close()
        self._disconnect_pools()


class Transport(kombu_redis.Transport):
    """The transport behind ``avtomatika.broker.redis:Transport``.

    One more transport option than kombu's: `touch_interval`, seconds between two signs of life for what is held.
    """

    Channel = Channel
    cycle: MultiChannelPoller

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.cycle.poller.close()
        self.cycle = MultiChannelPoller()
        client.transport_options.setdefault("unacked_restore_interval", RESTORE_INTERVAL_SECONDS)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        previous = getattr(self.cycle, "touch_tref", None)
        if previous is not None:
            previous.cancel()
        seconds = connection.client.transport_options.get("touch_interval", TOUCH_SECONDS)
        self.cycle.touch_tref = loop.call_repeatedly(seconds, self.cycle.touch_held)
