"""Single checks of a host: DNS, TCP, TLS, HTTP. What was resolved and allowed is what is connected to."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.network.certificates import Certificates, check_days, read
from avtomatika.operations.network.family import judge
from avtomatika.operations.network.http import look as look_at_http
from avtomatika.operations.network.params import Kind, Target
from avtomatika.operations.reach import Address, resolve
from avtomatika.results import JSON


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        seconds: until there was an answer.
        failure: why it failed; None where it is well.
    """

    kind: Kind
    seconds: float
    facts: JSON = field(default_factory=dict)
    failure: OperationError | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None

    def to_dict(self) -> JSON:
        said = {"check": self.kind, "ok": self.ok, "seconds": round(self.seconds, 6), **self.facts}
        if self.failure is not None:
            said |= {"error_code": self.failure.code.value, "error": str(self.failure)}
        return said


async def check(kind: Kind, target: Target, op: OperationContext) -> Verdict:
    """Looks once. What goes wrong with the other side is in the verdict; what is refused is raised.

    Raises:
        PolicyError: the name leads to an address that is not allowed.
    """
    facts: JSON = {}
    began = time.perf_counter()
    failure = None
    try:
        async with asyncio.timeout(op.seconds_left(target.timeout)):
            seconds = await _CHECKS[kind](target, op, facts)
    except Exception as exc:
        seconds = time.perf_counter() - began
        failure = judge(exc)
        if failure is None or (isinstance(exc, OperationError) and exc.code.startswith("VALIDATION_")):
            raise
    return Verdict(kind, seconds, facts, failure)


async def _addresses(target: Target, op: OperationContext, port: int, facts: JSON) -> list[Address]:
    host = op.host(target.host or "")
    facts["host"] = host.name
    found = await resolve(op.permit, host, port)
    facts["addresses"] = list(dict.fromkeys(str(address[0]) for _, address in found))
    return found


async def _dns(target: Target, op: OperationContext, facts: JSON) -> float:
    began = time.perf_counter()
    await _addresses(target, op, target.port or 0, facts)
    return time.perf_counter() - began


async def _open(found: list[Address], facts: JSON, **options: Any) -> tuple[asyncio.StreamWriter, float]:
    """A connection to the first address that answers, and how long that one took."""
    failure: OSError = OSError("the name leads to no address")
    for family, address in found:
        began = time.perf_counter()
        facts |= {"address": str(address[0]), "port": address[1]}
        try:
            _, writer = await asyncio.open_connection(address[0], address[1], family=family, **options)
        except ssl.SSLError:
            raise
        except OSError as exc:
            failure = exc
        else:
            return writer, time.perf_counter() - began
    raise failure


async def _tcp(target: Target, op: OperationContext, facts: JSON) -> float:
    assert target.port is not None
    found = await _addresses(target, op, target.port, facts)
    writer, took = await _open(found, facts)
    writer.transport.abort()
    op.log(f"{facts['address']}:{target.port} answered after {took * 1000:.1f} ms")
    return took


async def _tls(target: Target, op: OperationContext, facts: JSON) -> float:
    host = op.host(target.host or "")
    found = await _addresses(target, op, target.port or 443, facts)
    name = target.server_name or host.address
    facts |= {"server_name": name, "verified": False}
    context = ssl.create_default_context(cafile=None if host.ca_file is None else str(host.ca_file))
    try:
        writer, took = await _open(found, facts, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError as exc:
        facts |= {"verify_code": exc.verify_code, "verify_message": exc.verify_message}
        facts |= (await _unverified(found, facts, name)).facts
        raise
    facts["verified"] = True
    certificates = _certificates_of(writer)
    facts |= certificates.facts
    check_days(certificates, target.min_days)
    return took


async def _unverified(found: list[Address], facts: JSON, name: str) -> Certificates:
    """What the server shows that is refused: only looked at, nothing is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        writer, _ = await _open(found, facts, ssl=context, server_hostname=name)
    except OSError:
        return Certificates()
    return _certificates_of(writer)


def _certificates_of(writer: asyncio.StreamWriter) -> Certificates:
    try:
        return read(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()


async def _http(target: Target, op: OperationContext, facts: JSON) -> float:
    return await look_at_http(target, op, facts)


_CHECKS: dict[Kind, Callable[[Target, OperationContext, JSON], Any]] = {"dns": _dns, "tcp": _tcp, "tls": _tls, "http": _http}
