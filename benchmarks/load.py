"""Load for HTTP servers: the same prepared request over a few connections, as fast as the answers come."""

from __future__ import annotations

import asyncio
import time


class _Connection(asyncio.Protocol):
    """Keep-alive, one request at a time. Parsing is down to the length of the answer, so that the server is what is measured."""

    def __init__(self, request: bytes, count: int, expected: bytes) -> None:
        self._request = request
        self._left = count
        self._expected = expected
        self._buffer = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(self._expected):
            self.over.set_exception(RuntimeError(f"unexpected answer: {self._buffer[:300]!r}"))
            return
        self._buffer = body[length:]
        self._left -= 1
        if self._left:
            self._transport.write(self._request)
        elif not self.over.done():
            self.over.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError("the server hung up"))


def request_of(path: str, body: bytes, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def per_second(port: int, request: bytes, count: int, connections: int, expected: bytes) -> float:
    """So many requests in all; how many of them were answered in a second."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: _Connection(request, count // connections, expected), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.over for _, protocol in opened))
    return count / (time.perf_counter() - began)
