"""The client API, `/api/…`: create, show, list and decide jobs; blueprints, workers, the dashboard."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from avtomatika.api.bodies import Decision, NewJob, moment, parse, read_object, whole_number
from avtomatika.api.keys import CLIENT, SERVICE, SETTINGS
from avtomatika.api.listing import Cursor, page
from avtomatika.api.middleware import RequestError
from avtomatika.api.queues import depths
from avtomatika.engine.views import event_view, job_summary, job_view, worker_view
from avtomatika.errors import UnknownJobError
from avtomatika.jobs import JSON, Client, Job, JobStatus, WorkerRecord

_GRAPHS = {
    "dot": "text/vnd.graphviz",
    "svg": "image/svg+xml",
    "mermaid": "text/vnd.mermaid",
    "json": "application/json",
}
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def answer(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=_dumps)


def client_of(request: web.Request) -> Client:
    return request[CLIENT]


def creator(blueprint_name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of a blueprint's own endpoint: the body is the job's initial data."""

    async def create(request: web.Request) -> web.Response:
        return await _create(request, blueprint_name, await read_object(request))

    return create


async def create_job(request: web.Request) -> web.Response:
    body = parse(NewJob, await read_object(request), required="blueprint")
    return await _create(request, body.blueprint, body.initial_data, priority=body.priority, tags=tuple(body.tags))


async def _create(
    request: web.Request, name: str, data: JSON, *, priority: float = 0.0, tags: tuple[str, ...] = ()
) -> web.Response:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 0 < len(key.strip()) <= 200:
        raise RequestError(400, "Idempotency-Key must hold 1 to 200 characters")
    job = await request.app[SERVICE].create(
        name,
        data,
        client=client_of(request),
        priority=priority,
        tags=tags,
        idempotency_key=key.strip() if key is not None else None,
    )
    return answer({"status": "accepted", "job_id": job.id}, status=202)


async def show_job(request: web.Request) -> web.Response:
    job = await _own_job(request)
    return answer(await job_view(job, request.app[SERVICE]))


async def list_jobs(request: web.Request) -> web.Response:
    query, client, store = request.query, client_of(request), request.app[SERVICE].store
    blueprint, tag = query.get("blueprint"), query.get("tag")

    def fits(job: Job) -> bool:
        return (not blueprint or job.blueprint_name == blueprint) and (not tag or tag in job.tags)

    jobs, following = await page(
        store,
        fits,
        status=_status(query.get("status")),
        client=None if client.admin else client.name,
        since=moment(query["since"], "since") if query.get("since") else None,
        cursor=Cursor.parse(query["cursor"]) if query.get("cursor") else None,
        offset=whole_number(request, "offset", 0, 0, 1_000_000),
        limit=whole_number(request, "limit", 50, 1, 1000),
    )
    views = [job_summary(job) for job in jobs]
    return answer({"jobs": views, "next_cursor": str(following) if following is not None else None})


async def job_history(request: web.Request) -> web.Response:
    job = await _own_job(request)
    return answer([event_view(event) for event in await request.app[SERVICE].store.events(job.id)])


async def decide(request: web.Request) -> web.Response:
    body = parse(Decision, await read_object(request), required="decision")
    job = await _own_job(request)
    who = client_of(request).name
    await request.app[SERVICE].decide(job.id, body.decision, comment=body.comment, who=who)
    return answer({"status": "approval_received", "job_id": job.id})


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


async def blueprint_graph(request: web.Request) -> web.Response:
    fmt = request.query.get("format", "dot")
    if fmt not in _GRAPHS:
        raise RequestError(422, f"format must be one of {', '.join(_GRAPHS)}, not {fmt!r}")
    blueprint = request.app[SERVICE].blueprints.get(request.match_info["name"])
    # Graphviz is a program of its own, so the loop must not wait for it.
    text = await asyncio.to_thread(blueprint.graph, fmt)
    return web.Response(text=text, content_type=_GRAPHS[fmt])


async def list_workers(request: web.Request) -> web.Response:
    records = await live_workers(request)
    reputations = await request.app[SERVICE].store.reputations([record.id for record in records])
    return answer([worker_view(record, reputations.get(record.id)) for record in records])


async def dashboard(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    workers = await live_workers(request)
    counts = {status.value: count for status, count in (await service.store.count_by_status()).items()}
    jobs = {"queued": counts.get(JobStatus.PENDING.value, 0), **counts}
    queues = await depths(request.app[SETTINGS], service.store, workers)
    return answer({"workers": {"total": len(workers)}, "jobs": jobs, "queues": queues})


async def live_workers(request: web.Request) -> list[WorkerRecord]:
    """Workers that have registered and not fallen silent; orchestrators run no tasks."""
    records = await request.app[SERVICE].store.workers(time.time())
    return [record for record in records if record.type != "orchestrator"]


async def _own_job(request: web.Request) -> Job:
    """The job of the path, where it is the client's own; another client's looks as if it did not exist."""
    job_id, client = request.match_info["job_id"], client_of(request)
    job: Job | None = await request.app[SERVICE].store.load(job_id)
    if job is None or not (client.admin or job.client.name == client.name):
        raise UnknownJobError(job_id)
    return job


def _status(text: str | None) -> JobStatus | None:
    if not text:
        return None
    try:
        return JobStatus(text)
    except ValueError:
        raise RequestError(
            422, f"status must be one of {', '.join(status.value for status in JobStatus)}, not {text!r}"
        ) from None
