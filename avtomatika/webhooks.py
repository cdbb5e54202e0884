"""Signatures of webhooks: how they are made, and what a receiver checks them with. Needs nothing but the standard library."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import Protocol

TIMESTAMP = "X-Avtomatika-Timestamp"
SIGNATURE = "X-Avtomatika-Signature"
DELIVERY = "X-Avtomatika-Delivery"
EVENT = "X-Avtomatika-Event"

_MAX_DIGITS = 12


class Headers(Protocol):
    """The headers of a request, as any web framework has them: a dict, or what is like one."""

    def items(self) -> Iterable[tuple[str, str]]: ...


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """``sha256=`` and the HMAC-SHA256, in hex, of ``<timestamp>.<body>``."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def verify(body: bytes, headers: Headers, secret: str, tolerance_seconds: float = 300, *, now: float | None = None) -> bool:
    """Whether a request was signed with this secret, and lately. Takes the same time however much of a signature is right.

    Args:
        body: the body as it came, before anything has parsed it.
        headers: in any case of letters.
        tolerance_seconds: how old (or how far ahead) the timestamp may be; it bounds how long a copied request can be repeated.
        now: seconds since the epoch; None asks the clock.
    """
    given = {name.lower(): value for name, value in headers.items()}
    timestamp = given.get(TIMESTAMP.lower(), "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _MAX_DIGITS):
        return False
    signature = given.get(SIGNATURE.lower(), "").encode("utf-8", "replace")
    is_right = hmac.compare_digest(sign(secret, int(timestamp), body).encode(), signature)
    return is_right and abs((time.time() if now is None else now) - int(timestamp)) <= tolerance_seconds
