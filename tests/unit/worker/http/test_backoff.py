"""How long is waited between tries."""

from __future__ import annotations

import pytest

from avtomatika.worker.http.backoff import LONGEST_RETRY_AFTER, Backoff, parse_retry_after


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 5.0, chance=lambda: 1.0)
    assert [backoff.next() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next() == 0.5


def test_jitter_takes_up_to_half_away() -> None:
    assert Backoff(4.0, 30.0, chance=lambda: 0.0).next() == 2.0
    assert all(2.0 <= Backoff(4.0, 30.0).next() <= 4.0 for _ in range(100))


def test_what_the_other_side_asks_for_is_the_least() -> None:
    backoff = Backoff(0.5, 5.0, chance=lambda: 1.0)
    assert backoff.next(7.0) == 7.0
    assert backoff.next(0.1) == 1.0


def test_a_thousand_tries_do_not_overflow() -> None:
    backoff = Backoff(0.5, 30.0, chance=lambda: 1.0)
    assert [backoff.next() for _ in range(2000)][-1] == 30.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        (" 12 ", 12.0),
        ("999999", LONGEST_RETRY_AFTER),
        ("soon", None),
        ("-4", None),
        ("²", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:40 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=90.0) == seconds
