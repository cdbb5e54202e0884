"""A real HTTP server that receives webhooks: it answers as it is told, and keeps what it got."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from avtomatika.webhooks import DELIVERY, EVENT, verify

SECRET = "a-webhook-secret"


@dataclass(frozen=True)
class Received:
    """One request, with the status that it was answered with."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def delivery(self) -> str:
        return self.headers[DELIVERY]

    @property
    def event(self) -> str:
        return self.headers[EVENT]

    def is_signed(self, secret: str = SECRET) -> bool:
        return verify(self.body, self.headers, secret)


@dataclass
class Receiver:
    """
    Attributes:
        answers: the statuses of the next requests; 200 once they are used up. 0 never answers.
    """

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[Received] = field(default_factory=list)
    hanging: int = 0

    @property
    def statuses(self) -> list[int]:
        return [received.status for received in self.got]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        status = self.answers.pop(0) if self.answers else 200
        self.got.append(Received(request.path, dict(request.headers), await request.read(), status))
        if status == 0:
            self.hanging += 1
            await asyncio.Event().wait()
        headers = {"Location": f"{self.url}/elsewhere"} if 300 <= status < 400 else None
        return web.Response(status=status, headers=headers)


@asynccontextmanager
async def receiving(answers: Sequence[int] = (), port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver on a free port (or a given one) of the loopback interface."""
    receiver = Receiver(answers=list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver._take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
