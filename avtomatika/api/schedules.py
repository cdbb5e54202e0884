"""Schedules in the client API, for admins: what makes jobs by the clock, and whether it may."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from pydantic import BaseModel, Field

from avtomatika.api.access import require_admin
from avtomatika.api.answers import answer
from avtomatika.api.bodies import read_query
from avtomatika.api.describe import describe
from avtomatika.api.keys import SERVICE
from avtomatika.api.models import Accepted, JobId, JSONObject, Timestamp
from avtomatika.engine import schedule_orders
from avtomatika.engine.service import Service
from avtomatika.schedules.records import ScheduleRecord

_COMING = 5


class SchedulesQuery(BaseModel):
    """The query of ``GET /api/v1/schedules``."""

    limit: int = Field(1000, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)


class ScheduleQuery(BaseModel):
    """The query of ``GET /api/v1/schedules/{name}``."""

    count: int = Field(_COMING, ge=0, le=100, description="How many of the next due times are shown.")


class LastFiring(BaseModel):
    """The latest job that a due time made."""

    due_at: Timestamp | None
    fired_at: Timestamp | None
    job_id: JobId
    missed: int = Field(description="Due times before it that were passed over, as far as they were counted.")


class ScheduleSummary(BaseModel):
    """A schedule in a list. Either `cron` or `every_seconds` is set."""

    name: str
    blueprint_name: str
    cron: str | None = Field(examples=["30 2 * * mon-fri"])
    every_seconds: float | None
    timezone: str = Field(examples=["Europe/Berlin"])
    catch_up: Literal["none", "last", "all"]
    initial_data: JSONObject
    tags: list[str]
    priority: float
    client: str
    origin: str = Field(description="Where it is written: file and line.")
    paused: bool
    paused_at: Timestamp | None
    paused_by: str | None
    next_due_at: Timestamp | None = Field(description="Null while it is paused.")
    last: LastFiring | None


class NextFiring(BaseModel):
    utc: Timestamp
    local: str = Field(description="As the clocks of its time zone show it.", examples=["2026-03-30T02:30:00+02:00"])


class ScheduleView(ScheduleSummary):
    """A schedule with its next due times; of a paused one those that would come if it were resumed."""

    next_firings: list[NextFiring]


@describe("List schedules by name", "schedules", query=SchedulesQuery, answers={200: list[ScheduleSummary]}, errors=(403,))
async def list_schedules(request: web.Request) -> web.Response:
    require_admin(request)
    query = read_query(request, SchedulesQuery)
    records = await request.app[SERVICE].store.schedules(limit=query.limit, offset=query.offset)
    return answer([schedule_orders.schedule_view(record) for record in records])


@describe(
    "Show a schedule and its next due times", "schedules", query=ScheduleQuery, answers={200: ScheduleView}, errors=(403, 404)
)
async def show_schedule(request: web.Request) -> web.Response:
    require_admin(request)
    query = read_query(request, ScheduleQuery)
    service = request.app[SERVICE]
    return _shown(service, await schedule_orders.find(service.store, request.match_info["name"]), query.count)


@describe("Pause a schedule", "schedules", answers={200: ScheduleView}, errors=(403, 404, 409))
async def pause_schedule(request: web.Request) -> web.Response:
    admin = require_admin(request)
    service = request.app[SERVICE]
    record = await schedule_orders.pause(service.store, request.match_info["name"], service.clock(), admin.name)
    return _shown(service, record)


@describe("Let a paused schedule go on", "schedules", answers={200: ScheduleView}, errors=(403, 404, 409))
async def resume_schedule(request: web.Request) -> web.Response:
    require_admin(request)
    service = request.app[SERVICE]
    return _shown(service, await schedule_orders.resume(service.store, request.match_info["name"], service.clock()))


@describe("Make a job of a schedule now", "schedules", answers={202: Accepted}, errors=(403, 404))
async def trigger_schedule(request: web.Request) -> web.Response:
    admin = require_admin(request)
    service = request.app[SERVICE]
    job = await schedule_orders.trigger(service.store, service.create, request.match_info["name"], service.clock(), admin.name)
    return answer({"status": "accepted", "job_id": job.id}, status=202)


def _shown(service: Service, record: ScheduleRecord, count: int = _COMING) -> web.Response:
    return answer(schedule_orders.schedule_details(record, service.clock(), count))
