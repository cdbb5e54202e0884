"""Requests to addresses that others have named: never redirected, and never to an address inside."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from avtomatika.addresses import UrlRefusedError, check_url, is_public
from avtomatika.errors import AvtomatikaError


class SendError(AvtomatikaError):
    """A request was not answered; the message says why without naming addresses.

    Attributes:
        distrusted: because of its certificate: it will not be answered at another time either.
    """

    distrusted = False


class _AddressRefusedError(OSError):
    """A name leads to an address that is not public. An OSError, so that the other addresses of that name are tried, too."""


def _guarded_socket(addr_info: Any) -> socket.socket:
    """A socket for an address that is about to be connected to: whatever a name leads to at that moment is seen here."""
    family, kind, proto, _, address = addr_info
    if not is_public(str(address[0])):
        raise _AddressRefusedError("not a public address")
    return socket.socket(family, kind, proto)


@dataclass(frozen=True)
class Answer:
    """
    Attributes:
        body: its first bytes.
        truncated: there was more.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    truncated: bool = False


async def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float, allow_private: bool = False) -> int:
    """Posts JSON and returns the answer's status; its body is not read, and a redirect is an answer like any other.

    Raises:
        UrlRefusedError: the URL, or every address that its name leads to, is refused.
        SendError: no answer.
    """
    headers = {"Content-Type": "application/json", **headers}
    answer = await send("POST", url, body, headers, timeout_seconds=timeout_seconds, allow_private=allow_private)
    return answer.status


async def send(
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    *,
    timeout_seconds: float,
    allow_private: bool = False,
    most_bytes: int = 0,
) -> Answer:
    """Sends any request, as `post` does; of the answer's body at most so many bytes are read."""
    check_url(url, allow_private)
    connector = aiohttp.TCPConnector(force_close=True, socket_factory=None if allow_private else _guarded_socket)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        trust_env=False,
        auto_decompress=False,
    )
    sent = {"User-Agent": "avtomatika", **headers}
    try:
        async with session, session.request(method, url, data=body, headers=sent, allow_redirects=False) as response:
            got = await _first_bytes(response, most_bytes + 1) if most_bytes else b""
            return Answer(response.status, response.headers, got[:most_bytes], len(got) > most_bytes)
    except TimeoutError:
        raise SendError(f"no answer within {timeout_seconds:g} s") from None
    except aiohttp.ClientConnectorError as exc:
        if _was_refused(exc):
            raise UrlRefusedError(
                "the name of the URL leads to an address that is not public; WEBHOOK_ALLOW_PRIVATE=true allows such ones"
            ) from None
        failure = SendError(_words(exc))
        failure.distrusted = isinstance(exc, aiohttp.ClientConnectorCertificateError)
        raise failure from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise SendError(_words(exc)) from None


async def _first_bytes(response: aiohttp.ClientResponse, count: int) -> bytes:
    found = bytearray()
    while len(found) < count and (block := await response.content.read(count - len(found))):
        found += block
    return bytes(found)


def _was_refused(exc: BaseException) -> bool:
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, _AddressRefusedError) or "not a public address" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _words(exc: Exception) -> str:
    """What went wrong, without the addresses that a library's message may name."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return "the certificate of the receiver is not trusted"
        case aiohttp.ClientConnectorSSLError():
            return "no TLS connection came about"
        case aiohttp.ClientConnectorDNSError():
            return "the name of the host leads nowhere"
        case aiohttp.ClientConnectorError():
            return f"no connection: {os.strerror(exc.errno)}" if exc.errno else "no connection"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before an answer came"
    return f"no answer ({type(exc).__name__})"
