"""An aiohttp application on a local port, in a thread of its own: what fakes of other services' APIs are made of."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.certificates import Certificate

#: What a request carried, decoded.
BODY: web.RequestKey[Any] = web.RequestKey("body", object)


@dataclass
class Call:
    """A request that reached a fake."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None


@dataclass
class Refusal:
    """What a fake answers to requests of a method on paths that begin with a text, instead of serving them."""

    method: str
    path: str
    status: int
    body: dict[str, Any]
    times: int = 1_000_000


class Answered(Exception):
    """Ends a handler with this response."""

    def __init__(self, response: web.Response) -> None:
        self.response = response


@dataclass
class HttpFake:
    """
    Attributes:
        calls: in the order in which they came.
        refusals: the first that fits answers.
        tls: with it the fake speaks TLS.
        socket_path: it also listens on this Unix socket.
    """

    calls: list[Call] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    socket_path: Path | None = None

    def application(self) -> web.Application:
        raise NotImplementedError

    def path_of(self, request: web.Request) -> str:
        """How paths are written in `calls` and in refusals."""
        return request.path

    def __enter__(self) -> Any:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(started,), name=type(self).__name__, daemon=True)
        self._thread.start()
        assert started.wait(30), "the fake did not start"
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)

    def _run(self, started: threading.Event) -> None:
        try:
            self._loop.run_until_complete(self._serve(started))
        except BaseException as exc:
            self._failed = exc
        finally:
            started.set()
            self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        app = self.application()
        app.middlewares.append(self._record)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.port = runner.addresses[0][1]
        if self.socket_path is not None:
            await web.UnixSite(runner, str(self.socket_path)).start()
        started.set()
        await self._end.wait()
        await runner.cleanup()

    @web.middleware
    async def _record(self, request: web.Request, handler: Any) -> web.StreamResponse:
        raw = await request.read() if request.can_read_body else b""
        body: Any = raw
        if "json" in request.content_type or request.content_type.endswith("yaml"):
            body = await request.json() if raw else None
        path = self.path_of(request)
        request[BODY] = body
        self.calls.append(Call(request.method, path, dict(request.query), dict(request.headers), body))
        for refusal in self.refusals:
            if request.method == refusal.method and path.startswith(refusal.path) and refusal.times > 0:
                refusal.times -= 1
                return answer(refusal.body, status=refusal.status)
        try:
            response: web.StreamResponse = await handler(request)
        except Answered as exc:
            return exc.response
        return response

    def called(self, method: str, path: str) -> list[Call]:
        """The calls of a method on paths that begin with a text."""
        return [call for call in self.calls if call.method == method and call.path.startswith(path)]


def answer(value: Any, *, status: int = 200) -> web.Response:
    """JSON whose media type has no charset, as Go's servers write it; some clients compare the whole of it."""
    return web.Response(body=json.dumps(value).encode(), status=status, headers={"Content-Type": "application/json"})


def serving(certificate: Certificate, clients: Path | None = None) -> ssl.SSLContext:
    """A server's TLS with this certificate; with `clients`, only for those whose certificate is of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
