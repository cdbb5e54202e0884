"""What the parts of the Redis store share: the client, the scripts, and commands gathered for one atomic call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.resources import files
from typing import Any, cast

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JSON, Message, new_id
from avtomatika.state.base import CommitResult
from avtomatika.state.clock import StoreClock
from avtomatika.state.keys import Keys

Word = str | int | float | bytes | JSON
Command = tuple[Word, ...]
Push = Callable[[Message], tuple[str, str]]

CONNECTIONS = 32
CONNECTION_SECONDS = 20.0

#: What the scripts that change tasks share.
LIBRARIES = ("lib_limits", "lib_lanes", "lib_attempts", "lib_fleet")

#: How long a call may be kept for the look at the store's clock that follows it.
_CLOCK_SECONDS = 0.5

_RETRIED = (ConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError)
_CLOSED = "handler is closed"  # how uvloop says, in a RuntimeError, that a connection has ended meanwhile
#: Its memory or its disk is full. Redis says so before a script's first write, so that nothing was changed.
_FULL = ("OOM command not allowed", "MISCONF")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def dumps(value: Any) -> str:
    out = _encode(value)
    try:
        out.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of a file that is no UTF-8
        return json.dumps(value, separators=(",", ":"))
    return out


def packed(value: Any) -> bytes:
    """The same as the client sends it: of texts it would look for their kind first, and encode them once more."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return dumps(value).encode()


