"""HTTP services: where a secret may be sent to, and what it means when one cannot be reached, by the types of exceptions."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import httpx

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError


def safe_url(url: str, where: str) -> str:
    """An address that a secret may be sent to: of https, or of this very machine. It has no slash at its end.

    Raises OperationError (CONFIGURATION_ERROR) for any other; `where` says where it stands.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment or not parts.hostname:
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{where} is to be https://host/path, without a user or a query")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{where} is to begin with https://")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def judge_transport(exc: BaseException, what: str = "the service") -> OperationError | None:
    """The failure that a transport's exception is; None where it is none of one. Its text is not used: it may hold an address."""
    kind = _kind(exc)
    if kind is None:
        return None
    code, said = kind
    return OperationError(code, f"{what}: {said}", details={"exception": type(exc).__name__})


def _kind(exc: BaseException) -> tuple[TaskErrorCode, str] | None:
    if not (isinstance(exc, httpx.TransportError) or _is(exc, "requests.exceptions", "RequestException")):
        return None
    causes = list(_causes(exc))
    if any(isinstance(cause, httpx.ProxyError) or _is(cause, "requests.exceptions", "ProxyError") for cause in causes):
        return TaskErrorCode.NETWORK_PROXY_ERROR, "the proxy refuses or fails"
    if any(isinstance(cause, socket.gaierror) or _is(cause, "urllib3.exceptions", "NameResolutionError") for cause in causes):
        return TaskErrorCode.NETWORK_DNS_ERROR, "its name cannot be resolved"
    if any(isinstance(cause, ssl.SSLError) or _is(cause, "requests.exceptions", "SSLError") for cause in causes):
        return TaskErrorCode.NETWORK_SSL_ERROR, "TLS fails: its certificate is not trusted here, or it speaks no TLS"
    if isinstance(exc, httpx.TimeoutException) or _is(exc, "requests.exceptions", "Timeout"):
        return TaskErrorCode.NETWORK_TIMEOUT, "no answer in time"
    return TaskErrorCode.NETWORK_CONNECTION_FAILED, "cannot be reached, or the connection broke"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exception and all those that it came from, wrapped ones included."""
    seen: set[int] = set()
    todo: list[object] = [exc]
    while todo:
        found = todo.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            todo += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


def _is(exc: BaseException, module: str, name: str) -> bool:
    """Whether it is of a type of a library that need not be installed."""
    return any(kind.__module__ == module and kind.__name__ == name for kind in type(exc).__mro__)


def retry_after(headers: Mapping[str, str] | None) -> int | None:
    """Seconds that a service asks to wait, by its Retry-After header; None without a number there."""
    found = {name.lower(): value for name, value in (headers or {}).items()}.get("retry-after", "")
    return int(found) if found.isascii() and found.isdigit() else None
