"""The WebSocket to one orchestrator: cancels come down at once, progress goes up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from avtomatika.results import JSON
from avtomatika.worker.http.backoff import Backoff
from avtomatika.worker.http.client import Client

logger = logging.getLogger(__name__)

PING_SECONDS = 20.0
#: A socket that lived so long was a good one: the next one is tried at once.
GOOD_SECONDS = 10.0


class Socket:
    """
    Args:
        cancel: is told the ids of tasks to cancel.
    """

    def __init__(self, client: Client, cancel: Callable[[str], object]) -> None:
        self._client = client
        self._cancel = cancel
        self._open = False
        self._progress: dict[str, JSON] = {}  # the latest of each task, not sent yet
        self._news = asyncio.Event()

    def send_progress(self, task_id: str, job_id: str, progress: float, message: str) -> None:
        """Never waits; without a socket it is dropped."""
        if not self._open:
            logger.debug("progress is not shown: there is no socket", extra={"action": "progress", "task_id": task_id})
            return
        update = {"type": "progress_update", "task_id": task_id, "job_id": job_id, "progress": progress, "message": message}
        self._progress[task_id] = update
        self._news.set()

    async def run(self) -> None:
        """Until cancelled: a socket that ends is opened again."""
        backoff = Backoff(0.5, 30.0)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._serve()
                reason = "it was closed"
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                reason = str(exc) or type(exc).__name__
            finally:
                self._open = False
                self._progress.clear()
            logger.debug("no socket to %s: %s", self._client.url, reason, extra={"action": "socket"})
            if loop.time() - began > GOOD_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _serve(self) -> None:
        socket = await self._client.open_socket(PING_SECONDS)
        self._open = True
        logger.debug("socket to %s is open", self._client.url, extra={"action": "socket"})
        sending = asyncio.ensure_future(self._send(socket))
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._take(message.data)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await socket.close()

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._progress:
                await socket.send_json(self._progress.pop(next(iter(self._progress))))

    def _take(self, text: str) -> None:
        try:
            message: Any = json.loads(text)
        except ValueError:
            message = None
        if isinstance(message, dict) and "cancel_task" in (message.get("command"), message.get("type")) and "task_id" in message:
            self._cancel(str(message["task_id"]))
        else:
            logger.debug("not understood over the socket: %.200s", text, extra={"action": "socket"})
