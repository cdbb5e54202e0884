"""Whose request it is, and which jobs that one may see."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from avtomatika.api.keys import ARCHIVE, CLIENT, SERVICE, SETTINGS
from avtomatika.api.middleware import RequestError
from avtomatika.errors import UnknownJobError, WrongStateError
from avtomatika.jobs import Client, Event, Job
from avtomatika.operations.admission import MANAGE, NAME, check_queue
from avtomatika.operations.config import operations_config


def client_of(request: web.Request) -> Client:
    return request[CLIENT]


def require_admin(request: web.Request) -> Client:
    """The client, which is an admin; 403 for any other."""
    client = client_of(request)
    if not client.admin:
        raise RequestError(403, "only an admin may do this: set admin = true in clients.toml")
    return client


async def own_job(request: web.Request) -> Job:
    """The job of the path, where it is the client's own; another client's looks as if it did not exist.

    Raises:
        WrongStateError: only the history knows it.
    """
    job, is_past = await own_or_past_job(request)
    if is_past:
        raise WrongStateError(f"job {job.id} ended long ago ({job.status}) and is only in the history now: nothing changes it")
    return job


async def job_to_order(request: web.Request, what: str = MANAGE) -> Job:
    """The same, where the client may give such an order: of a queue task, its policy's ``queue`` says whether.

    Raises:
        PolicyError: it may not.
    """
    job = await own_job(request)
    check_order(request, job, what)
    return job


def check_order(request: web.Request, job: Job, what: str = MANAGE) -> None:
    """Raises PolicyError where the client may not give such an order to the job."""
    if job.blueprint_name == NAME:
        check_queue(client_of(request), operations_config(request.app[SETTINGS]), what)


async def own_or_past_job(request: web.Request) -> tuple[Job, bool]:
    """The same, and whether it has left the state store: then it is as the history knows it.

    Raises:
        HistoryUnavailableError: the state store does not have it, and the history does not answer.
    """
    job_id, client, archive = request.match_info["job_id"], client_of(request), request.app[ARCHIVE]
    job: Job | None = await request.app[SERVICE].store.load(job_id)
    is_past = job is None
    if job is None and archive is not None:
        job = await archive.job(job_id)
    if job is None or not (client.admin or job.client.name == client.name):
        raise UnknownJobError(job_id)
    return job, is_past


async def events_of(request: web.Request, job: Job, is_past: bool) -> Sequence[Event]:
    """Everything that happened to it."""
    archive = request.app[ARCHIVE]
    if is_past and archive is not None:
        return await archive.events(job.id)
    return await request.app[SERVICE].store.events(job.id)
