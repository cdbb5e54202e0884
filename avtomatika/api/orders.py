"""The client API's orders on a job: cancel, retry, pause, resume."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from avtomatika.api.access import client_of, job_to_order
from avtomatika.api.answers import answer
from avtomatika.api.bodies import parse_optional, read_optional_object
from avtomatika.api.describe import describe
from avtomatika.api.keys import SERVICE, WORKER_TOKENS
from avtomatika.api.quarantine import RetryOrder
from avtomatika.jobs import JobStatus
from avtomatika.operations.admission import CANCEL


class CancelOrder(BaseModel):
    """The body of ``POST /api/v1/jobs/{id}/cancel``, which may be left out.

    `force` ends the job at once, whatever its clean-up does.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    force: bool = False


class Cancelled(BaseModel):
    """`…_sent`: the worker that runs the task has been told over its WebSocket."""

    status: Literal["cancellation_request_sent", "cancellation_request_accepted"]
    job_id: str


class Retried(BaseModel):
    status: Literal["retry_accepted"]
    job_id: str


class Paused(BaseModel):
    """`pause_requested`: it pauses once what it waits for has ended."""

    status: Literal["paused", "pause_requested"]
    job_id: str


class Resumed(BaseModel):
    status: Literal["resumed"]
    job_id: str


@describe("Cancel a job", "jobs", body=CancelOrder, body_required=False, answers={200: Cancelled}, errors=(403, 404, 409))
async def cancel_job(request: web.Request) -> web.Response:
    order = parse_optional(CancelOrder, await read_optional_object(request))
    job = await job_to_order(request, CANCEL)
    service = request.app[SERVICE]
    _, running = await service.orders.cancel(job.id, who=client_of(request).name, force=order.force)
    named = request.app[WORKER_TOKENS].current.named
    told = running is not None and await service.has_socket(running.worker_id, shared=running.worker_id not in named)
    status = "cancellation_request_sent" if told else "cancellation_request_accepted"
    return answer({"status": status, "job_id": job.id})


@describe(
    "Try a failed or quarantined job again",
    "jobs",
    body=RetryOrder,
    body_required=False,
    answers={200: Retried},
    errors=(403, 404, 409),
    example={"initial_data": {"url": "https://example.com/the-right-one"}},
)
async def retry_job(request: web.Request) -> web.Response:
    order = parse_optional(RetryOrder, await read_optional_object(request))
    job = await job_to_order(request)
    await request.app[SERVICE].orders.retry(job.id, who=client_of(request).name, edit=order.edit)
    return answer({"status": "retry_accepted", "job_id": job.id})


@describe("Pause a job before its next step", "jobs", answers={200: Paused}, errors=(403, 404, 409))
async def pause_job(request: web.Request) -> web.Response:
    job = await job_to_order(request)
    paused = await request.app[SERVICE].orders.pause(job.id, who=client_of(request).name)
    status = "paused" if paused.status is JobStatus.PAUSED else "pause_requested"
    return answer({"status": status, "job_id": job.id})


@describe("Let a paused job go on", "jobs", answers={200: Resumed}, errors=(403, 404, 409))
async def resume_job(request: web.Request) -> web.Response:
    job = await job_to_order(request)
    await request.app[SERVICE].orders.resume(job.id, who=client_of(request).name)
    return answer({"status": "resumed", "job_id": job.id})
