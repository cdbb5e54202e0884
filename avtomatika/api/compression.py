"""Answers, packed as the client's Accept-Encoding has it."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SMALLEST = 1024
#: Larger ones are packed in a thread: the loop serves others meanwhile.
_IN_THREAD = 64 * 1024
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstd.compress(body, 3),
    "gzip": lambda body: gzip.compress(body, 5, mtime=0),
}
_PACKED_TYPES = ("application/json", "application/javascript", "application/xml", "image/svg+xml")


@web.middleware
async def compression(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Packs whole answers of text that are larger than a kilobyte; streams and sockets go through as they are."""
    response = await handler(request)
    if not isinstance(response, web.Response) or response.prepared or "Content-Encoding" in response.headers:
        return response
    body = response.body
    if not isinstance(body, bytes | bytearray) or len(body) <= SMALLEST or not _is_text(response.content_type):
        return response
    _vary(response)
    encoding = best_encoding(request.headers.get("Accept-Encoding", ""))
    if encoding is None:
        return response
    pack = _PACKERS[encoding]
    response.body = pack(bytes(body)) if len(body) < _IN_THREAD else await asyncio.to_thread(pack, bytes(body))
    response.headers["Content-Encoding"] = encoding
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):  # these bytes are others
        response.headers["ETag"] = f"W/{tag}"
    return response


def best_encoding(accepted: str) -> str | None:
    """zstd, gzip, or None for as it is: the one with the highest q-value of an Accept-Encoding; zstd first among equals."""
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name:
            weights["gzip" if name == "x-gzip" else name] = _weight(parameters)
    others = weights.get("*", 0.0)
    best = max(_PACKERS, key=lambda name: weights.get(name, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def _is_text(content_type: str) -> bool:
    if content_type == "text/event-stream":
        return False
    return content_type.startswith("text/") or content_type in _PACKED_TYPES or content_type.endswith("+json")


def _vary(response: web.Response) -> None:
    known = response.headers.get("Vary", "")
    if "accept-encoding" not in known.lower() and known.strip() != "*":
        response.headers["Vary"] = f"{known}, Accept-Encoding" if known else "Accept-Encoding"
