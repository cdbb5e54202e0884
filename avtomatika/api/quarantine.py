"""The client API's quarantine: jobs that need a person, with why; tried again or discarded, one by one or many at once."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from avtomatika.api.access import check_order, client_of, job_to_order, own_job
from avtomatika.api.answers import answer
from avtomatika.api.bodies import (
    QuarantineQuery,
    Word,
    parse,
    parse_optional,
    read_object,
    read_optional_object,
    read_query,
)
from avtomatika.api.describe import describe
from avtomatika.api.keys import SERVICE
from avtomatika.api.middleware import RequestError
from avtomatika.api.models import QuarantinedDetails, QuarantinedJob
from avtomatika.engine.edits import Edit
from avtomatika.engine.orders import Orders
from avtomatika.engine.quarantine import Filter, Place
from avtomatika.engine.views import quarantined_details, quarantined_view
from avtomatika.errors import WrongStateError
from avtomatika.jobs import Job, JobStatus
from avtomatika.operations.errors import PolicyError

NEXT_CURSOR = "X-Next-Cursor"
_PLACE = r"^[0-9]{1,15}(\.[0-9]{1,20})?(e[+-][0-9]{2})?~[A-Za-z0-9_.-]{1,200}$"
_STRICT = ConfigDict(extra="forbid", strict=True)


class QuarantineFilter(BaseModel):
    """Which quarantined jobs: those that fit everything that is given."""

    model_config = _STRICT

    blueprint: Word | None = None
    code: Word | None = Field(None, description="Of the failure: TRANSIENT_ERROR, WORKER_LOST, one of your own.")
    reason: Word | None = Field(None, description="A part of the error message, whatever its case.")
    older_than: float | None = Field(None, ge=0, allow_inf_nan=False, description="Seconds that they have been there.")
    newer_than: float | None = Field(None, ge=0, allow_inf_nan=False)


class QuarantinedQuery(QuarantineQuery, QuarantineFilter):
    """The query of ``GET /api/v1/jobs/quarantined``."""

    model_config = ConfigDict(strict=False)  # its numbers come as text

    cursor: str | None = Field(None, description="The X-Next-Cursor of the page before.", pattern=_PLACE)


class RetryOrder(BaseModel):
    """How a job is tried again. `initial_data` and `state_history` are merge patches (RFC 7386): null removes a key."""

    model_config = _STRICT

    initial_data: dict[str, Any] | None = None
    state_history: dict[str, Any] | None = None
    state: Word | None = Field(None, description="The state to go on with; else the one in which it went wrong.")

    @property
    def edit(self) -> Edit:
        return Edit(self.initial_data, self.state_history, self.state)


class Reason(BaseModel):
    """Why somebody does this: kept in the job's history."""

    model_config = _STRICT

    reason: str = Field("", max_length=1000)


class _Many(BaseModel):
    model_config = _STRICT

    filter: QuarantineFilter = Field(description="{} stands for all.")
    limit: int = Field(100, ge=1, le=1000, description="How many at most; `next_cursor` goes on.")
    cursor: str | None = Field(None, pattern=_PLACE)
    dry_run: bool = Field(False, description="Only say which they are.")


class RetryMany(RetryOrder, _Many):
    """The body of ``POST /api/v1/jobs/quarantined/retry``."""


class DiscardMany(Reason, _Many):
    """The body of ``POST /api/v1/jobs/quarantined/discard``."""


class Refused(BaseModel):
    job_id: str
    error: str


class Many(BaseModel):
    """What an order to many jobs came to. `count`: to how many it was given, or would be with `dry_run`."""

    dry_run: bool
    count: int
    job_ids: list[str]
    refused: list[Refused]
    next_cursor: str | None


class Discarded(BaseModel):
    status: Literal["discarded"]
    job_id: str


class PutAside(BaseModel):
    status: Literal["quarantined"]
    job_id: str


