"""The little of SOCKS5 (RFC 1928) that a tunnel needs: CONNECT, without a login, on an address that only this machine reaches."""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum

_VERSION = 5
_NO_LOGIN, _NO_METHOD = 0, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4


class Reply(IntEnum):
    """What a client is answered."""

    GRANTED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    REFUSED = 5
    UNKNOWN_COMMAND = 7
    UNKNOWN_ADDRESS = 8


class SocksError(Exception):
    """What the client says is no SOCKS5 that is served here."""


def read_request(client: socket.socket) -> tuple[str, int]:
    """The host and the port that a client asks for. Raises SocksError, after the client has been told."""
    version, count = _exactly(client, 2)
    if version != _VERSION:
        raise SocksError(f"version {version}")
    methods = _exactly(client, count)
    if _NO_LOGIN not in methods:
        client.sendall(bytes([_VERSION, _NO_METHOD]))
        raise SocksError("it wants to log in")
    client.sendall(bytes([_VERSION, _NO_LOGIN]))
    version, command, _, kind = _exactly(client, 4)
    if version != _VERSION or command != _CONNECT:
        answer(client, Reply.UNKNOWN_COMMAND)
        raise SocksError(f"command {command}")
    if kind == _IPV4:
        host = str(ipaddress.IPv4Address(_exactly(client, 4)))
    elif kind == _IPV6:
        host = str(ipaddress.IPv6Address(_exactly(client, 16)))
    elif kind == _NAME:
        host = _exactly(client, _exactly(client, 1)[0]).decode("ascii", "replace").lower()
    else:
        answer(client, Reply.UNKNOWN_ADDRESS)
        raise SocksError(f"address type {kind}")
    return host, int.from_bytes(_exactly(client, 2), "big")


def answer(client: socket.socket, reply: Reply) -> None:
    """Ends the request. The address that is told is none: clients do not use it."""
    client.sendall(bytes([_VERSION, reply, 0, _IPV4, 0, 0, 0, 0, 0, 0]))


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise SocksError("it went away")
        data += more
    return data
