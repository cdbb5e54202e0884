"""When a delivery is tried again, and what it remembers."""

from __future__ import annotations

import json

import pytest

from avtomatika.deliveries import Delivery, DeliveryAttempt, DeliveryStatus, retry_wait
from tests.support.records import NOW

FAILED = DeliveryAttempt(NOW, 3.5, 500, "answered 500")


def a_delivery() -> Delivery:
    return Delivery("d1", "j1", "job.finished", "example.com", NOW, NOW, {"job": {"id": "j1"}}, "https://example.com/x")


@pytest.mark.parametrize(
    ("tries", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 8), (10, 512), (11, 600), (12, 600), (100, 600), (5000, 600)]
)
def test_the_wait_doubles_up_to_ten_minutes(tries: int, seconds: float) -> None:
    waits = [retry_wait(tries) for _ in range(200)]
    assert all(0.75 * seconds <= wait <= 1.25 * seconds for wait in waits)
    assert len(set(waits)) > 1, "there is no jitter"


def test_all_attempts_fit_into_a_day() -> None:
    assert sum(retry_wait(tries) for tries in range(1, 12)) < 24 * 3600


def test_an_attempt_that_failed_is_followed_by_another() -> None:
    after = a_delivery().tried(FAILED, NOW + 5, 12)
    assert (after.status, after.tries, after.version, after.attempts) == (DeliveryStatus.PENDING, 1, 1, (FAILED,))
    assert NOW + 5.75 <= after.due <= NOW + 6.25


def test_the_last_attempt_is_the_end() -> None:
    delivery = a_delivery()
    for _ in range(3):
        delivery = delivery.tried(FAILED, NOW, 3)
    assert (delivery.status, delivery.tries, delivery.is_over) == (DeliveryStatus.FAILED, 3, True)


def test_success_is_the_end() -> None:
    after = a_delivery().tried(DeliveryAttempt(NOW, 1.0, 204), NOW, 12)
    assert (after.status, after.is_over) == (DeliveryStatus.DELIVERED, True)


def test_the_last_twenty_attempts_are_kept_and_all_are_counted() -> None:
    delivery = a_delivery()
    for n in range(30):
        delivery = delivery.tried(DeliveryAttempt(NOW + n, 1.0, 500, "answered 500"), NOW, 100)
    assert (delivery.tries, len(delivery.attempts), delivery.attempts[0].at) == (30, 20, NOW + 10)


def test_a_record_survives_json() -> None:
    delivery = a_delivery().tried(FAILED, NOW, 12)
    assert Delivery.from_dict(json.loads(json.dumps(delivery.to_dict()))) == delivery
