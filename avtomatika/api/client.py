"""The client API, `/api/…`: create, show, list and decide jobs; blueprints, workers, the dashboard."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from avtomatika.addresses import UrlRefusedError
from avtomatika.api.access import client_of, events_of, own_job, own_or_past_job
from avtomatika.api.answers import answer
from avtomatika.api.bodies import (
    CreationHeaders,
    Decision,
    GraphQuery,
    JobsQuery,
    NewJob,
    parse,
    read_object,
    read_query,
)
from avtomatika.api.describe import describe
from avtomatika.api.keys import ARCHIVE, REPEATED, SERVICE, SETTINGS
from avtomatika.api.listing import Cursor, Pager
from avtomatika.api.middleware import RequestError
from avtomatika.api.models import (
    Accepted,
    ApprovalReceived,
    BlueprintView,
    Dashboard,
    EventView,
    JobsPage,
    JobView,
    WorkerView,
)
from avtomatika.api.queues import depths
from avtomatika.api.quota import takes_attempt
from avtomatika.engine.views import event_view, job_summary, job_view, worker_view
from avtomatika.engine.webhooks import check_webhook, webhook_of
from avtomatika.errors import ConfigurationError
from avtomatika.history.queries import JobFilter
from avtomatika.jobs import JSON, JobStatus, WorkerRecord

_GRAPHS = {
    "dot": "text/vnd.graphviz",
    "svg": "image/svg+xml",
    "mermaid": "text/vnd.mermaid",
    "json": "application/json",
}


def creator(blueprint_name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of a blueprint's own endpoint: the body is the job's initial data."""

    @takes_attempt
    async def create(request: web.Request) -> web.Response:
        return await _create(request, blueprint_name, await read_object(request))

    return create


@describe(
    "Create a job of any blueprint",
    "jobs",
    body=NewJob,
    headers=CreationHeaders,
    answers={202: Accepted},
    errors=(404, 409),
    example={"blueprint": "hello", "initial_data": {"name": "Ada"}, "priority": 5, "tags": ["first"]},
)
@takes_attempt
async def create_job(request: web.Request) -> web.Response:
    body = parse(NewJob, await read_object(request), required="blueprint")
    return await _create(
        request,
        body.blueprint,
        body.initial_data,
        priority=body.priority,
        tags=tuple(body.tags),
        webhook_url=body.webhook_url,
    )


async def _create(
    request: web.Request,
    name: str,
    data: JSON,
    *,
    priority: float = 0.0,
    tags: tuple[str, ...] = (),
    webhook_url: str | None = None,
) -> web.Response:
    key = creation_key(request)
    _check_webhook(request, webhook_url)
    job = await request.app[SERVICE].create(
        name,
        data,
        client=client_of(request),
        priority=priority,
        tags=tags,
        webhook_url=webhook_url,
        idempotency_key=key,
        repeated=partial(request.__setitem__, REPEATED, True),
    )
    return answer({"status": "accepted", "job_id": job.id}, status=202)


