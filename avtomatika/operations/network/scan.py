"""Which hosts of a range are up, and which of their ports are open: ranges and ports that a policy names, at a bounded rate."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

from pydantic import Field, field_validator

from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.network.family import family
from avtomatika.operations.policy import Permit
from avtomatika.operations.reach import resolve
from avtomatika.results import JSON

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: What a policy's options say, where they do not: connections in all, and a second.
_MOST, _RATE = 10_000, 200.0


def ports_of(said: Iterable[int | str]) -> list[int]:
    """Ports, out of numbers and ranges such as ``8000-8100``. Raises ValueError for anything else."""
    found: dict[int, None] = {}
    for each in said:
        first, dash, last = str(each).partition("-")
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers or numbers[0] < 1 or numbers[-1] > 65535:
            raise ValueError(f"{each!r} is no port, nor a range of them: write 22 or 8000-8100")
        found.update(dict.fromkeys(numbers))
    return list(found)


def network_of(target: str) -> Network | None:
    """The addresses that a target names; None for a name."""
    try:
        return ipaddress.ip_network(target, strict=False)
    except ValueError:
        return None


class NetworkScan(Params):
    """
    Attributes:
        targets: addresses, ranges such as ``10.0.0.0/28``, names of the inventory.
        ports: numbers, and ranges such as ``8000-8100``.
        timeout: seconds for each connection.
        concurrency: connections at once.
        rate: new connections a second, at most; the policy's ``scan_rate`` bounds it, too.
    """

    targets: list[str] = Field(min_length=1, max_length=100)
    ports: list[int | str] = Field(min_length=1, max_length=1000)
    timeout: float = Field(1, gt=0, le=30)
    concurrency: int = Field(64, ge=1, le=256)
    rate: float | None = Field(None, gt=0, le=10_000)

    @field_validator("ports")
    @classmethod
    def _ports(cls, value: list[int | str]) -> list[int | str]:
        ports_of(value)
        return value


def guard(params: NetworkScan, permit: Permit) -> None:
    """Ranges, ports, and how many connections that makes."""
    allowed, ranges = _allowed(permit)
    refused = [port for port in ports_of(params.ports) if port not in allowed]
    if refused:
        raise permit.refusal(f"a scan of port {refused[0]}", f"add it to scan_ports of [policy.{permit.entry.name}.options]")
    hosts = 0
    for target in params.targets:
        network = network_of(target)
        if network is None:
            permit.host(target)
            hosts += 1
        else:
            _check_range(permit, ranges, network)
            hosts += network.num_addresses
    probes, most = hosts * len(ports_of(params.ports)), int(permit.option("scan_max", _MOST))
    if probes > most:
        raise OperationError(
            TaskErrorCode.VALIDATION_OUT_OF_RANGE,
            f"this scan makes {probes} connections, and {most} are allowed: take fewer hosts or ports",
            details={"connections": probes, "most": most},
        )


def _allowed(permit: Permit) -> tuple[set[int], list[Network]]:
    """The ports and the ranges that the policy names."""
    try:
        ranges = [ipaddress.ip_network(text, strict=False) for text in permit.option("scan_ranges", ())]
        return set(ports_of(permit.option("scan_ports", ()))), ranges
    except ValueError as exc:
        where = f"scan_ports or scan_ranges of [policy.{permit.entry.name}.options]"
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{where}: {exc}") from None


def _check_range(permit: Permit, ranges: Iterable[Network], network: Network) -> None:
    for allowed in ranges:
        if allowed.version == network.version and network.subnet_of(allowed):  # type: ignore[arg-type]
            return
    raise permit.refusal(f"a scan of {network}", f"add a range around it to scan_ranges of [policy.{permit.entry.name}.options]")


@dataclass
class _Host:
    address: str
    name: str | None = None
    open: list[int] = field(default_factory=list)
    closed: int = 0
    filtered: int = 0

    @property
    def is_up(self) -> bool:
        return bool(self.open or self.closed)

    def to_dict(self) -> JSON:
        return {
            "address": self.address,
            "name": self.name,
            "open": sorted(self.open),
            "closed": self.closed,
            "filtered": self.filtered,
        }


class _Gate:
    """Lets through so many a second."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = time.monotonic()

    async def wait(self) -> None:
        now = time.monotonic()
        self._next = max(self._next, now - self._gap) + self._gap
        if self._next > now:
            await asyncio.sleep(self._next - now)


@family.operation("network_scan", timeout_seconds=1800, max_retries=0, guard=guard)
async def network_scan(params: NetworkScan, op: OperationContext) -> JSON:
    """Connects to ports of hosts, and says which are open, and which hosts are up."""
    began = time.monotonic()
    hosts = {host.address: host async for host in _hosts(params, op)}
    ports = ports_of(params.ports)
    total, done = len(hosts) * len(ports), 0
    most = float(op.permit.option("scan_rate", _RATE))
    gate = _Gate(min(params.rate or most, most))
    work = ((host, port) for port in ports for host in hosts.values())  # one port of all hosts, then the next: gentler on each

    async def probe_all(pairs: Iterator[tuple[_Host, int]]) -> None:
        nonlocal done
        for host, port in pairs:
            await gate.wait()
            await _probe(host, port, params.timeout)
            done += 1
            op.progress(done / total, f"{done} of {total} connections")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(params.concurrency, total)):
                group.create_task(probe_all(work))
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from None
    up = [host for host in hosts.values() if host.is_up]
    for host in up:
        op.log(f"{host.address} is up: {', '.join(map(str, sorted(host.open))) or 'no port is open'}")
    return {
        "hosts": [host.to_dict() for host in up],
        "hosts_scanned": len(hosts),
        "hosts_up": len(up),
        "ports_scanned": len(ports),
        "open_ports": sum(len(host.open) for host in up),
        "connections": total,
        "duration": round(time.monotonic() - began, 3),
    }


async def _hosts(params: NetworkScan, op: OperationContext) -> AsyncIterator[_Host]:
    _, ranges = _allowed(op.permit)
    for target in params.targets:
        network = network_of(target)
        if network is not None:
            for address in network.hosts() if network.num_addresses > 2 else network:
                yield _Host(str(address))
            continue
        for _, address in await resolve(op.permit, op.host(target), 0):
            _check_range(op.permit, ranges, ipaddress.ip_network(str(address[0]).partition("%")[0]))
            yield _Host(str(address[0]), target)


async def _probe(host: _Host, port: int, seconds: float) -> None:
    """Open, closed (it answers that there is nothing), or filtered (no answer, or one from somewhere else)."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host.address, port)
    except ConnectionRefusedError:
        host.closed += 1
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL):
            raise OperationError(
                TaskErrorCode.SYSTEM_RESOURCE_LIMIT, f"this machine opens no more connections: {exc.strerror}; lower concurrency"
            ) from exc
        host.filtered += 1
    else:
        host.open.append(port)
        writer.transport.abort()
