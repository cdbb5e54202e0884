"""`GET /api/v1/jobs/{id}/events`: a job's history as it is written, as server-sent events."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from avtomatika.api.access import events_of, own_or_past_job
from avtomatika.api.describe import describe
from avtomatika.api.keys import LISTENERS, SERVICE
from avtomatika.api.listeners import Listener, Listeners
from avtomatika.engine.views import event_view
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Event, Job, TaskInfo
from avtomatika.state.base import JobStore, Progress

logger = logging.getLogger(__name__)

#: Seconds without a word after which a comment says that the line still holds.
KEEP_ALIVE = 15.0
_SIGN_OF_LIFE = ": keep-alive\n\n"
_RETRY = 0.5
# Letters beyond ASCII are escaped: some readers take U+2028 for the end of a line.
_dumps = json.JSONEncoder(separators=(",", ":"), default=str).encode


class ResumeHeaders(BaseModel):
    """Where a stream goes on."""

    model_config = ConfigDict(extra="allow")

    last_event_id: str | None = Field(None, alias="Last-Event-ID", description="Only what came after this event is sent.")


@describe(
    "A job's history, live",
    "jobs",
    description=(
        "First what is stored, then every event as it comes; the stream ends after the last event of a job that is over. "
        "`event: progress` lines without an id tell of the current task's progress. "
        "With `Last-Event-ID` it goes on after that event; an id that the job does not have begins at the start."
    ),
    headers=ResumeHeaders,
    answers={200: None},
    media_types={200: ("text/event-stream",)},
    errors=(404,),
)
async def job_events(request: web.Request) -> web.StreamResponse:
    job, is_past = await own_or_past_job(request)
    past = await events_of(request, job, is_past) if is_past else []
    store, listeners = request.app[SERVICE].store, request.app[LISTENERS]
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",
        }
    )
    if is_past:
        await response.prepare(request)
        for event in past[_behind(past, request.headers.get("Last-Event-ID", "")) :]:
            await response.write(_event_chunk(event).encode())
        return response
    with listeners.listen(job.id) as listener:
        await response.prepare(request)
        try:
            async with aclosing(_chunks(store, listeners, listener, request.headers.get("Last-Event-ID", ""))) as chunks:
                async for chunk in chunks:
                    await response.write(chunk.encode())
        except ConnectionResetError:  # whoever listened is gone
            logger.debug("a listener left", extra={"action": "events_left", "job_id": job.id})
        except Exception:
            logger.exception("a stream of events broke off", extra={"action": "events_failed", "job_id": job.id})
            _break_off(request)
        if listener.closed:
            _break_off(request)
    return response


def _break_off(request: web.Request) -> None:
    """Cuts the connection: an orderly end would say that the job is over."""
    if request.transport is not None:
        request.transport.abort()


job_events.unbounded = True  # type: ignore[attr-defined]


def open_listeners(app: web.Application) -> None:
    """Puts the listeners on the application; they are sent away when it stops."""
    app[LISTENERS] = Listeners(app[SERVICE].store)

    async def close(app: web.Application) -> None:
        await app[LISTENERS].close()

    app.on_shutdown.append(close)


async def _chunks(store: JobStore, listeners: Listeners, listener: Listener, last_event_id: str) -> AsyncGenerator[str]:
    position: int | None = None
    silent_since = time.monotonic()
    while not listener.closed:
        listener.take()
        try:
            async with listeners.turn:
                if position is None:
                    position = await _position(store, listener.job_id, last_event_id)
                # In this order: what ended the job is among its events then.
                job = await store.load(listener.job_id)
                events = await store.events(listener.job_id, position)
        except StoreUnavailableError:
            if time.monotonic() - silent_since >= KEEP_ALIVE:
                silent_since = time.monotonic()
                yield _SIGN_OF_LIFE
            await listener.woken(_RETRY)
            continue
        for event in events:
            yield _event_chunk(event)
        position += len(events)
        if job is None or job.status.is_terminal:
            return
        listener.attend(job.waiting.id if isinstance(job.waiting, TaskInfo) else None)
        async for chunk in _until_news(listener, job):
            yield chunk
        silent_since = time.monotonic()


async def _until_news(listener: Listener, job: Job) -> AsyncGenerator[str]:
    """Progress and signs of life, until it is time to look for events again."""
    while True:
        progress = listener.take_progress()
        if progress is not None:
            yield _progress_chunk(progress, listener.task_id, job)
        if not await listener.woken(KEEP_ALIVE):
            yield _SIGN_OF_LIFE
            return  # to look, too: should a wake-up ever be lost, its event is found so
        if listener.take():
            return


async def _position(store: JobStore, job_id: str, last_event_id: str) -> int:
    """The index of the event after that one; 0 where there is no such event."""
    return _behind(await store.events(job_id), last_event_id) if last_event_id else 0


def _behind(events: Sequence[Event], last_event_id: str) -> int:
    return next((index + 1 for index in range(len(events) - 1, -1, -1) if events[index].id == last_event_id), 0)


def _event_chunk(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.event_type}\ndata: {_dumps(event_view(event))}\n\n"


def _progress_chunk(progress: Progress, task_id: str | None, job: Job) -> str:
    data = {"progress": progress.value, "message": progress.message, "task_id": task_id, "status": job.status.value}
    return f"event: progress\ndata: {_dumps(data)}\n\n"
