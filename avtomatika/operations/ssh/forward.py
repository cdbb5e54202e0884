"""Connections that are carried through an SSH connection, both ways, counted and bounded."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from avtomatika.operations.ssh.socks import Reply, SocksError, answer, read_request

if TYPE_CHECKING:
    import paramiko

    from avtomatika.operations.ssh.connect import Connection

_BLOCK = 64 * 1024
_SOCKS_SECONDS = 10.0
#: RFC 4254, 5.1: what a refused channel means to a client of SOCKS.
_REPLIES = {1: Reply.NOT_ALLOWED, 2: Reply.REFUSED}


@dataclass
class Counts:
    """What went through. Bytes in are those that the target sent, bytes out those that were sent to it."""

    connections: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, count: int = 1) -> None:
        with self.lock:
            setattr(self, name, getattr(self, name) + count)


class Carrier:
    """Carries accepted connections, each with two threads.

    Args:
        most: connections at a time; more are closed at once.
        allowed: whether a client of SOCKS may go to a host and a port.
        log: gets a line for each that is opened or refused.
    """

    def __init__(self, most: int, allowed: Callable[[str, int], bool], log: Callable[[str], None]) -> None:
        self.counts = Counts()
        self._most = most
        self._allowed = allowed
        self._log = log
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Any, ...]] = {}
        self._threads: set[threading.Thread] = set()
        self._number = 0

    @property
    def open(self) -> int:
        with self._lock:
            return len(self._threads)

    def take(self, run: Callable[..., None], client: Any, *args: Any) -> bool:
        """Runs one of the functions below in a thread of its own; where there are too many already, the client is closed."""
        with self._lock:
            if len(self._threads) >= self._most:
                self.counts.add("refused")
                with contextlib.suppress(Exception):
                    client.close()
                return False
            self._number += 1
            thread = threading.Thread(target=self._run, args=(self._number, run, client, *args), name="ssh-tunnel", daemon=True)
            self._threads.add(thread)
            self._open[self._number] = (client,)
        thread.start()
        return True

    def close(self, timeout: float = 5.0) -> None:
        """Closes all of them, and waits for their threads."""
        with self._lock:
            ends = [end for pair in self._open.values() for end in pair]
            threads = list(self._threads)
        for end in ends:
            _shut(end)
        for thread in threads:
            thread.join(timeout)

    def _run(self, number: int, run: Callable[..., None], client: Any, *args: Any) -> None:
        try:
            with contextlib.closing(client):
                run(number, client, *args)
        except Exception as exc:
            self._log(f"a connection ended: {type(exc).__name__}: {exc}")
        finally:
            with self._lock:
                self._open.pop(number, None)
                self._threads.discard(threading.current_thread())

    # What a connection can be

    def local(self, number: int, client: socket.socket, connection: Connection, target: tuple[str, int]) -> None:
        """From a socket of this machine to a target that the host reaches."""
        channel = self._channel(client, connection, target)
        if channel is not None:
            self._carry(number, client, channel)

    def dynamic(self, number: int, client: socket.socket, connection: Connection) -> None:
        """The same, to the target that the client asks for."""
        client.settimeout(_SOCKS_SECONDS)
        try:
            host, port = read_request(client)
        except (SocksError, OSError) as exc:
            self.counts.add("refused")
            self._log(f"refused what is no SOCKS5 request: {exc}")
            return
        if not self._allowed(host, port):
            self.counts.add("refused")
            self._log(f"refused {host}:{port}: the policy does not allow this target")
            answer(client, Reply.NOT_ALLOWED)
            return
        channel = self._channel(client, connection, (host, port), socks=True)
        if channel is not None:
            answer(client, Reply.GRANTED)
            client.settimeout(None)
            self._carry(number, client, channel)

    def remote(self, number: int, channel: paramiko.Channel, target: tuple[str, int], timeout: float) -> None:
        """From a connection that the host has accepted to a target that this machine reaches."""
        try:
            sock = socket.create_connection(target, timeout=timeout)
        except OSError as exc:
            self.counts.add("refused")
            self._log(f"{target[0]}:{target[1]} cannot be connected to: {exc.strerror or exc}")
            return
        sock.settimeout(None)
        with sock:
            self._carry(number, sock, channel, inwards="bytes_out")

    def _channel(self, client: socket.socket, connection: Connection, target: tuple[str, int], *, socks: bool = False) -> Any:
        import paramiko

        try:
            return connection.transport.open_channel("direct-tcpip", target, client.getpeername()[:2])
        except paramiko.ChannelException as exc:
            self.counts.add("refused")
            self._log(f"{target[0]}:{target[1]} cannot be connected to from {connection.hop.entry.name}: {exc.text}")
            if socks:
                answer(client, _REPLIES.get(exc.code, Reply.FAILED))
            return None

    def _carry(self, number: int, sock: socket.socket, channel: paramiko.Channel, *, inwards: str = "bytes_in") -> None:
        """Until both directions have ended. `inwards` counts what comes out of the channel."""
        with self._lock:
            self._open[number] = (sock, channel)
        self.counts.add("connections")
        outwards = "bytes_out" if inwards == "bytes_in" else "bytes_in"
        other = threading.Thread(target=self._pump, args=(sock, channel, outwards), name="ssh-tunnel-pump", daemon=True)
        other.start()
        try:
            self._pump(channel, sock, inwards)
            other.join()
        finally:
            _shut(sock)
            channel.close()
            other.join(5)

    def _pump(self, source: Any, sink: Any, name: str) -> None:
        try:
            while data := source.recv(_BLOCK):
                sink.sendall(data)
                self.counts.add(name, len(data))
        except OSError:  # one side is gone: so is the other
            _shut(source)
            _shut(sink)
        else:
            _end(sink)


def _end(sink: Any) -> None:
    """Hands on that nothing more comes."""
    with contextlib.suppress(Exception):
        if isinstance(sink, socket.socket):
            sink.shutdown(socket.SHUT_WR)
        else:
            from avtomatika.operations.ssh.wire import send_eof

            send_eof(sink)


def _shut(end: Any) -> None:
    """Wakes up whoever waits on it."""
    with contextlib.suppress(Exception):
        if isinstance(end, socket.socket):
            end.shutdown(socket.SHUT_RDWR)
        else:
            end.close()
