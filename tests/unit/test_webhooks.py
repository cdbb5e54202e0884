"""Signatures: what a receiver accepts, and what not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from avtomatika.webhooks import SIGNATURE, TIMESTAMP, sign, verify

NOW = 1_700_000_000
BODY = b'{"event":"job.finished"}'
SECRET = "s3cret"


def signed(**changes: str) -> dict[str, str]:
    return {TIMESTAMP: str(NOW), SIGNATURE: sign(SECRET, NOW, BODY), **changes}


def test_the_signature_is_that_of_openssl() -> None:
    """`printf '%s' '1700000000.{}' | openssl dgst -sha256 -hmac key`"""
    assert sign("key", NOW, b"{}") == "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"


@pytest.mark.parametrize("age", [0, 299, 300, -300])
def test_a_right_signature_is_accepted_while_it_is_fresh(age: int) -> None:
    assert verify(BODY, signed(), SECRET, now=NOW + age)


def test_the_case_of_header_names_does_not_matter() -> None:
    assert verify(BODY, {name.lower(): value for name, value in signed().items()}, SECRET, now=NOW)


@pytest.mark.parametrize(
    ("body", "headers", "secret", "now"),
    [
        pytest.param(BODY + b" ", signed(), SECRET, NOW, id="another body"),
        pytest.param(BODY, signed(), "other", NOW, id="another secret"),
        pytest.param(BODY, signed(), SECRET, NOW + 301, id="too old"),
        pytest.param(BODY, signed(), SECRET, NOW - 301, id="from the future"),
        pytest.param(BODY, signed(**{TIMESTAMP: str(NOW + 1)}), SECRET, NOW, id="another timestamp"),
        pytest.param(BODY, signed(**{TIMESTAMP: "now"}), SECRET, NOW, id="no timestamp"),
        pytest.param(BODY, signed(**{TIMESTAMP: "9" * 5000}), SECRET, NOW, id="a timestamp without end"),
        pytest.param(BODY, signed(**{TIMESTAMP: "\u0661" * 10}), SECRET, NOW, id="digits of another script"),
        pytest.param(BODY, signed(**{SIGNATURE: ""}), SECRET, NOW, id="no signature"),
        pytest.param(BODY, signed(**{SIGNATURE: signed()[SIGNATURE].removeprefix("sha256=")}), SECRET, NOW, id="no prefix"),
        pytest.param(BODY, signed(**{SIGNATURE: "sha256=\udcff"}), SECRET, NOW, id="no text"),
        pytest.param(BODY, {}, SECRET, NOW, id="no headers"),
    ],
)
def test_all_else_is_refused(body: bytes, headers: dict[str, str], secret: str, now: int) -> None:
    assert verify(body, headers, secret, now=now) is False


def test_a_receiver_needs_nothing_but_the_standard_library() -> None:
    code = "import sys, avtomatika.webhooks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "celery", "redis", "pydantic"} & {name.partition(".")[0] for name in done.stdout.split()}
