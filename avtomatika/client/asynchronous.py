"""`AsyncClient`: the calls of the API as coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from httpx_sse import aconnect_sse

from avtomatika.client import calls
from avtomatika.client.answers import EventView, JobSummary, JobView, ProgressView
from avtomatika.client.calls import Call
from avtomatika.client.conclusions import conclude, http_options, request_options, stream_timeout
from avtomatika.client.retries import Outcome, Retries, may_repeat
from avtomatika.client.stream import Stream, view
from avtomatika.errors import JobFailedError, WaitTimeoutError

P = ParamSpec("P")
T = TypeVar("T")


def _method(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(build(*args, **kwargs))

    method.__signature__ = calls.signature_of(build)  # type: ignore[attr-defined]
    return method


class AsyncClient:
    """The facade, for asyncio. Close it, or use it in an `async with`.

    Args:
        url: of the facade; else AVTOMATIKA_URL, else http://127.0.0.1:8080.
        token: a client's; else CLIENT_TOKEN.
        timeout: seconds for one answer.

    AVTOMATIKA_CA names authorities that the facade's certificate is checked with, AVTOMATIKA_CERT and AVTOMATIKA_KEY a
    certificate to come with.

    Every method raises `ApiError` (one subclass for each kind of refusal), after repetitions where those can help.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0, retries: Retries | None = None
    ) -> None:
        self._http = httpx.AsyncClient(**http_options(url, token, timeout))
        self._retries = retries or Retries()
        self._patient = self._retries.patient()

    submit = _method(calls.submit)
    get = _method(calls.get)
    history = _method(calls.history)
    analytics = _method(calls.analytics)
    cancel = _method(calls.cancel)
    retry = _method(calls.retry)
    pause = _method(calls.pause)
    resume = _method(calls.resume)
    decide = _method(calls.decide)
    discard = _method(calls.discard)
    quarantine = _method(calls.quarantine)
    quarantined = _method(calls.quarantined)
    quarantined_job = _method(calls.quarantined_job)
    retry_quarantined = _method(calls.retry_quarantined)
    discard_quarantined = _method(calls.discard_quarantined)
    blueprints = _method(calls.blueprints)
    graph = _method(calls.graph)
    schedules = _method(calls.schedules)
    schedule = _method(calls.schedule)
    pause_schedule = _method(calls.pause_schedule)
    resume_schedule = _method(calls.resume_schedule)
    trigger_schedule = _method(calls.trigger_schedule)
    queue = _method(calls.queue)
    workers = _method(calls.workers)
    dashboard = _method(calls.dashboard)

    @property
    def url(self) -> str:
        return str(self._http.base_url).rstrip("/")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(self, call: Call[T], retries: Retries | None = None) -> T:
        """Sends one call of `avtomatika.client.calls`, again where that can help."""
        retries = retries or self._retries
        attempt = 1
        while True:
            outcome: Outcome
            try:
                outcome = await self._http.request(call.method, call.path, **request_options(call))
            except httpx.TransportError as exc:
                outcome = exc
            pause = retries.pause(attempt, outcome) if may_repeat(call, outcome) else None
            if pause is None:
                return conclude(call, outcome, self.url)
            await asyncio.sleep(pause)
            attempt += 1

    async def list(
        self,
        *,
        status: str | None = None,
        blueprint: str | None = None,
        tag: str | None = None,
        since: datetime | float | str | None = None,
        page_size: int = 200,
    ) -> AsyncGenerator[JobSummary]:
        """All jobs that fit, newest first, read page by page as they are taken."""
        cursor: str | None = None
        while True:
            page = await self.send(
                calls.page(status=status, blueprint=blueprint, tag=tag, since=since, limit=page_size, cursor=cursor)
            )
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def wait(self, job_id: str, timeout: float | None = None) -> JobView:  # noqa: ASYNC109
        """The job once it has ended, whichever way; listens to its events.

        Raises:
            WaitTimeoutError: it has not ended in this many seconds; it goes on.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:  # one that is tried again at once is not at its end
                    async with aclosing(self.messages(job_id)) as messages:
                        async for _ in messages:
                            pass
                    job = await self.send(calls.get(job_id), self._patient)
                    if job.is_terminal:
                        return job
        except TimeoutError:
            raise WaitTimeoutError(f"job {job_id} has not ended within {timeout:g} s; it goes on") from None

    async def result(self, job_id: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """What the job's end state returned.

        Raises:
            JobFailedError: it has ended, but has not finished.
            WaitTimeoutError: it has not ended in this many seconds.
        """
        job = await self.wait(job_id, timeout)
        if not job.is_finished:
            raise JobFailedError(job)
        return job.result

    async def watch(self, job_id: str, last_event_id: str = "") -> AsyncGenerator[EventView | ProgressView]:
        """A job's history from its beginning (or after an event of it), then what happens, until the job has ended.

        A connection that breaks is made anew, and nothing is told twice.
        """
        async with aclosing(self.messages(job_id, last_event_id)) as messages:
            async for data in messages:
                yield view(data)

    async def messages(self, job_id: str, last_event_id: str = "") -> AsyncGenerator[dict[str, Any]]:
        """The same as `watch`, as the facade's own JSON objects."""
        stream = Stream(job_id, self._patient, self.url, last_event_id)
        while True:
            outcome: Outcome
            try:
                async with aconnect_sse(
                    self._http, "GET", stream.path, headers=stream.headers, timeout=stream_timeout()
                ) as source:
                    outcome = source.response
                    if stream.opened(outcome):
                        async with aclosing(source.aiter_sse()) as messages:
                            async for message in messages:
                                data = stream.take(message)
                                if data is not None:
                                    yield data
                    else:
                        await outcome.aread()
            except httpx.TransportError as exc:
                outcome = exc
            else:
                if outcome.is_success and (await self.send(calls.get(job_id), self._patient)).is_terminal:
                    return
            await asyncio.sleep(stream.pause(outcome))
