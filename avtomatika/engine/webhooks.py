"""Webhooks: whom a job tells of its end, and what."""

from __future__ import annotations

from avtomatika.addresses import UrlRefusedError, check_url, receiver_of
from avtomatika.deliveries import Delivery, end_id
from avtomatika.engine.views import job_summary
from avtomatika.jobs import Client, Job
from avtomatika.settings import Settings


def webhook_of(url: str | None, client: Client) -> str | None:
    """Who is told of a new job's end: whom the request names, else whom the client's entry in clients.toml names."""
    if url is not None:
        return url
    own = client.params.get("webhook_url")
    return own if isinstance(own, str) and own else None


def check_webhook(url: str, settings: Settings) -> None:
    """Refuses a webhook that can be seen to fail.

    Raises:
        UrlRefusedError: the URL, or that there is no secret to sign with.
    """
    if settings.webhook_secret is None:
        raise UrlRefusedError("webhooks are signed, and there is no secret to do it with: set WEBHOOK_SECRET")
    check_url(url, settings.webhook_allow_private)


def end_delivery(job: Job) -> Delivery:
    """What there is to tell of a job that has just ended, as it is now: a retry may change the job before it is told."""
    assert job.webhook_url is not None
    return Delivery(
        id=end_id(job.id, job.version),
        job_id=job.id,
        event=f"job.{job.status.value}",
        receiver=receiver_of(job.webhook_url),
        created_at=job.updated_at,
        due=job.updated_at,
        payload={"job": {**job_summary(job), "result": job.result}},
        url=job.webhook_url,
    )
