"""`/_public/…`: no token, but for the debugging call, which needs an admin's."""

from __future__ import annotations

import logging

from aiohttp import web

from avtomatika.api.access import client_of
from avtomatika.api.answers import answer
from avtomatika.api.bodies import QuarantineQuery, read_query
from avtomatika.api.client import live_workers
from avtomatika.api.describe import describe
from avtomatika.api.keys import METRICS, SERVICE, SETTINGS
from avtomatika.api.metrics import CONTENT_TYPE, Fleet
from avtomatika.api.middleware import RETRY_AFTER, RequestError
from avtomatika.api.models import Flushed, JobId, Ready, Serves
from avtomatika.api.queues import depths
from avtomatika.api.readiness import AWAY, readiness
from avtomatika.jobs import JobStatus

logger = logging.getLogger(__name__)


@describe("Whether this process serves", "public", answers={200: Serves})
async def status(request: web.Request) -> web.Response:
    """This process serves."""
    return answer({"status": "ok"})


@describe("Whether store, broker and history answer", "public", answers={200: Ready, 503: Ready})
async def ready(request: web.Request) -> web.Response:
    """Whether the store, the broker and the history answer; 503 while one does not."""
    found = await readiness(request.app[SERVICE].store, request.app[SETTINGS])
    ok = AWAY not in found.values()
    response = answer({"status": "ready" if ok else "unavailable", **found}, status=200 if ok else 503)
    if not ok:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


@describe(
    "Metrics for Prometheus",
    "public",
    media_types={200: ("text/plain",)},
    errors=(503,),
)
async def metrics(request: web.Request) -> web.Response:
    app = request.app
    store, workers = app[SERVICE].store, await live_workers(request)
    counts = await store.count_by_status()
    fleet = Fleet(app[METRICS], counts, workers, await depths(app[SETTINGS], store, workers))
    return web.Response(body=fleet.page(), headers={"Content-Type": CONTENT_TYPE})


@describe(
    "List the ids of quarantined jobs",
    "public",
    description="The latest first. PUBLIC_QUARANTINE=false switches it off.",
    query=QuarantineQuery,
    answers={200: list[JobId]},
    errors=(404, 503),
)
async def quarantined(request: web.Request) -> web.Response:
    if not request.app[SETTINGS].public_quarantine:
        raise RequestError(404, "this list is switched off here; clients see their own at /api/v1/jobs/quarantined")
    query = read_query(request, QuarantineQuery)
    rows = await request.app[SERVICE].store.in_status(JobStatus.QUARANTINED, limit=query.limit, offset=query.offset)
    return answer([job_id for job_id, _ in rows])


@describe(
    "Delete all jobs, workers and waiting messages",
    "debug",
    description="Those of this NAMESPACE and this QUEUE_PREFIX. It exists only with DEBUG=true; only an admin's token may do it.",
    answers={200: Flushed},
    errors=(403,),
)
async def flush_db(request: web.Request) -> web.Response:
    client = client_of(request)
    if not client.admin:
        raise RequestError(403, "only an admin's token may delete everything")
    await request.app[SERVICE].flush()
    logger.warning("everything was deleted on request", extra={"action": "db_flushed", "client": client.name})
    return answer({"status": "db_flushed"})
