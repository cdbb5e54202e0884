"""How a facade takes messages out of queues for HTTP workers: so many now, from whichever broker, over one connection.

What was fetched is unacknowledged until it is settled: a facade that dies hands it back, as any consumer of that broker does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from time import time
from typing import Any, Protocol, TypeVar

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import RedisError

from avtomatika.broker.queues import capability_queue
from avtomatika.broker.redis import PRIORITY_STEPS, queue_key
from avtomatika.errors import StoreUnavailableError
from avtomatika.settings import Settings
from avtomatika.state.redis import connect

T = TypeVar("T")

# kombu's names.
UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"

#: Moves up to ARGV[1] messages of the lists KEYS[3..], in that order, to the unacknowledged, as kombu records them. Returns a tag
#: and a task id for each. What is not a task of a job goes to the list's other end, for whoever else fetches from the queue.
TAKE = """
local out, left = {}, tonumber(ARGV[1])
for k = 3, #KEYS do
  local tries = left
  while left > 0 and tries > 0 do
    local item = redis.call('RPOP', KEYS[k])
    if not item then break end
    tries = tries - 1
    local readable, message = pcall(cjson.decode, item)
    local properties = readable and type(message) == 'table' and message['properties']
    local info = type(properties) == 'table' and properties['delivery_info']
    local tag = type(info) == 'table' and properties['delivery_tag']
    local headers = tag and type(message['headers']) == 'table' and message['headers'] or {}
    if tag and type(headers['id']) == 'string' and headers['avtomatika_job'] then
      local place = ',' .. cjson.encode(info['exchange'] or '') .. ',' .. cjson.encode(info['routing_key'] or '') .. ']'
      redis.call('ZADD', KEYS[2], ARGV[2], tag)
      redis.call('HSET', KEYS[1], tag, '[' .. item .. place)
      out[#out + 1] = tag
      out[#out + 1] = headers['id']
      left = left - 1
    else
      redis.call('LPUSH', KEYS[k], item)
    end
  end
end
return out
"""

#: Puts a message back to where it was taken from, if it is still unacknowledged. KEYS: unacknowledged, index, list. ARGV: tag.
PUT_BACK = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
local message = cjson.decode(held)[1]
local priority = message['properties']['priority']
local list = KEYS[3]
if type(priority) == 'number' and priority > 0 then list = list .. '\\6\\22' .. string.format('%d', priority) end
-- As it was written, not encoded anew: its text is all but the opening bracket and the two names behind it.
local place = ',' .. cjson.encode(cjson.decode(held)[2]) .. ',' .. cjson.encode(cjson.decode(held)[3]) .. ']'
redis.call('RPUSH', list, string.sub(held, 2, #held - #place))
return 1
"""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One message: the task that it is about, and what its broker knows it by."""

    task_id: str
    queue: str
    tag: Any


class Fetcher(Protocol):
    """Raises StoreUnavailableError where the broker is away."""

    async def fetch(self, queue: str, count: int) -> Sequence[Fetched]:
        """Up to so many messages, highest priority first; none where none is there."""

    async def settle(self, fetched: Fetched) -> None:
        """The message is done with."""

    async def put_back(self, fetched: Fetched) -> None:
        """Another consumer may have it."""

    async def close(self) -> None: ...


class RedisFetcher:
    def __init__(self, url: str) -> None:
        self._client = connect(url)

    async def fetch(self, queue: str, count: int) -> Sequence[Fetched]:
        keys = [UNACKED, UNACKED_INDEX, *(queue_key(queue, step) for step in PRIORITY_STEPS)]
        words = await self._ask(self._take(keys=keys, args=[count, time()]))
        return [Fetched(task_id, queue, tag) for tag, task_id in zip(words[::2], words[1::2], strict=True)]

    async def settle(self, fetched: Fetched) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zrem(UNACKED_INDEX, fetched.tag)
            pipe.hdel(UNACKED, fetched.tag)
            await self._ask(pipe.execute())

    async def put_back(self, fetched: Fetched) -> None:
        await self._ask(self._put_back(keys=[UNACKED, UNACKED_INDEX, fetched.queue], args=[fetched.tag]))

    async def close(self) -> None:
        await self._client.aclose()

    @cached_property
    def _take(self) -> Any:
        return self._client.register_script(TAKE)

    @cached_property
    def _put_back(self) -> Any:
        return self._client.register_script(PUT_BACK)

    @staticmethod
    async def _ask(call: Any) -> Any:
        try:
            return await call
        except (RedisError, OSError) as exc:
            raise StoreUnavailableError(f"the broker does not answer ({type(exc).__name__})") from exc


class AmqpFetcher:
    """RabbitMQ, by kombu, in a thread of its own: one connection, one channel."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="avtomatika-fetch")
        self._connection: Any = None
        self._channel: Any = None
        self._declared: set[str] = set()

    async def fetch(self, queue: str, count: int) -> Sequence[Fetched]:
        return await self._do(lambda: self._fetch(queue, count))

    async def settle(self, fetched: Fetched) -> None:
        await self._do(lambda: self._answer(fetched, lambda message: message.ack()))

    async def put_back(self, fetched: Fetched) -> None:
        await self._do(lambda: self._answer(fetched, lambda message: message.requeue()))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        self._thread.shutdown(wait=False)

    def _fetch(self, queue: str, count: int) -> list[Fetched]:
        channel = self._open()
        bound = capability_queue(queue)(channel)
        if queue not in self._declared:
            bound.declare()
            self._declared.add(queue)
        out: list[Fetched] = []
        while len(out) < count:
            message = bound.get(accept=["json"])
            if message is None:
                break
            if not message.headers.get("id") or not message.headers.get("avtomatika_job"):  # no task of a job: not for us
                message.requeue()
                break
            out.append(Fetched(message.headers["id"], queue, message))
        return out

    def _answer(self, fetched: Fetched, action: Callable[[Any], None]) -> None:
        if fetched.tag.channel is self._channel:  # a closed channel's messages are the broker's again
            action(fetched.tag)

    def _open(self) -> Any:
        if self._channel is None:
            self._connection = self._app.connection_for_read()
            self._connection.ensure_connection(max_retries=1, timeout=3)
            self._channel = self._connection.channel()
        return self._channel

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        self._declared.clear()
        if connection is not None:
            connection.collapse()

    async def _do(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tried, action)

    def _tried(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (OSError, OperationalError, ChannelError, *self._errors) as exc:
            self._drop()
            raise StoreUnavailableError(f"the broker does not answer ({type(exc).__name__})") from exc

    @cached_property
    def _errors(self) -> tuple[type[BaseException], ...]:
        connection = self._app.connection_for_read()
        return (*connection.connection_errors, *connection.channel_errors)


def open_fetcher(app: Celery, settings: Settings) -> Fetcher:
    """The fetcher of the broker that these settings name."""
    return RedisFetcher(settings.broker_url) if settings.broker_url.startswith("redis") else AmqpFetcher(app)
