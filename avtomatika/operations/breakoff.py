"""Connections of HTTP libraries on urllib3 that can be ended while another thread waits in them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


def causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception and all that it was made of: requests and urllib3 keep the first cause among the arguments."""
    seen: list[BaseException] = []
    todo: list[Any] = [exc]
    while todo:
        item = todo.pop()
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            todo += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]
    yield from seen


class Connections:
    """Remembers what a pool opens. The libraries close what is idle; what waits for an answer nobody else can reach."""

    def __init__(self) -> None:
        self._opened: list[Any] = []

    def follow(self, pool: Any) -> Any:
        """Remembers every connection that this pool opens from now on; returns the pool."""
        if not hasattr(pool, "_followed"):
            pool._followed = True
            make = pool._new_conn

            def remembered() -> Any:
                self._opened.append(make())
                return self._opened[-1]

            pool._new_conn = remembered
        return pool

    def follow_all(self, manager: Any) -> Any:
        """The same for every pool of a pool manager; returns the manager."""
        pool_of = manager.connection_from_host
        manager.connection_from_host = lambda *args, **kwargs: self.follow(pool_of(*args, **kwargs))
        return manager

    def break_off(self) -> None:
        """Ends whatever waits in one of them, with an error or an early end. Called from another thread."""
        for connection in self._opened:
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