def creation_key(request: web.Request) -> str | None:
    """The Idempotency-Key of a request that creates a job; 400 for one that does not fit."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key.strip()) <= 200 and key.isascii() and key.isprintable()):
        raise RequestError(400, "Idempotency-Key must hold 1 to 200 printable ASCII characters")
    return key.strip() if key is not None else None


def _check_webhook(request: web.Request, url: str | None) -> None:
    told = webhook_of(url, client_of(request))
    if told is None:
        return
    try:
        check_webhook(told, request.app[SETTINGS])
    except UrlRefusedError as exc:
        raise RequestError(422, f"webhook_url: {exc}") from None


@describe("Show a job", "jobs", answers={200: JobView})
async def show_job(request: web.Request) -> web.Response:
    job, is_past = await own_or_past_job(request)
    view = await job_view(job, request.app[SERVICE])
    return answer({**view, "webhook": None} if is_past else view)  # who was told then is kept no longer


@describe("List jobs, newest first", "jobs", query=JobsQuery, answers={200: JobsPage})
async def list_jobs(request: web.Request) -> web.Response:
    query, client, tag = read_query(request, JobsQuery), client_of(request), request.query.get("tag")
    kept_since = request.app[SERVICE].clock() - math.floor(request.app[SETTINGS].job_retention_seconds)
    wanted = JobFilter(None if client.admin else client.name, query.status, query.blueprint or None, query.since)
    pager = Pager(request.app[SERVICE].store, request.app[ARCHIVE], wanted, lambda job: not tag or tag in job.tags, kept_since)
    cursor = Cursor.parse(query.cursor) if query.cursor else None
    jobs, following = await pager.page(cursor, query.offset, query.limit)
    views = [job_summary(job) for job in jobs]
    return answer({"jobs": views, "next_cursor": str(following) if following is not None else None})


@describe("Show what happened to a job, oldest first", "jobs", answers={200: list[EventView]})
async def job_history(request: web.Request) -> web.Response:
    job, is_past = await own_or_past_job(request)
    return answer([event_view(event) for event in await events_of(request, job, is_past)])


@describe(
    "Decide what a job asks a person",
    "jobs",
    body=Decision,
    answers={200: ApprovalReceived},
    errors=(409,),
    example={"decision": "approved", "comment": "fine"},
)
async def decide(request: web.Request) -> web.Response:
    body = parse(Decision, await read_object(request), required="decision")
    job = await own_job(request)
    who = client_of(request).name
    await request.app[SERVICE].decide(job.id, body.decision, comment=body.comment, who=who)
    return answer({"status": "approval_received", "job_id": job.id})


@describe("List blueprints", "blueprints", answers={200: list[BlueprintView]})
async def list_blueprints(request: web.Request) -> web.Response:
    return answer(
        [
            {
                "name": item.name,
                "api_version": item.api_version,
                "api_endpoint": item.api_endpoint,
                "version": item.version,
                "start_state": item.start_state,
                "end_states": sorted(item.end_states),
                "states": list(item.states),
                "tasks": sorted(item.task_names),
            }
            for item in request.app[SERVICE].blueprints
        ]
    )


@describe(
    "Draw a blueprint's states and transitions",
    "blueprints",
    query=GraphQuery,
    media_types={200: tuple(_GRAPHS.values())},
    errors=(501,),
)
async def blueprint_graph(request: web.Request) -> web.Response:
    fmt = read_query(request, GraphQuery).format
    blueprint = request.app[SERVICE].blueprints.get(request.match_info["name"])
    # Graphviz is a program of its own, so the loop must not wait for it.
    try:
        text = await asyncio.to_thread(blueprint.graph, fmt)
    except ConfigurationError as exc:  # svg without Graphviz
        raise RequestError(501, str(exc)) from None
    return web.Response(text=text, content_type=_GRAPHS[fmt])


@describe("List live workers", "workers", answers={200: list[WorkerView]})
async def list_workers(request: web.Request) -> web.Response:
    records = await live_workers(request)
    reputations = await request.app[SERVICE].store.reputations([record.id for record in records])
    return answer([worker_view(record, reputations.get(record.id)) for record in records])


@describe("Count workers, jobs and waiting messages", "workers", answers={200: Dashboard})
async def dashboard(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    workers = await live_workers(request)
    counts = {status.value: count for status, count in (await service.store.count_by_status()).items()}
    jobs = {"queued": counts.get(JobStatus.PENDING.value, 0), **counts}
    queues = await depths(request.app[SETTINGS], service.store, workers)
    return answer({"workers": {"total": len(workers)}, "jobs": jobs, "queues": queues})


async def live_workers(request: web.Request) -> list[WorkerRecord]:
    """Workers that have registered and not fallen silent; orchestrators run no tasks."""
    service = request.app[SERVICE]
    records = await service.store.workers(service.clock())
    return [record for record in records if record.type != "orchestrator"]