loads = json.loads


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _cancels() -> int:
    """How often the task that runs here was told to stop."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _seconds(answer: Any) -> float:
    """What TIME says."""
    seconds, microseconds = answer
    return int(seconds) + int(microseconds) / 1e6


def todo(body: Any, outbox: Sequence[str] = ()) -> CommitResult:
    """What a script says there is to do now."""
    if not body:
        return CommitResult(True, tuple(outbox))
    found = loads(body)
    # Lua's empty table is an object in JSON.
    stops = tuple((worker, task) for worker, task in found["stops"] or ())
    return CommitResult(True, (*outbox, *(found["outbox"] or ())), tuple(found["picks"] or ()), stops)


def connect(url: str) -> aioredis.Redis:
    """A client that repeats a call a few times when its connection breaks: every script here may be repeated.

    However many calls there are at once, they share a few connections, and wait for one where all are taken.

    Its socket has a timeout whatever the store's patience is: subscriptions, and a connection's first words, have no other.
    """
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=CONNECTION_SECONDS,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), 4),
        retry_on_error=[*_RETRIED, RuntimeError],
        socket_connect_timeout=2,
        socket_timeout=5,
        socket_keepalive=True,
        health_check_interval=15,
        decode_responses=True,
    )
    return aioredis.Redis.from_pool(pool)


class RedisBase:
    """
    Args:
        client: an asyncio client with decoded responses.
        namespace: prefix of every key.
        push: where the broker is this same database: message -> (list key, payload) to push in the commit's own call.
            Without it messages go through the outbox.
        retention: seconds for which the records of an ended job are kept.
        stream_length: about how many events the global stream keeps at most.
        snapshots: the stream also has the records of jobs that begin and end, for the history.
        patience: seconds after which a call that has no answer fails; None tries for about as long as connections allow.
        clock: kept at the store's time by the calls that are made; one of its own where none is given.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        namespace: str,
        *,
        push: Push | None = None,
        retention: float = 7 * 24 * 3600,
        stream_length: int = 1_000_000,
        snapshots: bool = False,
        patience: float | None = None,
        clock: StoreClock | None = None,
    ) -> None:
        self._client = client
        self._keys = Keys(namespace)
        self._push = push
        self._retention = max(1, int(retention))
        self._stream_length = stream_length
        self._snapshots = snapshots
        self._patience = patience
        self.clock = clock or StoreClock()

    @cached_property
    def _loaded(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        return {}

    def _script(self, name: str, *libraries: str) -> Callable[..., Awaitable[Any]]:
        """A script with the libraries that it uses, loaded once; all know the namespace as NS."""
        if name not in self._loaded:
            folder = files("avtomatika.state").joinpath("scripts")
            parts = [f"local NS = '{self._keys.namespace}'"]
            parts += [folder.joinpath(f"{part}.lua").read_text("utf-8") for part in (*libraries, name)]
            self._loaded[name] = cast("Callable[..., Awaitable[Any]]", self._client.register_script("\n".join(parts)))
        return self._loaded[name]

    async def synchronise(self) -> None:
        """Looks at the store's clock, so that `clock` is right from the start. Raises StoreUnavailableError."""
        sent = self.clock.begin()
        self.clock.measured(sent, _seconds(await self._answer(self._client.time())))

    async def _ask(self, call: Awaitable[Any], blocks: float = 0.0) -> Any:
        """Awaits one call, and looks at the store's clock now and then. See `_answer`."""
        answer = await self._answer(call, blocks)
        if self.clock.is_due:
            sent = self.clock.begin()
            # The next look may do better; the call itself has its answer.
            with suppress(StoreUnavailableError, RedisError, OSError, RuntimeError):
                async with asyncio.timeout(_CLOCK_SECONDS):
                    self.clock.measured(sent, _seconds(await self._answer(self._client.time())))
        return answer

    async def _answer(self, call: Awaitable[Any], blocks: float = 0.0) -> Any:
        """Awaits one call; a store that is away is StoreUnavailableError. `blocks`: seconds for which it may wait on purpose.

        A cancel that comes with the answer is a cancel: the `wait_for` of Python 3.11, deep in the client, swallows it.
        """
        before = _cancels()
        try:
            async with asyncio.timeout(None if self._patience is None else self._patience + blocks):
                answer = await call
        except (*_RETRIED, TimeoutError) as exc:
            raise StoreUnavailableError(f"the state store does not answer ({type(exc).__name__}); it is tried again") from exc
        except RuntimeError as exc:
            if _CLOSED not in str(exc):
                raise
            raise StoreUnavailableError("the connection to the state store was lost; it is tried again") from exc
        except ResponseError as exc:
            if isinstance(exc, OutOfMemoryError) or any(sign in str(exc) for sign in _FULL):
                raise StoreUnavailableError(f"the state store takes no more data; it is tried again: {exc}") from exc
            raise
        if _cancels() > before:
            raise asyncio.CancelledError
        return answer

    async def _apply(
        self,
        guards: Sequence[tuple[str, str, Word]],
        commands: Sequence[Command],
        now: float = 0.0,
        *,
        nonce: str | None = None,
        outbox: Sequence[str] = (),
        mark: str = "",
        unbegun: Sequence[str] = (),
    ) -> CommitResult:
        """Runs all commands if every guard (key, field, expected value or '') holds, or if this nonce was applied before.

        Args:
            outbox: ids that the commands put into the outbox, for the answer.
            mark: a key that says for a minute that this nonce was applied, where the record may be gone by then.
            unbegun: attempts of which no worker may have begun one.
        """
        keys = [key for key, _, _ in guards]
        expected = [(field, str(value)) for _, field, value in guards]
        # One word of JSON instead of dozens of words: the client packs each word by itself, Redis decodes JSON in C.
        body = dumps([nonce or new_id(), now, expected, commands, mark, unbegun])
        reply = await self._ask(self._script("guarded", *LIBRARIES)(keys=keys, args=[body]))
        if int(reply[0]) == 0:
            return CommitResult(False)
        return todo(reply[1] if len(reply) > 1 else "", outbox)

    def _prepared(self, message: Message) -> tuple[str, str]:
        """(list, payload) for a script that pushes a message when its turn comes; with an empty list it goes to the outbox."""
        if self._push is not None and not message.exchange:
            return self._push(message)
        return "", dumps(message.to_dict())

    def _publish(self, message: Message, now: float) -> tuple[list[Command], str | None]:
        """Commands that publish a message (or put it into the outbox, whose id is the second item)."""
        commands: list[Command] = []
        outbox_id = None
        if message.key is not None:
            commands += self._to_ledger(message, now)
        if self._push is not None and not message.exchange:
            commands.append(("LPUSH", *self._push(message)))
        else:
            outbox_id = new_id()
            commands.append(("HSET", self._keys.outbox, outbox_id, dumps(message.to_dict())))
            commands.append(("ZADD", self._keys.outbox_at, now, outbox_id))
        return commands, outbox_id

    def _to_ledger(self, message: Message, now: float) -> list[Command]:
        assert message.key is not None
        return [
            ("HSET", self._keys.ledger, message.key, dumps(message.to_dict())),
            ("ZADD", self._keys.ledger_at, now, message.key),
        ]

    def _settle(self, keys: Sequence[str]) -> list[Command]:
        if not keys:
            return []
        return [("HDEL", self._keys.ledger, *keys), ("ZREM", self._keys.ledger_at, *keys)]
