"""ssh_tunnel: ports that lead through a host, for a while."""

from __future__ import annotations

import ipaddress
import select
import socket
import time
from typing import Literal

from pydantic import Field, field_validator, model_validator

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, PolicyError
from avtomatika.operations.policy import Permit
from avtomatika.operations.ssh._family import family
from avtomatika.operations.ssh.connect import Connection
from avtomatika.operations.ssh.failures import ConnectionFailed
from avtomatika.operations.ssh.forward import Carrier
from avtomatika.operations.ssh.params import HostName, Port, SshParams
from avtomatika.operations.ssh.pool import lease
from avtomatika.operations.ssh.route import allow
from avtomatika.results import JSON

_TICK = 0.25
_LONGEST_SECONDS = 86_400
#: RFC 4254, 5.1: the host forbids forwarding; it will the next time, too.
_PROHIBITED = 1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: Between two reports of what has gone through.
_REPORT_SECONDS = 5.0


class SshTunnel(SshParams):
    """A tunnel through a host.

    Attributes:
        kind: ``local``: a port of the worker leads to a target that the host reaches. ``remote``: a port of the host leads to a
            target that the worker reaches. ``dynamic``: a port of the worker is a SOCKS5 proxy whose targets the host reaches.
        bind: the address of the port; the policy has to name any but loopback.
        port: a free one is chosen where none is given.
        lifetime_seconds: then the tunnel ends, and the task with it.
        max_connections: at a time.
        probe_seconds: how often the host, and for ``local`` the target, is asked whether it is there.
    """

    kind: Literal["local", "remote", "dynamic"]
    bind: str = Field("127.0.0.1", min_length=1, max_length=64)
    port: Port | None = None
    target_host: HostName | None = None
    target_port: Port | None = None
    lifetime_seconds: float = Field(gt=0, le=_LONGEST_SECONDS)
    max_connections: int = Field(64, ge=1, le=512)
    probe_seconds: float = Field(30, ge=0.1, le=3600)
    # `port` is that of the tunnel here; the host's own is the inventory's.

    @field_validator("bind")
    @classmethod
    def _is_an_address(cls, bind: str) -> str:
        return str(ipaddress.ip_address("127.0.0.1" if bind == "localhost" else bind))

    @model_validator(mode="after")
    def _has_a_target(self) -> SshTunnel:
        has = self.target_host is not None and self.target_port is not None
        if self.kind == "dynamic" and (self.target_host is not None or self.target_port is not None):
            raise ValueError("a dynamic tunnel has no target: its clients name theirs")
        if self.kind != "dynamic" and not has:
            raise ValueError(f"a {self.kind} tunnel needs target_host and target_port")
        return self

    @property
    def target(self) -> tuple[str, int]:
        assert self.target_host is not None
        assert self.target_port is not None
        return self.target_host, self.target_port

    @property
    def to_host(self) -> SshParams:
        """How to connect to the host itself."""
        return SshParams.model_validate({**self.model_dump(include=set(SshParams.model_fields)), "port": None})


def guard(params: SshTunnel, permit: Permit) -> None:
    """The host, the address of the port, the target, and how long."""
    allow(params.to_host, permit, params.host)
    if not ipaddress.ip_address(params.bind).is_loopback and params.bind not in permit.option("tunnel_binds", ()):
        raise permit.refusal(
            f"a tunnel on {params.bind}", f"name the address in tunnel_binds of [policy.{permit.entry.name}.options]"
        )
    longest = permit.option("tunnel_seconds", _LONGEST_SECONDS)
    if params.lifetime_seconds > longest:
        raise permit.refusal(
            f"a tunnel of {params.lifetime_seconds:g} s",
            f"{longest:g} s is tunnel_seconds of [policy.{permit.entry.name}.options]",
        )
    if params.kind == "dynamic":
        if not permit.option("tunnel_targets", ()):
            raise permit.refusal("any target", f"add patterns to tunnel_targets of [policy.{permit.entry.name}.options]")
    else:
        permit.matches("tunnel_targets", f"{params.target[0]}:{params.target[1]}")


@family.operation("ssh_tunnel", capability="tunnel", timeout_seconds=_LONGEST_SECONDS + 3600, max_retries=3, guard=guard)
def ssh_tunnel(params: SshTunnel, op: OperationContext) -> JSON:
    """Opens a tunnel through a host, keeps it up for its lifetime, and says what went through."""
    guard(params, op.permit)
    return Tunnel(params, op).run()


