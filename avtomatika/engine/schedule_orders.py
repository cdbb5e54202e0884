"""What people do with schedules: pause, resume, trigger; and how a schedule is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from avtomatika.engine.schedules import data_of, tags_of
from avtomatika.engine.views import timestamp
from avtomatika.errors import UnknownScheduleError, WrongStateError
from avtomatika.jobs import JSON, Job
from avtomatika.schedules.records import Pause, ScheduleRecord
from avtomatika.schedules.timing import zone_of
from avtomatika.state.base import Store

_TRIES = 5


async def find(store: Store, name: str) -> ScheduleRecord:
    """The schedule of a name; UnknownScheduleError."""
    record = await store.schedule(name)
    if record is None:
        raise UnknownScheduleError(name)
    return record


async def pause(store: Store, name: str, now: float, who: str = "") -> ScheduleRecord:
    """It makes no jobs until it is resumed, whatever happens meanwhile; one that is paused stays so."""
    for _ in range(_TRIES):
        record = await find(store, name)
        if record.pause is not None or await store.pause_schedule(record, Pause(now, who)):
            return await find(store, name)
    raise _changes(name)


async def resume(store: Store, name: str, now: float) -> ScheduleRecord:
    """It goes on with the next due time: those of its pause are not made up for. One that is not paused stays as it is."""
    for _ in range(_TRIES):
        record = await find(store, name)
        if record.pause is None or await store.resume_schedule(record, record.next_after(now)):
            return await find(store, name)
    raise _changes(name)


async def trigger(store: Store, create: Callable[..., Awaitable[Job]], name: str, now: float, who: str = "") -> Job:
    """Makes a job of a schedule now, paused or not, with `Service.create`; its due times stay as they are."""
    schedule = (await find(store, name)).schedule
    return await create(
        schedule.blueprint,
        data_of(schedule, now, triggered_by=who),
        client=schedule.client,
        priority=schedule.priority,
        tags=tags_of(schedule),
    )


def schedule_view(record: ScheduleRecord) -> JSON:
    """A schedule in a list."""
    schedule, pause, last = record.schedule, record.pause, record.last
    return {
        "name": schedule.name,
        "blueprint_name": schedule.blueprint,
        "cron": schedule.cron,
        "every_seconds": schedule.every,
        "timezone": schedule.timezone,
        "catch_up": schedule.catch_up.value,
        "initial_data": schedule.initial_data,
        "tags": list(schedule.tags),
        "priority": schedule.priority,
        "client": schedule.client.name,
        "origin": schedule.origin,
        "paused": pause is not None,
        "paused_at": timestamp(pause.since) if pause is not None else None,
        "paused_by": pause.by if pause is not None else None,
        "next_due_at": timestamp(record.next_due) if pause is None else None,
        "last": {
            "due_at": timestamp(last.due),
            "fired_at": timestamp(last.fired_at),
            "job_id": last.job_id,
            "missed": last.missed,
        }
        if last is not None
        else None,
    }


def schedule_details(record: ScheduleRecord, now: float, count: int) -> JSON:
    """A schedule with its next due times, as if it were not paused, in UTC and as the clocks of its zone show them."""
    zone = zone_of(record.schedule.timezone)
    coming = [
        {"utc": timestamp(due), "local": datetime.fromtimestamp(due, zone).isoformat(timespec="seconds")}
        for due in record.coming(now, count)
    ]
    return {**schedule_view(record), "next_firings": coming}


def _changes(name: str) -> WrongStateError:
    return WrongStateError(f"schedule {name!r} changes all the time; try again")