@describe(
    "List quarantined jobs, with why",
    "jobs",
    description="The latest first. The header `X-Next-Cursor` has the `cursor` of the next page; it is missing at the end.",
    query=QuarantinedQuery,
    answers={200: list[QuarantinedJob]},
)
async def list_quarantined(request: web.Request) -> web.Response:
    query = read_query(request, QuarantinedQuery)
    which = _filter(request, query)
    found = await request.app[SERVICE].quarantine.page(which, after=_place(query.cursor), offset=query.offset, limit=query.limit)
    response = answer([quarantined_view(job, since) for job, since in found.jobs])
    if found.following is not None:
        response.headers[NEXT_CURSOR] = _written(found.following)
    return response


@describe("Show a quarantined job: why, over which task, its data", "jobs", answers={200: QuarantinedDetails})
async def show_quarantined(request: web.Request) -> web.Response:
    job = await own_job(request)
    if job.status is not JobStatus.QUARANTINED:
        raise RequestError(404, f"job {job.id} is {job.status.value}: it is not in quarantine")
    return answer(quarantined_details(job))


@describe(
    "Try many quarantined jobs again",
    "jobs",
    body=RetryMany,
    answers={200: Many},
    example={"filter": {"code": "TRANSIENT_ERROR"}, "dry_run": True},
)
async def retry_quarantined(request: web.Request) -> web.Response:
    body, who = parse(RetryMany, await read_object(request), required="filter"), client_of(request).name
    return await _each(request, body, lambda orders, job: orders.retry(job.id, who=who, edit=body.edit))


@describe(
    "Discard many quarantined jobs",
    "jobs",
    body=DiscardMany,
    answers={200: Many},
    example={"filter": {"older_than": 604800}, "reason": "nobody needs them", "dry_run": True},
)
async def discard_quarantined(request: web.Request) -> web.Response:
    body, who = parse(DiscardMany, await read_object(request), required="filter"), client_of(request).name
    return await _each(request, body, lambda orders, job: orders.discard(job.id, who=who, reason=body.reason))


@describe(
    "Give a quarantined job up for good",
    "jobs",
    body=Reason,
    body_required=False,
    answers={200: Discarded},
    errors=(403, 409),
)
async def discard_job(request: web.Request) -> web.Response:
    body = parse_optional(Reason, await read_optional_object(request))
    job = await job_to_order(request)
    await request.app[SERVICE].orders.discard(job.id, who=client_of(request).name, reason=body.reason)
    return answer({"status": "discarded", "job_id": job.id})


@describe(
    "Put a live job into quarantine",
    "jobs",
    body=Reason,
    body_required=False,
    answers={200: PutAside},
    errors=(403, 409),
)
async def quarantine_job(request: web.Request) -> web.Response:
    body = parse_optional(Reason, await read_optional_object(request))
    job = await job_to_order(request)
    await request.app[SERVICE].orders.quarantine(job.id, who=client_of(request).name, reason=body.reason)
    return answer({"status": "quarantined", "job_id": job.id})


def _filter(request: web.Request, given: QuarantineFilter) -> Filter:
    client = client_of(request)
    return Filter(
        blueprint=given.blueprint,
        code=given.code,
        reason=given.reason,
        older_than=given.older_than,
        newer_than=given.newer_than,
        client=None if client.admin else client.name,
    )


def _place(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    since, _, job_id = cursor.partition("~")
    at = float(since)
    if not math.isfinite(at):
        raise RequestError(422, "cursor must be the one of an earlier page")
    return at, job_id


def _written(place: Place) -> str:
    return f"{place[0]!r}~{place[1]}"


async def _each(request: web.Request, body: _Many, order: Callable[[Orders, Job], Awaitable[object]]) -> web.Response:
    """Gives an order to the next jobs that fit, and says what it came to."""
    which = _filter(request, body.filter)

    async def allowed(orders: Orders, job: Job) -> None:
        try:
            check_order(request, job)
        except PolicyError as exc:
            raise WrongStateError(str(exc)) from None
        await order(orders, job)

    done = await request.app[SERVICE].quarantine.each(
        which, allowed, after=_place(body.cursor), limit=body.limit, dry_run=body.dry_run
    )
    return answer(
        {
            "dry_run": body.dry_run,
            "count": len(done.done),
            "job_ids": list(done.done),
            "refused": [{"job_id": job_id, "error": why} for job_id, why in done.refused],
            "next_cursor": None if done.following is None else _written(done.following),
        }
    )
