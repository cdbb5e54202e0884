"""The worker API of one orchestrator: each documented call, and what its answers mean."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from avtomatika import __version__
from avtomatika.errors import AvtomatikaError
from avtomatika.results import JSON
from avtomatika.worker.http.backoff import parse_retry_after
from avtomatika.worker.http.config import Orchestrator

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
CALL_SECONDS = 30.0
#: An orchestrator holds a poll for 30 s; one that is silent for longer than this is not waited for.
POLL_SECONDS = 90.0
#: For a large result over a slow line.
RESULT_SECONDS = 300.0
#: Bodies from this size on are compressed.
COMPRESS_BYTES = 16 * 1024

_RETRIED = frozenset({401, 408, 425, 429})


class Unavailable(AvtomatikaError):
    """The orchestrator cannot take this now; it may later.

    Attributes:
        answered: it was reached and answered so.
        retry_after: seconds that it asked to wait.
    """

    def __init__(
        self, message: str, *, answered: bool = False, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.status = status
        self.retry_after = retry_after


class Refused(AvtomatikaError):
    """The orchestrator says no, and would say so again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotRegistered(AvtomatikaError):
    """The orchestrator does not know this worker (any more)."""


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt, as the orchestrator hands it out.

    Attributes:
        seconds: how long it may run; None where the orchestrator does not say: then it alone keeps the time.
    """

    id: str
    job_id: str
    type: str
    params: Any = None
    priority: float = 0.0
    attempt: int = 1
    seconds: float | None = None
    tracing_context: JSON = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], now: float) -> Task:
        """`now` is the orchestrator's clock, by which its `timeout_at` goes. Raises KeyError, TypeError or ValueError."""
        seconds = value.get("timeout_seconds")
        if value.get("timeout_at") is not None:
            seconds = max(0.0, _time(value["timeout_at"]) - now)
        return cls(
            id=str(value["task_id"]),
            job_id=str(value["job_id"]),
            type=str(value["type"]),
            params=value.get("params"),
            priority=float(value.get("priority") or 0.0),
            attempt=int(value.get("attempt") or 1),
            seconds=None if seconds is None else float(seconds),
            tracing_context=dict(value.get("tracing_context") or {}),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    now: float


class Client:
    """Every call raises Unavailable where it may be tried again, and Refused where not."""

    def __init__(self, orchestrator: Orchestrator, worker_id: str) -> None:
        self.orchestrator = orchestrator
        self.url = orchestrator.url
        self._base = orchestrator.url + "/_worker"
        self._worker = quote(worker_id, safe="")
        self._origin = URL(orchestrator.url).origin()
        self._session = aiohttp.ClientSession(
            headers={"X-Worker-Token": orchestrator.token, "User-Agent": f"avtomatika-worker/{__version__}"},
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS, connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
            middlewares=(self._only_here,),
            trust_env=True,  # proxies, which a worker behind a firewall may need
        )
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            logger.warning(
                "%s is not encrypted: token and data can be read on the way; use https", self.url, extra={"action": "connect"}
            )

    async def close(self) -> None:
        await self._session.close()

    async def _only_here(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """The token goes to nobody else: `ws_connect` would follow a redirect."""
        if request.url.origin() != self._origin:
            raise aiohttp.ClientConnectionError(f"{self.url} redirects to {request.url.origin()}, which is not followed")
        return await send(request)

    async def register(self, body: JSON) -> None:
        await self._call("POST", "/workers/register", body)

    async def patch(self, body: JSON | None = None) -> JSON:
        """A heartbeat, with what has changed or without a body. Raises NotRegistered, too."""
        try:
            answer = await self._call("PATCH", f"/workers/{self._worker}", body)
        except Refused as exc:
            if exc.status == 404:
                raise NotRegistered(str(exc)) from None
            raise
        return answer.body if isinstance(answer.body, dict) else {}

    async def next_task(self, wait: float | None = None) -> Task | None:
        """A long poll. With `wait` the orchestrator is asked to answer within that (RFC 7240).

        One that does not listen to that is waited for all the same: a task that was on its way would be lost with the poll.
        """
        headers = {} if wait is None else {"Prefer": f"wait={wait:g}"}
        began = time.monotonic()
        try:
            answer = await self._call("GET", f"/workers/{self._worker}/tasks/next", headers=headers, seconds=POLL_SECONDS)
        except Unavailable:
            if time.monotonic() - began < POLL_SECONDS:
                raise
            return None  # it holds polls for longer than that, which is no fault
        except Refused as exc:
            if exc.status == 404:
                raise NotRegistered(str(exc)) from None
            raise
        if answer.status == 204:
            return None
        try:
            return Task.from_dict(answer.body, answer.now)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise Unavailable(f"{self.url} handed out something that is no task: {exc!r}", answered=True) from None

    async def post_result(self, body: JSON) -> str:
        """The status that it is answered with."""
        answer = await self._call("POST", "/tasks/result", body, seconds=RESULT_SECONDS)
        return str(answer.body.get("status", "")) if isinstance(answer.body, dict) else ""

    async def open_socket(self, heartbeat: float) -> aiohttp.ClientWebSocketResponse:
        """Raises aiohttp.ClientError or TimeoutError."""
        async with asyncio.timeout(CALL_SECONDS):
            return await self._session.ws_connect(
                f"{self._base}/ws/{self._worker}", heartbeat=heartbeat, max_msg_size=1024 * 1024
            )

    async def _call(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = CALL_SECONDS,
    ) -> Answer:
        data, more = await _encoded(body)
        try:
            async with self._session.request(
                method,
                self._base + path,
                data=data,
                headers={**(headers or {}), **more},
                timeout=aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SECONDS),
                allow_redirects=False,
            ) as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise Unavailable(f"{self.url} does not answer: {str(exc) or type(exc).__name__}") from exc
        return self._judged(method, path, response, text)

    def _judged(self, method: str, path: str, response: aiohttp.ClientResponse, text: str) -> Answer:
        status = response.status
        value = _decoded(text)
        if status < 300:
            return Answer(status, value, _date(response.headers.get("Date")))
        reason = value.get("error") if isinstance(value, dict) else None
        said = f"{self.url} answers {status} to {method} /_worker{path}: {reason or response.reason}"
        if status < 400:
            raise Refused(f"{said}; set the orchestrator's URL to where it redirects", status)
        if status >= 500 or status in _RETRIED:
            raise Unavailable(
                said, answered=True, status=status, retry_after=parse_retry_after(response.headers.get("Retry-After"))
            )
        raise Refused(said, status)


async def _encoded(body: JSON | None) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    data = json.dumps(body, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json"}
    if len(data) < COMPRESS_BYTES:
        return data, headers
    return await asyncio.to_thread(gzip.compress, data, 6), {**headers, "Content-Encoding": "gzip"}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _time(value: Any) -> float:
    """Seconds since the epoch, of a number or of ISO 8601."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)


def _date(value: str | None) -> float:
    """The other side's clock; ours where it does not tell."""
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except ValueError:
        return time.time()
