"""A small server that speaks the documented worker API, for tests of workers: what it is told it writes down."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from typing import Any

from aiohttp import WSMsgType, web

from tests.support.polling import eventually_async

TOKEN = "worker-token"


class WorkerAPI:
    """Hands out `tasks` in order, each to the first poll of a worker that says it supports it.

    Attributes:
        faults: (method, part of the path) -> (status, headers) of the answers to come, one after the other.
        unwilling: whoever posts a result gets this status as long as it is set.
        cancels: goes into the answer of the next PATCH, as `cancel_tasks`.
    """

    def __init__(self, token: str = TOKEN, poll_seconds: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        self.token = token
        self.tls = tls
        self.poll_seconds = poll_seconds
        self.tasks: deque[dict[str, Any]] = deque()
        self.workers: dict[str, dict[str, Any]] = {}
        self.registrations: list[dict[str, Any]] = []
        self.patches: list[dict[str, Any] | None] = []
        self.results: list[dict[str, Any]] = []
        self.result_headers: list[dict[str, str]] = []
        self.progress: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.polls: list[float | None] = []
        self.parked = 0
        self.most_parked = 0
        self.faults: dict[tuple[str, str], deque[tuple[int, dict[str, str]]]] = {}
        self.unwilling: int | None = None
        self.cancels: list[str] = []
        self.sockets: set[web.WebSocketResponse] = set()
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.tls is None else f"https://localhost:{self.port}"

    async def start(self) -> None:
        """Again on the same port after a `stop`."""
        app = web.Application(middlewares=[self._check], client_max_size=10 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/_worker/workers/register", self._register),
                web.patch("/_worker/workers/{id}", self._patch),
                web.get("/_worker/workers/{id}/tasks/next", self._next),
                web.post("/_worker/tasks/result", self._result),
                web.get("/_worker/ws/{id}", self._socket),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """An outage: every connection ends, new ones are refused."""
        for socket in tuple(self.sockets):
            await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def give(self, task_type: str, params: Any = None, *, task_id: str | None = None, **more: Any) -> str:
        task_id = task_id or f"task-{len(self.log)}-{time.monotonic_ns()}"
        task = {"job_id": f"job-of-{task_id}", "task_id": task_id, "type": task_type, "params": params or {}, "priority": 0.0}
        async with self._news:
            self.tasks.append({**task, "tracing_context": {}, **more})
            self._news.notify_all()
        return task_id

    async def result(self, task_id: str, deadline: float = 30.0) -> dict[str, Any]:
        """The envelope that a worker reports of a task."""

        async def look() -> Any:
            return next((body for body in self.results if body["task_id"] == task_id), None)

        body: dict[str, Any] = await eventually_async(look, deadline=deadline, what=f"a result of {task_id}")
        return body["result"]

    async def cancel(self, task_id: str) -> None:
        for socket in self.sockets:
            await socket.send_json({"command": "cancel_task", "type": "cancel_task", "task_id": task_id, "job_id": "j"})

    def fail(self, method: str, part: str, *statuses: int, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.setdefault((method, part), deque()).extend((status, named) for status in statuses)

    # What it serves

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.log.append(f"{request.method} {request.path}")
        for (method, part), waiting in self.faults.items():
            if request.method == method and part in request.path and waiting:
                status, headers = waiting.popleft()
                return web.json_response({"error": "as the test wants it"}, status=status, headers=headers)
        if request.headers.get("X-Worker-Token") != self.token:
            return web.json_response({"error": "this token is not known"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _register(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.registrations.append(body)
        self.workers[body["worker_id"]] = dict(body)
        return web.json_response({"status": "registered"})

    async def _patch(self, request: web.Request) -> web.Response:
        worker = self.workers.get(request.match_info["id"])
        if worker is None:
            return web.json_response({"error": "it is not registered"}, status=404)
        text = await request.text()
        body = json.loads(text) if text else None
        self.patches.append(body)
        if body is not None:
            async with self._news:
                worker.update(body)
                self._news.notify_all()
        answer = dict(worker) if body is not None else {"status": "ttl_refreshed"}
        if self.cancels:
            answer["cancel_tasks"], self.cancels = self.cancels, []
        return web.json_response(answer)

    async def _next(self, request: web.Request) -> web.Response:
        worker = self.workers.get(request.match_info["id"])
        if worker is None:
            return web.json_response({"error": "it is not registered"}, status=404)
        asked = request.headers.get("Prefer", "").removeprefix("wait=")
        wait = min(self.poll_seconds, float(asked)) if asked else self.poll_seconds
        self.polls.append(float(asked) if asked else None)
        self.parked += 1
        self.most_parked = max(self.most_parked, self.parked)
        try:
            async with self._news, asyncio.timeout(wait):
                while True:
                    for task in self.tasks:
                        if task["type"] in worker["supported_tasks"]:
                            self.tasks.remove(task)
                            return web.json_response(task)
                    await self._news.wait()
        except TimeoutError:
            return web.Response(status=204)
        finally:
            self.parked -= 1

    async def _result(self, request: web.Request) -> web.Response:
        if self.unwilling is not None:
            return web.json_response({"error": "not now"}, status=self.unwilling)
        body = await request.json()
        self.result_headers.append(dict(request.headers))
        if any(known["task_id"] == body["task_id"] for known in self.results):
            return web.json_response({"status": "result_ignored", "reason": "it came before"})
        self.results.append(body)
        return web.json_response({"status": f"result_accepted_{body['result']['status']}"})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self.progress.append(json.loads(message.data))
        finally:
            self.sockets.discard(socket)
        return socket
