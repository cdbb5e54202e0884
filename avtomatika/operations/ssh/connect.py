"""One connection to a host, through its jump hosts: checked, logged in, and watched."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from avtomatika.operations.errors import StopReason
from avtomatika.operations.ssh import address as addresses
from avtomatika.operations.ssh import auth
from avtomatika.operations.ssh.failures import AuthenticationFailed, ConnectionFailed
from avtomatika.operations.ssh.hostkeys import trusted_keys
from avtomatika.operations.ssh.params import ConnectionParams
from avtomatika.operations.ssh.route import Hop

if TYPE_CHECKING:
    import paramiko

    from avtomatika.operations.ssh.wire import Transport, Wire

#: GCM first: it is the fastest that paramiko has. Nothing with CBC, 3DES, MD5 or SHA-1, which paramiko offers by default.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
#: paramiko's own log. What it has to say of failures is in its exceptions, too.
WIRE_LOG = "avtomatika.operations.ssh.wire"
logging.getLogger(WIRE_LOG).setLevel(logging.CRITICAL + 1)
_TICK = 0.1


@dataclass(eq=False)
class Connection:
    """A connection, of one operation at a time.

    Attributes:
        transport: to the host itself.
        hops: the way there; the host is the last.
        ip: the address that was connected to: the first hop's.
        fingerprint: of the host's key.
        requests: to be held around global requests, which have no numbers: one at a time.
        gave_up: why it was closed by ourselves.
    """

    hops: tuple[Hop, ...]
    sock: socket.socket | None = None
    transports: list[Transport] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    ip: str = ""
    fingerprint: str = ""
    opened: float = field(default_factory=time.monotonic)
    released: float = field(default_factory=time.monotonic)
    keepalive: float = 15.0
    keepalive_count: int = 3
    gave_up: str = ""
    requests: threading.Lock = field(default_factory=threading.Lock)
    _channels: list[Any] = field(default_factory=list)
    _asking: threading.Thread | None = None
    _asked: float = 0.0
    _questions: int = 0

    @property
    def transport(self) -> Transport:
        return self.transports[-1]

    @property
    def hop(self) -> Hop:
        return self.hops[-1]

    @property
    def is_alive(self) -> bool:
        return bool(self.transports) and all(one.is_active() for one in self.transports) and self.transport.is_authenticated()

    @property
    def facts(self) -> dict[str, str]:
        """What a result may say of it."""
        transport = self.transport
        return {
            "host": self.hop.entry.name,
            "address": self.ip,
            "username": self.hop.username,
            "fingerprint": self.fingerprint,
            "cipher": str(transport.remote_cipher),  # type: ignore[attr-defined]
            "host_key_type": str(transport.host_key_type),
            "server": transport.remote_version,
        }

    def session(self, timeout: float | None = None) -> paramiko.Channel:
        """A channel for one command; it is closed with the lease at the latest."""
        channel = self.transport.open_session(timeout=timeout)
        self._channels.append(channel)
        return channel

    def sftp(self) -> paramiko.SFTPClient:
        """A client on a channel of its own; it is closed with the lease at the latest.

        Raises:
            ConnectionFailed: the peer offers no SFTP.
        """
        import paramiko

        channel = self.session()
        try:
            channel.invoke_subsystem("sftp")
        except paramiko.SSHException as exc:
            if self.is_alive:
                raise ConnectionFailed(f"{self.hop.label} offers no SFTP", permanent=True) from exc
            raise
        return paramiko.SFTPClient(channel)

    def close_channels(self) -> None:
        """Ends what the operation before has left open."""
        channels, self._channels = self._channels, []
        for channel in channels:
            with contextlib.suppress(Exception):
                channel.close()

    def cut(self) -> None:
        """Ends it at once, and never blocks: what waits on it in other threads wakes up with an error."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for transport in reversed(self.transports):
            with contextlib.suppress(Exception):
                transport.close()
        if self.sock is not None:
            self.sock.close()

    # Whether the peer is there

    def watch(self) -> None:
        """To be called every second or so. paramiko's own keepalive waits for no answer, and so finds no silence."""
        if not self.keepalive or not self.transports:
            return
        heard, now = self.wires[-1].heard, time.monotonic()
        if heard > self._asked:
            self._questions = 0
        if now - heard < self.keepalive:
            return
        if self._questions < self.keepalive_count:
            self._questions += 1
            self._asked = now
            self._ask()
        else:
            self.gave_up = f"{self.hop.label} has been silent for {now - heard:.0f} s"
            self.cut()

    def answers(self, timeout: float) -> bool:
        """Asks whether the peer is there, and waits for its answer."""
        began = time.monotonic()
        self._ask()
        while self.is_alive and time.monotonic() - began < timeout:
            if self.wires[-1].heard > began:
                return True
            time.sleep(0.005)
        return False

    def _ask(self) -> None:
        """In a thread: where the line is dead, the question itself may block until the connection is cut."""
        if self._asking is not None and self._asking.is_alive():
            return

        def ask() -> None:
            with self.requests, contextlib.suppress(Exception):
                self.transport.global_request("keepalive@openssh.com", wait=True)

        self._asking = threading.Thread(target=ask, name="ssh-keepalive", daemon=True)
        self._asking.start()


