"""Values that nobody means to send, against a real facade and a real store: they are kept as they are, or refused in words."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.support.processes import REPOSITORY, Facade, Processes
from tests.support.servers import RedisServer


@pytest.fixture
def facade(processes: Processes, redis_server: RedisServer, namespace: str) -> Facade:
    env = {"REDIS_URL": redis_server.url, "NAMESPACE": namespace, "BLUEPRINTS_DIR": str(REPOSITORY / "blueprints")}
    return processes.make(Facade, env={**env, "RATE_LIMITING_ENABLED": "false"})


ODD_TEXTS = [
    "\x00",
    "\ud800",
    "\udcff\ud83d",
    "a/../b",
    "x" * 5000,
    "'\"{}[]",
    "\r\nX-Header: 1",
    "\u202e",
    "%00",
    "*",
    "é\u0301",
]


def test_odd_texts_come_back_as_they_were(facade: Facade) -> None:
    for text in ODD_TEXTS:
        _comes_back(facade, text)


def _comes_back(odd: Facade, text: str) -> None:
    data = {"text": text, text: [text, {"deep": text}]}
    accepted = _call(odd, "POST", "/api/v1/hello", data=json.dumps(data))
    assert accepted.status_code == 202
    shown = _call(odd, "GET", f"/api/v1/jobs/{accepted.json()['job_id']}")
    assert (shown.status_code, shown.json()["initial_data"]) == (200, data)

    listed = _call(odd, "GET", "/api/v1/jobs", params={"tag": text[:200].encode(errors="replace")})
    assert listed.status_code == 200
    for path in "/api/v1/jobs/{}", "/api/v1/jobs/{}/history", "/api/v1/blueprints/{}/graph":
        place = path.format(quote(text.encode(errors="surrogatepass"), safe=""))
        assert _call(odd, "GET", place).status_code in (200, 404), place
    refused = _call(odd, "POST", "/api/v1/jobs", data=json.dumps({"blueprint": text, "tags": [text]}))
    assert refused.status_code in (404, 422)


ODD_BODIES = [
    (b'{"a": 1e400}', 400),
    (b'{"a": -Infinity}', 400),
    (b'{"a": ' + b"9" * 4000 + b"}", 202),
    (b'{"a": ' + b"9" * 6000 + b"}", 400),
    (b'{"a": 1e308, "b": -0.0, "c": 5e-324}', 202),
    (b'{"a": ' + b"[" * 90 + b"]" * 90 + b"}", 202),
    (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", 400),
    (b'{"a": ' + b'{"b":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 400),
    (b'\xef\xbb\xbf{"a": 1}', 202),
    (b'{"a": "\xff"}', 400),
    (b'{"a": 1, "a": 2}', 202),
]


def test_odd_bodies(facade: Facade) -> None:
    for raw, status in ODD_BODIES:
        _is_answered(facade, raw, status)


def _is_answered(odd: Facade, raw: bytes, status: int) -> None:
    answer = _call(odd, "POST", "/api/v1/hello", data=raw)
    assert answer.status_code == status, (raw[:50], answer.text)
    if status == 202:
        shown = _call(odd, "GET", f"/api/v1/jobs/{answer.json()['job_id']}")
        assert shown.json()["initial_data"] == json.loads(raw)


def test_odd_idempotency_keys_are_refused(facade: Facade) -> None:
    for key in b"\xff\xfe", "é".encode(), b"x" * 201, b"a\tb":
        answer = _call(facade, "POST", "/api/v1/hello", json={}, headers={"Idempotency-Key": key})
        assert answer.status_code == 400, key


ODD_QUERIES = [
    "limit=1&limit=x", "since=1e999", "since=-1e308", "since=0001-01-01T00:00:00%2B14:00", "since=nan", "cursor=1~9999999",
    "cursor=1e400~1", "cursor=%00", "status=%ed%a0%80", "blueprint=%00&tag=%ff", "offset=99999999999999999999", "limit=%D9%A1",
]  # fmt: skip


def test_odd_queries(facade: Facade) -> None:
    for query in ODD_QUERIES:
        answer = _call(facade, "GET", f"/api/v1/jobs?{query}")
        assert answer.status_code in (200, 422), (query, answer.text)


def _call(facade: Facade, method: str, path: str, **options: Any) -> requests.Response:
    headers = {"X-Avtomatika-Token": facade.token, **options.pop("headers", {})}
    return requests.request(method, f"{facade.url}{path}", headers=headers, timeout=30, **options)