class Tunnel:
    """One tunnel, over as many connections as it takes."""

    def __init__(self, params: SshTunnel, op: OperationContext) -> None:
        self._params = params
        self._op = op
        self._began = time.monotonic()
        self._ends = self._began + params.lifetime_seconds
        self._carrier = Carrier(params.max_connections, self._may_go_to, op.log)
        self._listener: socket.socket | None = None
        self._port = params.port or 0
        self._state = "down"
        self._reconnects = 0
        self._looked = self._reported = 0.0

    def run(self) -> JSON:
        import paramiko

        pause = _FIRST_PAUSE
        try:
            if self._params.kind != "remote":
                self._listener = self._listen()
            while self._goes_on():
                try:
                    self._over_one_connection()
                except (ConnectionFailed, paramiko.SSHException, EOFError) as exc:
                    never_up = self._state == "down" and not self._reconnects
                    if never_up or getattr(exc, "kind", None) is ErrorCode.PERMANENT:
                        raise
                    self._set_state("down", str(exc))
                    self._reconnects += 1
                    self._op.wait(min(pause, max(0.0, self._ends - time.monotonic())))
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    pause = _FIRST_PAUSE
        finally:
            if self._listener is not None:
                self._listener.close()
            self._carrier.close()
            self._op.log(f"the tunnel is closed: {self._said()}")
        return {**self._result(), "duration": round(time.monotonic() - self._began, 3)}

    def _goes_on(self) -> bool:
        self._op.checkpoint()
        return time.monotonic() < self._ends

    def _may_go_to(self, host: str, port: int) -> bool:
        try:
            return self._op.permit.matches("tunnel_targets", f"{host}:{port}")
        except PolicyError:
            return False

    def _listen(self) -> socket.socket:
        family_ = socket.AF_INET6 if ":" in self._params.bind else socket.AF_INET
        try:
            listener = socket.create_server((self._params.bind, self._port), family=family_, backlog=64)
        except OSError as exc:
            raise OperationError(
                TaskErrorCode.SSH_CONNECTION_FAILED,
                f"{self._params.bind}:{self._port} of the worker cannot be listened on: {exc.strerror}",
            ) from None
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        return listener

    def _over_one_connection(self) -> None:
        """Serves until the lifetime is over. Raises ConnectionFailed where the connection ends before that."""
        with lease(self._op, self._params.to_host) as connection:
            if self._params.kind == "remote":
                self._ask_for_port(connection)
            self._probe(connection)
            try:
                while self._goes_on():
                    self._accept(connection)
                    if not connection.is_alive:
                        raise ConnectionFailed(connection.gave_up or f"{connection.hop.label}: the connection was cut")
                    if time.monotonic() - self._looked > self._params.probe_seconds:
                        self._probe(connection)
                    if time.monotonic() - self._reported > _REPORT_SECONDS:
                        self._set_state(self._state)
            finally:
                if self._params.kind == "remote" and connection.is_alive:
                    with connection.requests:
                        connection.transport.cancel_port_forward(self._params.bind, self._port)
                self._carrier.close()

    def _accept(self, connection: Connection) -> None:
        if self._listener is None:
            self._op.wait(_TICK)
            return
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        if not poller.poll(_TICK * 1000):
            return
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        client.setblocking(True)
        if self._params.kind == "dynamic":
            self._carrier.take(self._carrier.dynamic, client, connection)
        else:
            self._carrier.take(self._carrier.local, client, connection, self._params.target)

    def _ask_for_port(self, connection: Connection) -> None:
        """-R: the host listens, and hands each connection over as a channel, in the thread of the transport."""
        import paramiko

        def taken(channel: paramiko.Channel, origin: object, server: object) -> None:
            self._carrier.take(self._carrier.remote, channel, self._params.target, self._params.connect_timeout)

        try:
            with connection.requests:
                self._port = connection.transport.request_port_forward(self._params.bind, self._port, handler=taken)
        except paramiko.SSHException as exc:
            if connection.is_alive:
                raise ConnectionFailed(
                    f"{connection.hop.label} does not listen on {self._params.bind}:{self._port}: the port is taken, or "
                    "AllowTcpForwarding forbids it",
                    permanent=not self._reconnects,
                ) from exc
            raise

    # Its state

    def _probe(self, connection: Connection) -> None:
        """Whether the host answers and, for a local tunnel, whether the target does."""
        import paramiko

        self._looked = time.monotonic()
        if not connection.answers(self._params.channel_timeout):
            raise ConnectionFailed(f"{connection.hop.label} does not answer within {self._params.channel_timeout:g} s")
        if self._params.kind == "local":
            try:
                connection.transport.open_channel("direct-tcpip", self._params.target, ("127.0.0.1", 0)).close()
            except paramiko.ChannelException as exc:
                if exc.code == _PROHIBITED:
                    raise ConnectionFailed(f"{connection.hop.label} forbids this tunnel: {exc.text}", permanent=True) from exc
                self._set_state("degraded", f"{self._params.target[0]}:{self._params.target[1]}: {exc.text}")
                return
        self._set_state("up")

    def _set_state(self, state: str, why: str = "") -> None:
        if state != self._state:
            self._op.log(f"the tunnel is {state}: {why or self._said()}")
        self._state = state
        self._reported = time.monotonic()
        share = (time.monotonic() - self._began) / self._params.lifetime_seconds
        self._op.progress(share, f"{state}: {self._said()}")

    def _said(self) -> str:
        counts, params = self._carrier.counts, self._params
        target = f" -> {params.target[0]}:{params.target[1]}" if params.kind != "dynamic" else " (SOCKS5)"
        return (
            f"{params.kind} {params.bind}:{self._port}{target}, {self._carrier.open} open, {counts.connections} connections, "
            f"{counts.bytes_in} bytes in, {counts.bytes_out} bytes out"
        )

    def _result(self) -> JSON:
        counts = self._carrier.counts
        return {
            "host": self._params.host,
            "kind": self._params.kind,
            "bind": self._params.bind,
            "port": self._port,
            "connections": counts.connections,
            "refused": counts.refused,
            "bytes_in": counts.bytes_in,
            "bytes_out": counts.bytes_out,
            "reconnects": self._reconnects,
        }
