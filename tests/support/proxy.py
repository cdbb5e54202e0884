"""A TCP proxy whose connections a test can cut, on a server that other tests use, too."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Proxy:
    """Forwards a loopback port to another one."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection at once; new ones are forwarded again."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(), which a close alone does not
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            threading.Thread(target=_forward, args=(client, server), daemon=True).start()


def _forward(one: socket.socket, other: socket.socket) -> None:
    with one, other, contextlib.suppress(OSError):
        while True:
            readable, _, _ = select.select([one, other], [], [])
            for source in readable:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)
