"""A TCP proxy with faults, before a server that other tests use, too: it cuts, refuses, freezes, delays, and leaves half-open."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close sends a reset


class Proxy:
    """Forwards a loopback port to another one, on a thread of its own. Every method may be called from any thread.

    Attributes:
        delay: seconds by which each chunk is held back, either way.
        freezes_on: freezes by itself, before it forwards a request in which this is found; once.
        cuts_after: cuts by itself, when as many bytes more have passed, either way; once.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = listener.getsockname()[1]
        self.delay = 0.0
        self.freezes_on: re.Pattern[bytes] | None = None
        self.cuts_after: int | None = None
        self.frozen = threading.Event()
        self._refuses = False
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()  # what would go there goes nowhere
        self._half: set[asyncio.StreamWriter] = set()  # server ends of connections that are half-open
        self._loop = asyncio.new_event_loop()
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Resets every connection; new ones are forwarded again."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Ends every connection, and each new one, until `accept`."""
        self._refuses = True
        self.cut()

    def accept(self) -> None:
        self._refuses = False

    def swallow(self) -> None:
        """From now on what the connections of this moment carry is lost, and nothing says so; new ones are forwarded."""
        self._call(lambda: self._swallowed.update(writer for pair in self._pairs for writer in pair))

    def freeze(self) -> None:
        """Forwards nothing any more; connections stay open, and new ones are accepted and get no answer."""
        self._call(self._freeze)

    def thaw(self) -> None:
        """Goes on, with what has come meanwhile."""
        self._call(self._thaw)

    def half_open(self) -> None:
        """The server's end of every connection is gone, and the client is not told: what it sends gets no answer."""
        self._call(self._half_open)

    def close(self) -> None:
        if self._thread.is_alive():
            self._call(self._cut)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    @property
    def connections(self) -> int:
        """How many there are to the server now."""
        return len(self._pairs)

    # On the thread

    def _call(self, act: object) -> None:
        assert callable(act)
        done = threading.Event()

        def call() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(10), "the proxy does not answer"

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=listener))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _cut(self) -> None:
        for pair in self._pairs:
            for writer in pair:
                _reset(writer)
        self._pairs.clear()

    def _freeze(self) -> None:
        self._goes_on.clear()
        self.frozen.set()

    def _thaw(self) -> None:
        self._goes_on.set()
        self.frozen.clear()

    def _half_open(self) -> None:
        for _, server in self._pairs:
            self._swallowed.add(server)
            self._half.add(server)
            _reset(server)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        pair = (writer, server_writer)
        self._pairs.add(pair)
        there = asyncio.ensure_future(self._forward(reader, server_writer, requests=True))
        back = asyncio.ensure_future(self._forward(server_reader, writer, requests=False))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        if server_writer in self._half:
            await asyncio.wait({there})  # half-open: until the client gives up
        self._pairs.discard(pair)
        self._half.discard(server_writer)
        self._swallowed.difference_update(pair)
        for task in (there, back):
            task.cancel()
        for one in pair:
            one.close()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if requests and self.freezes_on is not None and self.freezes_on.search(data):
                    self.freezes_on = None
                    self._freeze()
                if self.cuts_after is not None:
                    self.cuts_after -= len(data)
                    if self.cuts_after <= 0:
                        self.cuts_after = None
                        self._cut()
                        return
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._goes_on.wait()
                if sink in self._swallowed:
                    continue  # it goes nowhere
                sink.write(data)
                await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
