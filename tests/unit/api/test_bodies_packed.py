"""Bodies and answers that are packed, too large, too slow or broken."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from avtomatika.api.app import create_app
from avtomatika.api.compression import best_encoding, zstd
from avtomatika.settings import Settings

from .conftest import HEADERS, Server, StoringService

Facade = TestClient[Any, Any]
DATA = json.dumps({"name": "Ada"}).encode()
RAW = zlib.compressobj(wbits=-15)
PACKED = {
    "gzip": gzip.compress(DATA),
    "x-gzip": gzip.compress(DATA),
    "GZip": gzip.compress(DATA),
    "deflate": zlib.compress(DATA),
    "zstd": zstd.compress(DATA),
    "identity": DATA,
}


async def post(facade: Facade, data: Any, encoding: str) -> tuple[int, str]:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    async with facade.post("/api/v1/hello", data=data, headers=headers) as response:
        body = await response.json()
        return response.status, body.get("error", body.get("job_id"))


@pytest.mark.parametrize("encoding", PACKED)
async def test_a_packed_body_is_unpacked(facade: Facade, service: StoringService, encoding: str) -> None:
    status, job_id = await post(facade, PACKED[encoding], encoding)
    assert status == 202, job_id
    job = await service.store.load(job_id)
    assert job is not None
    assert job.initial_data == {"name": "Ada"}


async def test_deflate_without_its_header_is_taken(facade: Facade) -> None:
    assert (await post(facade, RAW.compress(DATA) + RAW.flush(), "deflate"))[0] == 202


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_it_may_come_byte_by_byte(facade: Facade, encoding: str) -> None:
    async def one_by_one() -> AsyncIterator[bytes]:
        for byte in PACKED[encoding]:
            yield bytes([byte])
            await asyncio.sleep(0)

    assert (await post(facade, one_by_one(), encoding))[0] == 202


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "nonsense"])
async def test_an_unknown_encoding_is_415(facade: Facade, encoding: str) -> None:
    status, words = await post(facade, DATA, encoding)
    assert status == 415
    assert "zstd" in words


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("what", ["no such format", "cut", "more behind", "two"])
async def test_broken_data_is_400(facade: Facade, encoding: str, what: str) -> None:
    whole = PACKED[encoding]
    data = {"no such format": b"\x28not packed", "cut": whole[:-3], "more behind": whole + b"x", "two": whole + whole}[what]
    assert (await post(facade, data, encoding))[0] == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_what_unpacks_beyond_the_limit_is_413(facade: Facade, encoding: str) -> None:
    bomb = b'{"a": "' + bytes(5_000_000) + b'"}'
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}[encoding]
    packed = pack(bomb)  # type: ignore[operator]
    status, words = await post(facade, packed, encoding)
    assert status == 413
    assert "BODY_LIMIT_MB" in words


async def test_a_window_beyond_reason_is_refused(facade: Facade) -> None:
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    assert (await post(facade, compressor.compress(DATA) + compressor.flush(), "zstd"))[0] == 400


async def test_a_body_may_be_as_large_as_the_limit(facade: Facade, settings: Settings) -> None:
    limit = int(settings.body_limit_mb * 1024 * 1024)
    body = b'{"a": "' + b"x" * (limit - 9) + b'"}'
    assert (await post(facade, body, "identity"))[0] == 202
    assert (await post(facade, gzip.compress(body), "gzip"))[0] == 202
    assert (await post(facade, body + b" ", "identity"))[0] == 413
    assert (await post(facade, gzip.compress(body + b" "), "gzip"))[0] == 413

    async def without_length() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield body

    assert (await post(facade, without_length(), "identity"))[0] == 413


async def test_a_slow_body_is_408(service: StoringService, settings: Settings) -> None:
    settings = settings.model_copy(update={"body_timeout_seconds": 0.05})
    never = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b'{"a": '
        await never.wait()

    async with TestClient(Server(create_app(service, settings)), headers=HEADERS) as facade:
        status, words = await post(facade, half(), "identity")
        assert status == 408
        assert "BODY_TIMEOUT_SECONDS" in words


async def test_a_slow_body_has_its_own_time(service: StoringService, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.api.middleware.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("avtomatika.api.intake.PATIENCE_SECONDS", 5)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"a": '
        await asyncio.sleep(0.3)
        yield b"1}"

    async with TestClient(Server(create_app(service, settings)), headers=HEADERS) as facade:
        assert (await post(facade, slowly(), "identity"))[0] == 202


@pytest.mark.parametrize(
    ("accepted", "best"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("zstd;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("*", "zstd"),
        ("*;q=0.1, gzip;q=0.5", "gzip"),
        ("zstd;q=0, *", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("br", None),
        ("gzip;q=nonsense", None),
        ("GZIP ; Q=0.8", "gzip"),
        ("x-gzip", "gzip"),
    ],
)
def test_the_best_encoding(accepted: str, best: str | None) -> None:
    assert best_encoding(accepted) == best


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)])
async def test_a_large_answer_is_packed(facade: Facade, encoding: str, unpack: Any) -> None:
    for number in range(20):
        await post(facade, json.dumps({"n": number}).encode(), "identity")
    plain = await _raw(facade, {"Accept-Encoding": "identity"})
    packed = await _raw(facade, {"Accept-Encoding": encoding})
    assert "Content-Encoding" not in plain[0]
    assert packed[0]["Content-Encoding"] == encoding
    assert [headers["Vary"] for headers in (plain[0], packed[0])] == ["Accept-Encoding"] * 2
    assert int(packed[0]["Content-Length"]) == len(packed[1]) < len(plain[1])
    assert unpack(packed[1]) == plain[1]


async def test_a_small_answer_is_not(facade: Facade) -> None:
    headers, body = await _raw(facade, {"Accept-Encoding": "gzip"}, "/_public/status")
    assert "Content-Encoding" not in headers
    assert json.loads(body) == {"status": "ok"}


async def _raw(facade: Facade, headers: dict[str, str], path: str = "/api/v1/jobs") -> tuple[Any, bytes]:
    async with facade.get(path, headers=headers, auto_decompress=False) as response:
        assert response.status == 200
        return response.headers, await response.read()