def open_connection(op: Stops, hops: tuple[Hop, ...], params: ConnectionParams, failures: auth.Failures) -> Connection:
    """Connects to each hop through the one before. Blocks; a stop of the operation ends it.

    Raises:
        ConnectionFailed, AuthenticationFailed, HostKeyMismatch, OperationStopped, OperationError
    """
    connection = Connection(hops)
    try:
        with op.on_stop(connection.cut):
            for hop in hops:
                with _meaning(hop):
                    _open_hop(op, connection, hop, params, failures)
    except BaseException as exc:
        connection.close()
        if isinstance(exc, Exception):
            op.checkpoint()
        raise
    return connection


class Stops(Protocol):
    """What opening a connection asks of its operation."""

    @property
    def stop_reason(self) -> StopReason | None: ...

    def checkpoint(self) -> None: ...

    def on_stop(self, callback: Callable[[], Any]) -> AbstractContextManager[None]: ...


class _Unstopped:
    """For what has to be done after a stop."""

    stop_reason = None

    def checkpoint(self) -> None:
        pass

    def on_stop(self, callback: object) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()


UNSTOPPED: Stops = _Unstopped()


def reconnected(connection: Connection, timeout: float) -> Connection:
    """Another connection to the same host, whatever the operation was told; each step may take `timeout` seconds."""
    params = ConnectionParams(connect_timeout=timeout, banner_timeout=timeout, auth_timeout=timeout, channel_timeout=timeout)
    return open_connection(UNSTOPPED, connection.hops, params, auth.Failures())


@contextlib.contextmanager
def _meaning(hop: Hop) -> Iterator[None]:
    """Says of which hop paramiko speaks."""
    import paramiko
    from paramiko.ssh_exception import IncompatiblePeer

    try:
        yield
    except IncompatiblePeer as exc:
        raise ConnectionFailed(
            f"{hop.label} has no algorithm in common with us: it offers only what is refused as weak (CBC, 3DES, MD5, SHA-1, "
            f"ssh-rsa), or a type of host key that is not known for it: {exc}",
            permanent=True,
        ) from exc
    except paramiko.ChannelException as exc:
        raise ConnectionFailed(f"{hop.label} cannot be reached through its jump host: {exc.text}") from exc
    except (paramiko.SSHException, EOFError, OSError) as exc:
        raise ConnectionFailed(f"{hop.label}: the connection was cut before it stood: {exc or 'end of file'}") from exc


def _open_hop(op: Stops, connection: Connection, hop: Hop, params: ConnectionParams, failures: auth.Failures) -> None:
    from avtomatika.operations.ssh.wire import Transport, Wire

    failures.check(hop)
    known = trusted_keys(hop.entry, hop.address, hop.port)
    ways = auth.methods(hop)
    wire = Wire(_line(op, connection, hop, params))
    transport = Transport(wire)  # type: ignore[arg-type]
    connection.wires.append(wire)
    connection.transports.append(transport)
    transport.daemon = True
    transport.set_log_channel(WIRE_LOG)
    options = transport.get_security_options()
    options.ciphers, options.digests, options.key_types = CIPHERS, MACS, known.algorithms
    if params.compression:
        transport.use_compression(True)
    # Longer than our own wait: what paramiko says when its time is over is the same as for a line that was cut.
    transport.banner_timeout = transport.handshake_timeout = params.banner_timeout + 5
    transport.auth_timeout, transport.channel_timeout = params.auth_timeout, params.channel_timeout
    _negotiate(op, transport, hop, params.banner_timeout)
    connection.fingerprint = known.verify(f"{hop.entry.name} ({hop.address}:{hop.port})", transport.get_remote_server_key())
    try:
        auth.authenticate(transport, hop, ways)
    except AuthenticationFailed:
        if op.stop_reason is None:
            failures.failed(hop)
        raise
    failures.succeeded(hop)


def _line(op: Stops, connection: Connection, hop: Hop, params: ConnectionParams) -> Any:
    """TCP to the first hop; to every other one a channel of the hop before."""
    if connection.transports:
        return connection.transport.open_channel(
            "direct-tcpip", (hop.address, hop.port), ("127.0.0.1", 0), timeout=params.connect_timeout
        )
    ends = time.monotonic() + params.connect_timeout
    found = addresses.resolve(hop.address, hop.port, params.connect_timeout, op.checkpoint)
    if not hop.inside:
        for one in found:
            addresses.check_outside(hop.entry.name, one.ip)
    connection.sock = addresses.connect(found, max(0.1, ends - time.monotonic()), op.checkpoint)
    connection.ip = str(connection.sock.getpeername()[0])
    return connection.sock


def _negotiate(op: Stops, transport: paramiko.Transport, hop: Hop, timeout: float) -> None:
    """Banner and key exchange. paramiko's own wait returns as if all were well when its time is over."""
    done = threading.Event()
    ends = time.monotonic() + timeout
    transport.start_client(event=done)
    while not done.wait(_TICK):
        op.checkpoint()
        if not transport.is_active():
            break
        if time.monotonic() >= ends:
            raise ConnectionFailed(f"{hop.label} accepted the connection and said nothing for {timeout:g} s")
    failed = transport.get_exception()
    if failed is not None:
        raise failed
    if not transport.is_active():
        raise ConnectionFailed(f"{hop.label}: the connection was cut in the key exchange")
