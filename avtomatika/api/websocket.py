"""WebSockets of HTTP workers: cancel goes down, progress comes up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from avtomatika.api.auth import WORKER_HEADERS, token_of
from avtomatika.api.describe import describe
from avtomatika.api.keys import SOCKETS, WORKER, WORKER_TOKENS, WorkerIdentity
from avtomatika.engine.remote import RemoteWorkers
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JSON
from avtomatika.state.base import News, Store

logger = logging.getLogger(__name__)

#: The name under which a socket is noted that hears the stops of every worker.
EVERYBODY = "*"
MAX_FRAME_BYTES = 64 * 1024
#: So many frames that make no sense end a socket.
MAX_BAD_FRAMES = 20
NOTED_SECONDS = 60.0
PING_SECONDS = 20.0
#: Of each task the latest progress is stored so often at most.
PROGRESS_SECONDS = 0.2
MAX_TASKS = 10_000
_MESSAGE_LENGTH = 2000
_EXAMPLE = '{"type": "progress_update", "task_id": "…", "job_id": "…", "progress": 0.5, "message": "…"}'


@dataclass(eq=False)
class Socket:
    """One open socket.

    Attributes:
        worker_id: None where it hears the stops of every worker of its token.
        is_valid: whether its token still is.
    """

    ws: web.WebSocketResponse
    identity: WorkerIdentity
    worker_id: str | None
    progress: dict[str, tuple[float, str]] = field(default_factory=dict)
    bad_frames: int = 0
    noted_until: float = 0.0
    is_valid: Callable[[], bool] = lambda: True

    @property
    def name(self) -> str:
        return self.worker_id or EVERYBODY

    def hears(self, worker_id: str) -> bool:
        return worker_id == self.worker_id if self.worker_id is not None else self.identity.may_be(worker_id)

    async def tell(self, body: JSON) -> None:
        """Sends, if the socket is still open; a peer that does not read is not waited for."""
        with suppress(ConnectionError, RuntimeError, TimeoutError):
            async with asyncio.timeout(5):
                await self.ws.send_json(body)


class Sockets:
    """The open sockets of this facade."""

    def __init__(self, store: Store, remote: RemoteWorkers) -> None:
        self._store = store
        self._remote = remote
        self._open: set[Socket] = set()

    async def stop(self, news: News) -> None:
        """Tells a worker to stop an attempt."""
        told = [socket for socket in self._open if socket.hears(news.name)]
        await asyncio.gather(*(socket.tell(_cancel(news.task_id, news.job_id)) for socket in told))

    async def catch_up(self) -> None:
        """Tells everybody what is pending: news may have been missed."""
        for socket in list(self._open):
            await self._tell_pending(socket)

    async def serve(self, socket: Socket) -> None:
        """Until the socket closes."""
        self._open.add(socket)
        side = [asyncio.create_task(self._note(socket)), asyncio.create_task(self._store_progress(socket))]
        try:
            await self._tell_pending(socket)
            async for frame in socket.ws:
                if frame.type is WSMsgType.TEXT:
                    await self._frame(socket, frame.data)
                else:
                    await self._refuse(socket, "frames are JSON texts")
                if socket.bad_frames > MAX_BAD_FRAMES:
                    await socket.ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many frames make no sense")
        finally:
            self._open.discard(socket)
            for task in side:
                task.cancel()
            with suppress(StoreUnavailableError):
                await self._flush(socket)
                if not any(other.name == socket.name for other in self._open):
                    await self._store.forget_socket(socket.name, socket.noted_until)

    async def close(self) -> None:
        for socket in list(self._open):
            with suppress(Exception):
                await socket.ws.close(code=WSCloseCode.GOING_AWAY, message=b"the facade stops")

    async def _tell_pending(self, socket: Socket) -> None:
        now = self._remote.clock()
        if socket.worker_id is not None:
            worker = await self._store.worker(socket.worker_id, now)
            workers = [worker] if worker is not None else []
        else:
            workers = [worker for worker in await self._store.workers(now) if worker.http and socket.hears(worker.id)]
        for worker in workers:
            for task_id, job_id in (await self._store.pending_stops(worker.boot_id)).items():
                await socket.tell(_cancel(task_id, job_id))

    async def _note(self, socket: Socket) -> None:
        """Lets every facade know that this socket is open."""
        while socket.is_valid():
            with suppress(StoreUnavailableError):
                now = self._remote.clock()
                socket.noted_until = now + NOTED_SECONDS
                await self._store.note_socket(socket.name, socket.noted_until, now)
            await asyncio.sleep(NOTED_SECONDS / 3)
        await socket.ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the token is not known any more")

    async def _frame(self, socket: Socket, text: str) -> None:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            await self._refuse(socket, "the frame is not JSON")
            return
        if not isinstance(body, dict) or body.get("type") != "progress_update":
            await self._refuse(socket, f"frames are objects like {_EXAMPLE}")
            return
        task_id, progress, message = body.get("task_id"), body.get("progress"), body.get("message") or ""
        if not isinstance(task_id, str) or not 0 < len(task_id) <= 200 or not task_id.isascii():
            await self._refuse(socket, "task_id is missing")
        elif (part := _fraction(progress)) is None:
            await self._refuse(socket, "progress must be a number from 0 to 1")
        elif len(socket.progress) < MAX_TASKS or task_id in socket.progress:
            socket.progress[task_id] = (part, str(message)[:_MESSAGE_LENGTH])

    async def _refuse(self, socket: Socket, why: str) -> None:
        socket.bad_frames += 1
        logger.warning(
            "a frame of %s is refused: %s", socket.identity.name_of_token, why,
            extra={"action": "frame_refused", "worker_id": socket.worker_id},
        )  # fmt: skip
        await socket.tell({"type": "error", "error": why})

    async def _store_progress(self, socket: Socket) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            try:
                await self._flush(socket)
            except StoreUnavailableError as exc:
                logger.debug("progress is not shown: %s", exc, extra={"action": "progress"})
            except Exception:
                logger.exception("progress could not be stored", extra={"action": "progress"})

    async def _flush(self, socket: Socket) -> None:
        while socket.progress:
            task_id, (progress, message) = socket.progress.popitem()
            await self._remote.progress(task_id, progress, message, socket.hears)


def _fraction(value: Any) -> float | None:
    """A part of the whole, 0 to 1; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(min(1, max(0, value)))


def _cancel(task_id: str, job_id: str) -> JSON:
    return {"command": "cancel_task", "type": "cancel_task", "task_id": task_id, "job_id": job_id}


@describe(
    "A WebSocket: cancel goes down, progress comes up",
    "workers over HTTP",
    description=(
        "Without an id in the path it belongs to the worker of an individual token; with the global token it hears every stop."
    ),
    answers={101: None},
)
async def worker_socket(request: web.Request) -> web.StreamResponse:
    identity = request[WORKER]
    worker_id: Any = request.match_info.get("worker_id", identity.worker_id)
    token = token_of(request, WORKER_HEADERS) or ""

    def is_valid() -> bool:
        found = request.app[WORKER_TOKENS].current.identity_of(token)
        return found is not None and found.worker_id == identity.worker_id and (worker_id is None or found.may_be(worker_id))

    ws = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MAX_FRAME_BYTES, compress=False)
    await ws.prepare(request)
    await request.app[SOCKETS].serve(Socket(ws, identity, worker_id, is_valid=is_valid))
    return ws


worker_socket.unbounded = True  # type: ignore[attr-defined]
