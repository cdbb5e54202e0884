"""Connections that wait for the next operation: of this process, each lent to one operation at a time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.ssh.auth import Failures
from avtomatika.operations.ssh.connect import Connection, open_connection
from avtomatika.operations.ssh.failures import ConnectionFailed
from avtomatika.operations.ssh.params import ConnectionParams
from avtomatika.operations.ssh.route import Hop, route

if TYPE_CHECKING:
    from avtomatika.operations.context import OperationContext

#: An idle connection is closed after this many seconds, a used one when it is this old.
IDLE_SECONDS, MAX_AGE_SECONDS = 60.0, 900.0
#: Connections at a time to a host under one key, and handshakes at a time with a host: sshd drops more (MaxStartups).
MAX_PER_HOST, MAX_HANDSHAKES = 16, 5
#: One that has been idle as long is asked whether it is still there, and has so long to answer.
_STALE_SECONDS, _ANSWER_SECONDS = 5.0, 3.0
_TICK = 0.1

Key = tuple[str, ...]


class Pool:
    """Exclusive: a transport that threads share loses short commands, since paramiko may send an end of file after the close."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.failures = Failures()
        self._lock = threading.Lock()
        self._idle: dict[Key, list[Connection]] = defaultdict(list)
        self._lent: set[Connection] = set()
        self._places: dict[Key, threading.BoundedSemaphore] = {}
        self._doors: dict[str, threading.BoundedSemaphore] = {}
        self._keeper: threading.Thread | None = None

    @contextlib.contextmanager
    def lend(self, op: OperationContext, hops: tuple[Hop, ...], params: ConnectionParams) -> Iterator[Connection]:
        key = (op.permit.entry.name, str(params.compression), *(hop.key for hop in hops))
        with self._lock:
            place = self._places.setdefault(key, threading.BoundedSemaphore(MAX_PER_HOST))
        with _waiting_for(op, place):
            connection = self._take(key) or self._open(op, hops, params)
            connection.keepalive, connection.keepalive_count = params.keepalive, params.keepalive_count
            with self._lock:
                self._lent.add(connection)
                self._keep()
            good = False
            try:
                yield connection
                good = True
            except (OperationError, OperationStopped):
                good = op.stop_reason is None
                raise
            finally:
                self._give_back(key, connection, good)

    def close(self) -> None:
        """Closes every connection that nobody uses."""
        with self._lock:
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """In a forked child: drops its copies of the sockets, and says nothing on them; they belong to the parent."""
        for connection in [*self._lent, *(one for connections in self._idle.values() for one in connections)]:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.close()

    @property
    def idle(self) -> int:
        with self._lock:
            return sum(map(len, self._idle.values()))

    def _take(self, key: Key) -> Connection | None:
        while True:
            with self._lock:
                connections = self._idle.get(key)
                if not connections:
                    return None
                connection = connections.pop()
                if not connections:
                    del self._idle[key]
            if self._is_good(connection):
                return connection
            connection.close()

    def _is_good(self, connection: Connection) -> bool:
        if not connection.is_alive or time.monotonic() - connection.opened > MAX_AGE_SECONDS:
            return False
        return time.monotonic() - connection.released < _STALE_SECONDS or connection.answers(_ANSWER_SECONDS)

    def _open(self, op: OperationContext, hops: tuple[Hop, ...], params: ConnectionParams) -> Connection:
        first = f"{hops[0].address}:{hops[0].port}"
        with self._lock:
            door = self._doors.setdefault(first, threading.BoundedSemaphore(MAX_HANDSHAKES))
        with _waiting_for(op, door):
            return open_connection(op, hops, params, self.failures)

    def _give_back(self, key: Key, connection: Connection, good: bool) -> None:
        if good:
            connection.close_channels()
        with self._lock:
            self._lent.discard(connection)
            if good and connection.is_alive and os.getpid() == self.pid:
                connection.released = time.monotonic()
                self._idle[key].append(connection)
                return
        connection.close()

    def _keep(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self._look_after, name="ssh-keeper", daemon=True)
            self._keeper.start()

    def _look_after(self) -> None:
        """Closes what has been idle too long, asks after silent peers; ends when there is no connection left."""
        while True:
            time.sleep(1)
            over = []
            with self._lock:
                for key, connections in list(self._idle.items()):
                    stay = [one for one in connections if time.monotonic() - one.released < IDLE_SECONDS and one.is_alive]
                    over += [one for one in connections if one not in stay]
                    self._idle[key] = stay
                    if not stay:
                        del self._idle[key]
                lent = list(self._lent)
                if not lent and not self._idle and not over:
                    self._keeper = None
                    return
            for connection in over:
                connection.close()
            for connection in lent:
                connection.watch()


@contextlib.contextmanager
def _waiting_for(op: OperationContext, semaphore: threading.BoundedSemaphore) -> Iterator[None]:
    while not semaphore.acquire(timeout=_TICK):
        op.checkpoint()
    try:
        yield
    finally:
        semaphore.release()


_pool: Pool | None = None
_pool_lock = threading.Lock()
#: Of the parents of a forked child: never collected, or their channels would say goodbye on the parents' connections.
_forgotten: list[Pool] = []


def pool() -> Pool:
    """This process's own, opened when it is first asked for."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = Pool()
        return _pool


def _forget() -> None:
    global _pool, _pool_lock
    _pool_lock = threading.Lock()
    if _pool is not None:
        _forgotten.append(_pool)
        _pool.abandon()
        _pool = None


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def lease(
    op: OperationContext, params: ConnectionParams, host: str | None = None, *, cut_on_stop: bool = True
) -> Iterator[Connection]:
    """A connection to ``params.host`` (or to another `host` with the same parameters), for the block alone.

    Args:
        cut_on_stop: a stop of the operation cuts the connection, and so wakes up whatever waits on it. Without it, the block has
            to look at `op.checkpoint` itself.

    Raises:
        ConnectionFailed, AuthenticationFailed, HostKeyMismatch, OperationStopped, OperationError
    """
    name: str = host if host is not None else params.host  # type: ignore[attr-defined]
    hops = route(op, params, name)
    with pool().lend(op, hops, params) as connection:
        try:
            with op.on_stop(connection.cut) if cut_on_stop else contextlib.nullcontext():
                yield connection
        except (OperationError, OperationStopped):
            raise
        except Exception as exc:
            op.checkpoint()  # what it met was the stop itself, as its library saw it
            if connection.gave_up:
                raise ConnectionFailed(connection.gave_up) from exc
            raise
