"""Where a host's name leads, and which of these addresses may be connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

from avtomatika.operations.config import HostEntry
from avtomatika.operations.policy import Permit

#: A socket's family and the address to connect it to.
Address = tuple[int, Any]


def addresses(permit: Permit, host: HostEntry, port: int) -> list[Address]:
    """The addresses of a host, checked, in the order to try them.

    Raises:
        PolicyError: one of them is refused.
        socket.gaierror: the name cannot be resolved.
    """
    try:
        return _checked(permit, host, socket.getaddrinfo(host.address, port, type=socket.SOCK_STREAM))
    except ValueError:
        raise _no_name() from None


async def resolve(permit: Permit, host: HostEntry, port: int) -> list[Address]:
    """The same on the event loop."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.address, port, type=socket.SOCK_STREAM)
    except ValueError:
        raise _no_name() from None
    return _checked(permit, host, found)


def _no_name() -> socket.gaierror:
    """For what cannot be a name at all, such as one with a label of more than 63 characters."""
    return socket.gaierror(socket.EAI_NONAME, "this can be no name of a host")


def _checked(permit: Permit, host: HostEntry, found: Iterable[tuple[Any, ...]]) -> list[Address]:
    checked: list[Address] = []
    for family, _, _, _, address in found:
        permit.peer(host, str(address[0]))
        checked.append((family, address))
    return checked


def connect(
    permit: Permit, host: HostEntry, port: int, timeout: float, watch: Callable[[socket.socket], None] | None = None
) -> socket.socket:
    """A TCP connection to the first address that answers: one of those that were checked, whatever the name leads to later.

    Args:
        watch: is given each socket before it connects: shutting it down ends the waiting.

    Raises:
        PolicyError, socket.gaierror: as `addresses` does.
        OSError: none of them could be connected to; TimeoutError where the last one gave no answer.
    """
    failure: OSError = OSError("the name leads to no address")
    for family, address in addresses(permit, host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        if watch is not None:
            watch(sock)
        try:
            sock.connect(address)
            return sock
        except OSError as exc:
            sock.close()
            failure = exc
    raise failure
