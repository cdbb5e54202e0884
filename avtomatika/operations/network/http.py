"""The check of HTTP: a request, redirects on allowed hosts, and what the status says."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from avtomatika.addresses import UrlRefusedError, check_url
from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.network.params import Target
from avtomatika.operations.reach import resolve
from avtomatika.results import JSON

_REDIRECTS = (301, 302, 303, 307, 308)
#: A proxy in between asks for a login.
_PROXY = (407, 511)


class _Resolver(AbstractResolver):
    """Names are those of the inventory; their addresses are checked."""

    def __init__(self, op: OperationContext) -> None:
        self._op = op

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        found = await resolve(self._op.permit, self._op.host(host), port)
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=af, proto=0, flags=socket.AI_NUMERICHOST)
            for af, address in found
        ]

    async def close(self) -> None:
        return None


def _session(op: OperationContext, host: str, timeout: float, *, tls: bool) -> aiohttp.ClientSession:
    entry = op.host(host)
    context = ssl.create_default_context(cafile=None if entry.ca_file is None else str(entry.ca_file)) if tls else True
    op.permit.peer(entry, host)  # an address as it is written is not resolved
    connector = aiohttp.TCPConnector(force_close=True, resolver=_Resolver(op), ssl=context, use_dns_cache=False)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout),
        trust_env=False,
        auto_decompress=False,
    )


async def look(target: Target, op: OperationContext, facts: JSON) -> float:
    """Asks once, and once more for each redirect that is followed. Returns the seconds of the last request."""
    url = target.url or ""
    redirects: list[str] = []
    while True:
        host = urlsplit(url).hostname or ""
        facts |= {"host": host, "url": url, "redirects": redirects}
        began = time.perf_counter()
        async with (
            _session(op, host, target.timeout, tls=url.startswith("https:")) as session,
            session.request(target.method, url, allow_redirects=False, headers={"User-Agent": "avtomatika"}) as response,
        ):
            took = time.perf_counter() - began
            facts |= {
                "status": response.status,
                "content_type": response.headers.get("Content-Type"),
                "server": response.headers.get("Server"),
            }
            location = response.headers.get("Location")
            status = response.status
        if status not in _REDIRECTS or location is None or status in target.expected_status:
            break
        following = urljoin(url, location)
        if not _may_follow(target, url, following) or len(redirects) >= target.max_redirects:
            facts["redirect_not_followed"] = following
            break
        redirects.append(following)
        url = following
    op.log(f"{target.method} {url}: {status} after {took * 1000:.1f} ms")
    _check_status(status, target)
    return took


def _may_follow(target: Target, url: str, following: str) -> bool:
    """Its own host, or one that the task names and the guard has seen; never out of TLS."""
    try:
        check_url(following, allow_private=True)
    except UrlRefusedError:
        return False
    before, after = urlsplit(url), urlsplit(following)
    if before.scheme == "https" and after.scheme != "https":
        return False
    return after.hostname in (before.hostname, *target.redirect_hosts)


def _check_status(status: int, target: Target) -> None:
    wanted = status in target.expected_status if target.expected_status else 200 <= status < 400
    if wanted:
        return
    if status in _PROXY:
        raise OperationError(TaskErrorCode.NETWORK_PROXY_ERROR, f"a proxy asks for a login: status {status}")
    kind = ErrorCode.TRANSIENT if status >= 500 or status == 429 else ErrorCode.PERMANENT
    raise OperationError(TaskErrorCode.EXTERNAL_SERVICE_ERROR, f"the status is {status}", details={"status": status}, kind=kind)
