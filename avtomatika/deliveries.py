"""What is to be told to the world outside, and how often that was tried: records without I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from avtomatika.results import JSON

#: So many attempts a delivery shows; all of them are counted.
SHOWN_ATTEMPTS = 20
MAX_WAIT_SECONDS = 600.0


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up
    DROPPED = "dropped"  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One try. `error` says why it does not count; None where it does."""

    at: float
    duration_ms: float
    status_code: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Something to be told to one receiver until it takes it. It comes into being with the change of a job that it tells of.

    Attributes:
        id: names it for the receiver, the same at every attempt.
        event: ``job.finished`` (and the other ends), or ``approval.requested``.
        receiver: who gets it; those of one receiver share its few places, so that a dead one holds up nobody else.
        payload: what there is to tell, as it was when this came into being.
        url: where it is sent; None for an integration.
        version: grows by one with every change.
        tries: attempts so far; `attempts` holds the last ones.
        due: when it is tried next; it means nothing once the status is final.
    """

    id: str
    job_id: str
    event: str
    receiver: str
    created_at: float
    due: float
    payload: JSON = field(default_factory=dict)
    url: str | None = None
    version: int = 0
    status: DeliveryStatus = DeliveryStatus.PENDING
    tries: int = 0
    attempts: tuple[DeliveryAttempt, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.status is not DeliveryStatus.PENDING

    def tried(self, attempt: DeliveryAttempt, now: float, max_attempts: int) -> Delivery:
        """The delivery after one more attempt: over, or due again after a pause."""
        tries = self.tries + 1
        status = DeliveryStatus.PENDING
        if attempt.error is None:
            status = DeliveryStatus.DELIVERED
        elif tries >= max_attempts:
            status = DeliveryStatus.FAILED
        attempts = (*self.attempts, attempt)[-SHOWN_ATTEMPTS:]
        due = now + retry_wait(tries)
        return replace(self, version=self.version + 1, status=status, tries=tries, attempts=attempts, due=due)

    def dropped(self) -> Delivery:
        return replace(self, version=self.version + 1, status=DeliveryStatus.DROPPED)

    def to_dict(self) -> JSON:
        out = {name: getattr(self, name) for name in self.__slots__}
        out["status"] = self.status.value
        out["attempts"] = [asdict(attempt) for attempt in self.attempts]
        return out

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Delivery:
        fields = dict(value)
        fields["status"] = DeliveryStatus(fields["status"])
        fields["attempts"] = tuple(DeliveryAttempt(**attempt) for attempt in fields["attempts"])
        return cls(**fields)


def end_id(job_id: str, version: int) -> str:
    """The id of the delivery that tells of a job's end: the end is one version of the job."""
    return f"{job_id}.{version}"


def retry_wait(tries: int) -> float:
    """Seconds to wait after so many attempts: one, doubling up to ten minutes, with jitter of a quarter either way."""
    wait = min(MAX_WAIT_SECONDS, 2.0 ** min(tries - 1, 30))
    return wait * random.uniform(0.75, 1.25)
