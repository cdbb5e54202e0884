"""Services of other people, by their real HTTP APIs on a local port; and operations, called as a worker calls them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from avtomatika.jobs import Client
from avtomatika.operations.config import OperationsConfig, read_config
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped
from avtomatika.operations.policy import permit_of
from avtomatika.operations.registry import registry
from tests.support.processes import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """A request that reached the service."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    json: Any


@dataclass
class _Fault:
    method: str
    path: re.Pattern[str]
    times: int
    status: int
    headers: Mapping[str, str]
    body: Any
    lost: bool
    skip: int = 0


@dataclass
class FakeService:
    """A server with an event loop of its own, in a thread: what is tested may block, or run in another process.

    Attributes:
        seen: every request, in its order.
    """

    port: int = field(default_factory=free_port)
    seen: list[Seen] = field(default_factory=list)
    _faults: list[_Fault] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def fail(
        self,
        method: str,
        path: str,
        status: int = 0,
        *,
        times: int = 1,
        skip: int = 0,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> None:
        """The next requests of this kind (after the first `skip` of them) are answered so, and not served."""
        self._faults.append(_Fault(method, re.compile(path), times, status, headers or {}, body, lost=False, skip=skip))

    def lose(self, method: str, path: str, *, times: int = 1) -> None:
        """The next requests of this kind are served, but the connection breaks before the answer."""
        self._faults.append(_Fault(method, re.compile(path), times, 0, {}, None, lost=True))

    def calls(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and re.fullmatch(path, seen.path)]

    def __enter__(self) -> FakeService:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._middleware], client_max_size=1 << 30)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = None
        if request.content_type == "application/json" and request.can_read_body:
            with contextlib.suppress(ValueError):
                body = await request.json()
        self.seen.append(Seen(request.method, request.path, dict(request.query), dict(request.headers), body))
        fault = next((f for f in self._faults if f.times and f.method == request.method and f.path.fullmatch(request.path)), None)
        if fault is not None and fault.skip:
            fault.skip -= 1
            fault = None
        if fault is None:
            return await handler(request)
        fault.times -= 1
        if fault.lost:
            await handler(request)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(fault.body, str):
            return web.Response(text=fault.body, status=fault.status, headers=fault.headers)
        return web.json_response(fault.body, status=fault.status, headers=fault.headers)


def make_config(directory: Path, text: str) -> OperationsConfig:
    path = directory / "operations.toml"
    path.write_text(text)
    return read_config(path)


def context(
    config: OperationsConfig, type_: str, params: Mapping[str, Any], *, job_id: str | None = None, attempt: int = 1
) -> OperationContext:
    permit = permit_of(Client(name="tester", role="default"), "operation", config)
    return OperationContext(
        type_, dict(params), permit, task_id=uuid.uuid4().hex, job_id=job_id or uuid.uuid4().hex, attempt=attempt, seconds=120
    )


async def call(
    config: OperationsConfig, type_: str, params: Mapping[str, Any], op: OperationContext | None = None, **options: Any
) -> Any:
    """Runs an operation as a worker does: parameters checked, policy asked, exceptions judged, secrets masked."""
    op = op or context(config, type_, params, **options)
    operation = registry().get(type_)
    parsed = operation.parse(dict(params))
    operation.allow(parsed, op.permit)
    try:
        if operation.is_async:
            result = await operation.run(parsed, op)  # type: ignore[misc]
        else:
            result = await asyncio.to_thread(operation.run, parsed, op)
    except (OperationError, OperationStopped):
        raise
    except Exception as exc:
        known = operation.meaning(exc)
        if known is None:
            raise
        raise known from exc
    return op.mask.json(result)
