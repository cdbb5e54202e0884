"""The family, and what an exception means: by its type and its errno."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import aiohttp

from avtomatika.operations.base import Family
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError

_FORBIDDEN = (errno.EACCES, errno.EPERM)


def judge(exc: BaseException) -> OperationError | None:
    match exc:
        case OperationError():
            return exc
        case aiohttp.InvalidURL():
            return OperationError(TaskErrorCode.VALIDATION_INVALID_FORMAT, "this is no URL that can be asked for")
        case aiohttp.ClientConnectorDNSError():
            return OperationError(TaskErrorCode.NETWORK_DNS_ERROR, "the name cannot be resolved")
        case aiohttp.ClientConnectorCertificateError():
            return judge(exc.certificate_error)
        case aiohttp.ClientConnectorError():
            return judge(exc.os_error)
        case ssl.SSLCertVerificationError():
            why = getattr(exc, "verify_message", "it is not trusted")
            return OperationError(TaskErrorCode.NETWORK_SSL_ERROR, f"the certificate is refused: {why}")
        case ssl.SSLError():
            why = getattr(exc, "reason", None) or "it broke off"
            return OperationError(TaskErrorCode.NETWORK_SSL_ERROR, f"no TLS connection came about: {why}")
        case socket.gaierror():
            return OperationError(TaskErrorCode.NETWORK_DNS_ERROR, f"the name cannot be resolved: {exc.strerror}")
        case TimeoutError():
            return OperationError(TaskErrorCode.NETWORK_TIMEOUT, "no answer in time")
        case OSError() if exc.errno in _FORBIDDEN:
            return OperationError(TaskErrorCode.NETWORK_FIREWALL_BLOCKED, f"this machine does not let it out: {exc.strerror}")
        case OSError():
            return OperationError(TaskErrorCode.NETWORK_CONNECTION_FAILED, f"cannot connect: {exc.strerror or exc}")
        case aiohttp.ClientError() | EOFError() | asyncio.IncompleteReadError():
            return OperationError(TaskErrorCode.NETWORK_CONNECTION_FAILED, f"the answer broke off ({type(exc).__name__})")
    return None


family = Family("network", extra="network", judge=judge)
