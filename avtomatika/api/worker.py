"""The worker API, `/_worker/…`: what HTTP workers call."""

from __future__ import annotations

import asyncio
import re
from email.utils import formatdate
from typing import Annotated, Any, Literal

from aiohttp import hdrs, web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from avtomatika.api.answers import answer
from avtomatika.api.bodies import parse, parse_optional, read_object, read_optional_object
from avtomatika.api.describe import describe
from avtomatika.api.keys import HUB, REMOTE, SERVICE, SETTINGS, WORKER
from avtomatika.api.middleware import RequestError
from avtomatika.api.models import WorkerView
from avtomatika.api.registration import Registration, State, WorkerId, changed, new_capabilities, new_record
from avtomatika.compiler import task_payload
from avtomatika.engine.remote import Taken
from avtomatika.engine.views import timestamp, worker_view
from avtomatika.errors import ForbiddenError
from avtomatika.jobs import JSON, Result, ResultError
from avtomatika.state.base import TaskRecord

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\b", re.IGNORECASE | re.ASCII)


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]


class Beaten(WorkerView):
    """The worker as it is known now. `cancel_tasks`: what a worker without a WebSocket should stop."""

    cancel_tasks: list[str] = Field(default_factory=list)


class Registered(BaseModel):
    status: Literal["registered"]


class Refreshed(BaseModel):
    status: Literal["ttl_refreshed"]
    cancel_tasks: list[str] = Field(default_factory=list)


class Task(BaseModel):
    """An attempt of a task, leased to the worker; its `task_id` names this one attempt."""

    model_config = ConfigDict(extra="allow")

    job_id: str
    task_id: str
    type: str
    params: dict[str, Any]
    priority: float
    tracing_context: dict[str, Any]
    attempt: int
    timeout_at: str | None


class ErrorOf(BaseModel):
    model_config = ConfigDict(extra="allow")

    code: Text = ""
    message: Text = ""


class Envelope(BaseModel):
    """`status`: ``success``, ``failure``, ``cancelled``, or any status that the blueprint's transitions name."""

    model_config = ConfigDict(extra="allow")

    status: str = Field("success", min_length=1, max_length=200)
    data: dict[str, Any] | None = None
    error: ErrorOf | str | None = None


class Report(BaseModel):
    """The body of ``POST /_worker/tasks/result``."""

    model_config = ConfigDict(extra="allow")

    job_id: str = Field(min_length=1, max_length=200)
    task_id: str = Field(min_length=1, max_length=200)
    worker_id: WorkerId
    result: Envelope


class ResultTaken(BaseModel):
    """`reason`: why a result was ignored: the attempt is over, or was reported before."""

    status: Literal[
        "result_accepted_success",
        "result_accepted_failure",
        "result_accepted_cancelled",
        "parallel_branch_result_accepted",
        "result_ignored",
    ]
    reason: str | None = None


@describe("Register a start of a worker", "workers over HTTP", body=Registration, answers={200: Registered}, errors=(409,))
async def register(request: web.Request) -> web.Response:
    body = parse(Registration, await read_object(request), required="worker_id")
    _assert_is(request, body.worker_id)
    record, capabilities = new_record(body)
    await request.app[REMOTE].register(record, capabilities)
    return answer({"status": "registered"})


@describe(
    "A sign of life; with a body also what has changed",
    "workers over HTTP",
    body=State,
    body_required=False,
    answers={200: Refreshed | Beaten},
    errors=(404, 409),
)
async def heartbeat(request: web.Request) -> web.Response:
    worker_id, remote = request.match_info["worker_id"], request.app[REMOTE]
    value = await read_optional_object(request)
    if not value:
        record = await remote.alive(worker_id)
        return answer({"status": "ttl_refreshed", **await _cancelled(request, record.boot_id)})
    said = parse_optional(State, value)
    async with remote.one_at_a_time(worker_id):  # else the later of two changes would undo the earlier
        record = await remote.find(worker_id)
        record = await remote.update(changed(record, said), new_capabilities(record, said))
    request.app[HUB].changed(worker_id)
    return answer({**worker_view(record), **await _cancelled(request, record.boot_id)})


async def _cancelled(request: web.Request, boot_id: str) -> JSON:
    """What a worker without a WebSocket should stop."""
    stops = await request.app[SERVICE].store.pending_stops(boot_id)
    return {"cancel_tasks": sorted(stops)} if stops else {}


@describe(
    "Wait for the next task",
    "workers over HTTP",
    description="A long poll of WORKER_POLL_TIMEOUT_SECONDS, or less with `Prefer: wait=2`; 204 where no task has come.",
    answers={200: Task, 204: None},
    errors=(404,),
)
async def next_task(request: web.Request) -> web.StreamResponse:
    worker_id, hub = request.match_info["worker_id"], request.app[HUB]
    await request.app[REMOTE].alive(worker_id)

    def gone() -> bool:
        return request.transport is None or request.transport.is_closing()

    until = asyncio.get_running_loop().time() + _patience(request)
    record = await hub.next_task(worker_id, _patience(request), gone)
    while record is not None and record.cancel_requested:  # nobody has begun it
        result = Result(Result.CANCELLED, error=ResultError("CANCELLED", "cancelled before it began"))
        await request.app[REMOTE].take_result(worker_id, record.info.job_id, record.info.id, result)
        record = await hub.next_task(worker_id, until - asyncio.get_running_loop().time(), gone)
    if record is None:
        return web.Response(status=204)
    response = answer(_handed(record))
    response.headers[hdrs.DATE] = formatdate(request.app[SERVICE].clock(), usegmt=True)  # the clock that `timeout_at` goes by
    try:
        if gone():
            raise ConnectionResetError("the worker has hung up")
        await response.prepare(request)
        await response.write_eof()
    except BaseException:
        await hub.give_back(record)
        raise
    await hub.delivered(record)
    return response


next_task.unbounded = True  # type: ignore[attr-defined]


def _patience(request: web.Request) -> float:
    """Seconds that a poll is held: what the worker prefers (RFC 7240), at most the set time."""
    longest = request.app[SETTINGS].worker_poll_timeout_seconds
    found = _WAIT.search(",".join(request.headers.getall("Prefer", ())))
    return min(longest, float(found[1])) if found is not None else longest


def _handed(record: TaskRecord) -> JSON:
    return {"tracing_context": {}, **task_payload(record.info), "timeout_at": timestamp(record.timeout_at)}


@describe("Report the result of an attempt", "workers over HTTP", body=Report, answers={200: ResultTaken}, errors=(409,))
async def take_result(request: web.Request) -> web.Response:
    value = await read_object(request)
    for name in ("job_id", "task_id", "worker_id"):
        if value.get(name) in (None, ""):
            raise RequestError(400, f"{name!r} is missing")
    report = parse(Report, value, required="task_id")
    _assert_is(request, report.worker_id)
    taken = await request.app[REMOTE].take_result(report.worker_id, report.job_id, report.task_id, _result(report.result))
    if taken.taken is not Taken.IGNORED:
        request.app[HUB].slot_freed(report.worker_id)
    return answer({"status": taken.taken.value, **({"reason": taken.reason} if taken.reason else {})})


def _result(envelope: Envelope) -> Result:
    error = envelope.error
    if isinstance(error, str):
        error = ErrorOf(message=error)
    return Result(envelope.status, envelope.data or {}, ResultError(error.code, error.message) if error is not None else None)


def _assert_is(request: web.Request, worker_id: str) -> None:
    if not request[WORKER].may_be(worker_id):
        raise ForbiddenError(f"this token is not that of worker {worker_id!r}")
