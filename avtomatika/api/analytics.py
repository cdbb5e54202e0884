"""`GET /api/v1/analytics`: what ended, counted by blueprint, task or worker; out of the history."""

from __future__ import annotations

from aiohttp import web
from pydantic import BaseModel, Field

from avtomatika.api.access import client_of
from avtomatika.api.answers import answer
from avtomatika.api.bodies import Since, read_query
from avtomatika.api.describe import describe
from avtomatika.api.keys import ARCHIVE, SERVICE
from avtomatika.api.middleware import RequestError
from avtomatika.api.models import Timestamp
from avtomatika.engine.views import timestamp
from avtomatika.history.analytics import By, Group
from avtomatika.jobs import JSON

DEFAULT_SECONDS = 7 * 24 * 3600


class AnalyticsQuery(BaseModel):
    """The query of ``GET /api/v1/analytics``."""

    by: By = By.BLUEPRINT
    since: Since | None = Field(None, description="Ended at this time or later; seven days before `until` by default.")
    until: Since | None = Field(None, description="Ended before this time; now by default.")


class Percentiles(BaseModel):
    """Milliseconds that so many of a hundred did not exceed; null where nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None


class Counted(BaseModel):
    """What ended under one name: jobs of a blueprint, or attempts of a task or of a worker."""

    key: str
    count: int
    succeeded: int
    success_rate: float = Field(description="0 to 1")
    outcomes: dict[str, int] = Field(examples=[{"finished": 41, "failed": 1}])
    duration_ms: Percentiles
    cost: float | None = Field(description="What the attempts cost; null where no worker named its cost.")


class Analytics(BaseModel):
    by: By
    since: Timestamp | None
    until: Timestamp | None
    groups: list[Counted]


@describe(
    "Count what ended, by blueprint, task or worker",
    "workers",
    query=AnalyticsQuery,
    answers={200: Analytics},
    errors=(501, 503),
    description="Of the client's own jobs; an admin's answer is about all. Jobs are counted once they have ended.",
)
async def analytics(request: web.Request) -> web.Response:
    query, client, archive = read_query(request, AnalyticsQuery), client_of(request), request.app[ARCHIVE]
    if archive is None:
        raise RequestError(501, "there is no history here: set HISTORY_DATABASE_URI for the facade and the orchestrators")
    until = query.until if query.until is not None else request.app[SERVICE].clock()
    since = query.since if query.since is not None else until - DEFAULT_SECONDS
    groups = await archive.analyse(query.by, since, until, None if client.admin else client.name)
    found = [_counted(group) for group in groups]
    return answer({"by": query.by.value, "since": timestamp(since), "until": timestamp(until), "groups": found})


def _counted(group: Group) -> JSON:
    return {
        "key": group.key,
        "count": group.count,
        "succeeded": group.succeeded,
        "success_rate": round(group.success_rate, 4),
        "outcomes": group.outcomes,
        "duration_ms": {"p50": group.p50, "p90": group.p90, "p99": group.p99},
        "cost": group.cost,
    }
