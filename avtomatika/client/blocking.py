"""`Client`: the calls of the API, each of which waits for its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from httpx_sse import connect_sse

from avtomatika.client import calls
from avtomatika.client.answers import EventView, JobSummary, JobView, ProgressView
from avtomatika.client.calls import Call
from avtomatika.client.conclusions import conclude, http_options, request_options, stream_timeout
from avtomatika.client.retries import Outcome, Retries, may_repeat
from avtomatika.client.stream import Stream, view
from avtomatika.errors import JobFailedError, WaitTimeoutError

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_LOOK = 0.1
_LAST_LOOK = 1.0


def _method(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    @wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(build(*args, **kwargs))

    method.__signature__ = calls.signature_of(build)  # type: ignore[attr-defined]
    return method


class Client:
    """The facade, for programs without asyncio. Safe to share between threads; close it, or use it in a `with`.

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
        self._http = httpx.Client(**http_options(url, token, timeout))
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

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(self, call: Call[T], retries: Retries | None = None) -> T:
        """Sends one call of `avtomatika.client.calls`, again where that can help."""
        retries = retries or self._retries
        attempt = 1
        while True:
            outcome: Outcome
            try:
                outcome = self._http.request(call.method, call.path, **request_options(call))
            except httpx.TransportError as exc:
                outcome = exc
            pause = retries.pause(attempt, outcome) if may_repeat(call, outcome) else None
            if pause is None:
                return conclude(call, outcome, self.url)
            time.sleep(pause)
            attempt += 1

    def list(
        self,
        *,
        status: str | None = None,
        blueprint: str | None = None,
        tag: str | None = None,
        since: datetime | float | str | None = None,
        page_size: int = 200,
    ) -> Iterator[JobSummary]:
        """All jobs that fit, newest first, read page by page as they are taken."""
        cursor: str | None = None
        while True:
            page = self.send(calls.page(status=status, blueprint=blueprint, tag=tag, since=since, limit=page_size, cursor=cursor))
            yield from page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return

    def wait(self, job_id: str, timeout: float | None = None) -> JobView:
        """The job once it has ended, whichever way; asks for it now and then.

        Raises:
            WaitTimeoutError: it has not ended in this many seconds; it goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            job = self.send(calls.get(job_id), self._patient)
            if job.is_terminal:
                return job
            left = pause if end is None else end - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(f"job {job_id} is still {job.status} after {timeout:g} s; it goes on")
            time.sleep(min(pause, left))
            pause = min(_LAST_LOOK, pause * 1.5)

    def result(self, job_id: str, timeout: float | None = None) -> Any:
        """What the job's end state returned.

        Raises:
            JobFailedError: it has ended, but has not finished.
            WaitTimeoutError: it has not ended in this many seconds.
        """
        job = self.wait(job_id, timeout)
        if not job.is_finished:
            raise JobFailedError(job)
        return job.result

    def watch(self, job_id: str, last_event_id: str = "") -> Iterator[EventView | ProgressView]:
        """A job's history from its beginning (or after an event of it), then what happens, until the job has ended.

        A connection that breaks is made anew, and nothing is told twice.
        """
        for data in self.messages(job_id, last_event_id):
            yield view(data)

    def messages(self, job_id: str, last_event_id: str = "") -> Iterator[dict[str, Any]]:
        """The same as `watch`, as the facade's own JSON objects."""
        stream = Stream(job_id, self._patient, self.url, last_event_id)
        while True:
            outcome: Outcome
            try:
                with connect_sse(self._http, "GET", stream.path, headers=stream.headers, timeout=stream_timeout()) as source:
                    outcome = source.response
                    if stream.opened(outcome):
                        yield from filter(None, map(stream.take, source.iter_sse()))
                    else:
                        outcome.read()
            except httpx.TransportError as exc:
                outcome = exc
            else:
                if outcome.is_success and self.send(calls.get(job_id), self._patient).is_terminal:
                    return
            time.sleep(stream.pause(outcome))
