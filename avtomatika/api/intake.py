"""The bytes of a body: unpacked, and bounded in size and in time. The facade's server leaves unpacking to this module."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web

from avtomatika.api.keys import BODY, PATIENCE, SETTINGS
from avtomatika.api.middleware import PATIENCE_SECONDS, RequestError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE = 64 * 1024
#: As browsers have it (RFC 8878): a frame may not ask for a window of more than 8 MB.
_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_BROKEN = (zlib.error, zstd.ZstdError, EOFError)


class Unpacker(Protocol):
    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What these bytes hold, in pieces of at most PIECE bytes."""

    @property
    def is_over(self) -> bool:
        """Whether the end has come, and nothing after it."""


async def read_body(request: web.Request) -> bytes:
    """The whole body, unpacked.

    Raises:
        RequestError: 400 broken, 408 too slow, 413 too large (packed or unpacked), 415 an encoding that is not known here.
            Chunks that are broken and come after their head are 408 as well: aiohttp reads nothing more from such a
            connection and does not tell its reader, so that the body's time runs out.
    """
    if BODY not in request:
        request[BODY] = await _read(request)
    return request[BODY]


async def _read(request: web.Request) -> bytes:
    unpacker = _unpacker(request.headers.get("Content-Encoding", ""))
    settings = request.app[SETTINGS]
    limit = int(settings.body_limit_mb * 1024 * 1024)
    if (request.content_length or 0) > limit:
        raise _too_large(settings.body_limit_mb)
    if unpacker is None and request.content.is_eof():  # small, and here already: as most are
        whole = request.content.read_nowait()
        if len(whole) > limit:
            raise _too_large(settings.body_limit_mb)
        return whole
    body = bytearray()
    packed = 0
    async with _in_time(request, settings.body_timeout_seconds):
        while chunk := await _chunk(request):
            packed += len(chunk)
            for piece in unpacker.unpack(chunk) if unpacker is not None else (chunk,):
                body += piece
                if max(packed, len(body)) > limit:
                    raise _too_large(settings.body_limit_mb)
    if unpacker is not None and packed and not unpacker.is_over:
        raise RequestError(400, "the packed body ends too early; send all of it")
    return bytes(body)


async def _chunk(request: web.Request) -> bytes:
    try:
        return await request.content.readany()
    except (web.RequestPayloadError, ConnectionError):
        raise RequestError(400, "the body did not arrive as its headers say; send it again") from None


@asynccontextmanager
async def _in_time(request: web.Request, seconds: float) -> AsyncIterator[None]:
    """Bounds the body's time apart from that of the rest of the request."""
    patience = request.get(PATIENCE)
    if patience is not None and not patience.expired():
        patience.reschedule(None)
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RequestError(
            408, f"the body did not arrive within {seconds:g} s; send it faster, or raise BODY_TIMEOUT_SECONDS"
        ) from None
    finally:
        if patience is not None and not patience.expired():
            patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)


def _too_large(limit_mb: float) -> RequestError:
    return RequestError(
        413, f"the body is larger than the {limit_mb:g} MB that BODY_LIMIT_MB allows; send less, or raise the limit"
    )


def _unpacker(encoding: str) -> Unpacker | None:
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return _Zlib(16 + zlib.MAX_WBITS)
        case "deflate":
            return _Zlib(None)
        case "zstd":
            return _Zstd()
        case _:
            raise RequestError(415, f"Content-Encoding {encoding!r} is not known here; send gzip, deflate, zstd, or none")


class _Zlib:
    """gzip, or deflate where `wbits` is None: with a zlib header, as it should be, or without, as some send it."""

    def __init__(self, wbits: int | None) -> None:
        self._object = zlib.decompressobj(wbits) if wbits is not None else None

    def unpack(self, data: bytes) -> Iterator[bytes]:
        if self._object is None:
            self._object = zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        _refuse_more(self._object.eof and bool(data))
        while True:
            try:
                piece = self._object.decompress(data, PIECE)
            except _BROKEN as exc:
                raise _broken(exc) from None
            yield piece
            _refuse_more(bool(self._object.unused_data))
            if len(piece) < PIECE:
                return
            data = self._object.unconsumed_tail

    @property
    def is_over(self) -> bool:
        return self._object is not None and self._object.eof


class _Zstd:
    def __init__(self) -> None:
        self._object = zstd.ZstdDecompressor(options=_WINDOW)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        _refuse_more(self._object.eof and bool(data))
        while True:
            try:
                piece = self._object.decompress(data, PIECE)
            except _BROKEN as exc:
                raise _broken(exc) from None
            yield piece
            _refuse_more(self._object.eof and bool(self._object.unused_data))
            if self._object.eof or self._object.needs_input:
                return
            data = b""

    @property
    def is_over(self) -> bool:
        return self._object.eof


def _refuse_more(more: bool) -> None:
    # Thousands of empty members cost much and hold nothing, and whoever sends one JSON object needs no second.
    if more:
        raise RequestError(400, "something follows the end of the packed body; send it as one gzip member or zstd frame")


def _broken(exc: Exception) -> RequestError:
    return RequestError(400, f"the body is not what its Content-Encoding says: {exc}")
