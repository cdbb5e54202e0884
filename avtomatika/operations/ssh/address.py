"""From a host's name to a TCP connection: resolved once, checked, and that very address connected to."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from avtomatika.operations.errors import PolicyError
from avtomatika.operations.names import is_of_this_machine
from avtomatika.operations.ssh.failures import ConnectionFailed

#: How often a wait looks whether it is to end.
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Resolved:
    """An address of a name."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def ip(self) -> str:
        return str(self.sockaddr[0])


def resolve(address: str, port: int, timeout: float, checkpoint: Callable[[], None]) -> list[Resolved]:
    """Every address of a name, in the order of the system.

    Raises:
        ConnectionFailed: there is no such name, or nobody says so in time.
    """
    found: list[Any] = []
    failed: list[OSError] = []
    done = threading.Event()

    def look() -> None:
        try:
            found.extend(socket.getaddrinfo(address, port, type=socket.SOCK_STREAM))
        except OSError as exc:
            failed.append(exc)
        except UnicodeError:
            failed.append(socket.gaierror(socket.EAI_NONAME, "it is no host name"))
        finally:
            done.set()

    # A look-up cannot be broken off: the thread is left alone with it where it takes too long.
    threading.Thread(target=look, name="ssh-resolve", daemon=True).start()
    ends = time.monotonic() + timeout
    while not done.wait(_TICK):
        checkpoint()
        if time.monotonic() >= ends:
            raise ConnectionFailed(f"{address}: the name was not resolved within {timeout:g} s")
    if failed:
        raise ConnectionFailed(f"{address}: the name cannot be resolved: {failed[0].strerror}")
    return [Resolved(family, sockaddr) for family, _, _, _, sockaddr in found]


def check_outside(name: str, ip: str) -> None:
    """For hosts that the inventory does not name. Raises PolicyError where no such machine can be meant."""
    if is_of_this_machine(ip):
        raise PolicyError(
            f"{name} leads to {ip}: loopback, link-local and metadata addresses have to be named in the inventory",
            details={"host": name, "address": ip},
        )


def connect(addresses: list[Resolved], timeout: float, checkpoint: Callable[[], None]) -> socket.socket:
    """A TCP connection to the first of them that answers, each tried for its share of the time.

    Raises:
        ConnectionFailed: none does; the message says why each did not.
    """
    failures = []
    for index, address in enumerate(addresses):
        share = timeout / (len(addresses) - index) if len(addresses) > 1 else timeout
        began = time.monotonic()
        try:
            return _connect(address, share, checkpoint)
        except OSError as exc:
            failures.append(f"{address.ip} port {address.sockaddr[1]}: {exc.strerror or exc}")
        timeout -= time.monotonic() - began
    raise ConnectionFailed("cannot connect: " + "; ".join(failures))


def _connect(address: Resolved, timeout: float, checkpoint: Callable[[], None]) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address.sockaddr)
        ends = time.monotonic() + timeout
        while code == errno.EINPROGRESS:
            writable = _is_writable(sock)
            if writable:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                break
            checkpoint()
            if time.monotonic() >= ends:
                raise TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout:g} s")
        if code:
            raise OSError(code, os.strerror(code))
        # Without it every small packet waits for the acknowledgement of the one before: a command takes 13 times as long.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setblocking(True)
        return sock
    except BaseException:
        sock.close()
        raise


def _is_writable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(_TICK * 1000))
