"""What a broken connection means: real ones, of httpx and of requests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import httpx
import pytest
import requests

from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.transport import judge_transport, retry_after
from tests.support.processes import free_port

GETS: list[Callable[..., object]] = [
    lambda url, **options: httpx.get(url, **options),
    lambda url, **options: requests.get(url, **{"timeout": 5, **options}),
]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _failure(get: Callable[..., object], url: str, **options: object) -> Code:
    with pytest.raises((httpx.TransportError, requests.RequestException)) as raised:
        get(url, **options)
    found = judge_transport(raised.value)
    assert found is not None
    assert "127.0.0.1" not in str(found)
    return found.code


@pytest.mark.parametrize("get", GETS, ids=["httpx", "requests"])
def test_what_a_broken_connection_means(get: Callable[..., object], silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    closed = free_port()
    assert _failure(get, f"http://127.0.0.1:{closed}/") is Code.NETWORK_CONNECTION_FAILED
    assert _failure(get, "http://nowhere.invalid/") is Code.NETWORK_DNS_ERROR
    assert _failure(get, f"http://127.0.0.1:{silent}/", timeout=0.1) is Code.NETWORK_TIMEOUT
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed}")
    expected = {Code.NETWORK_PROXY_ERROR, Code.NETWORK_CONNECTION_FAILED}  # httpx tells a proxy that is away from no other host
    assert _failure(get, "http://service.invalid/") in expected


@pytest.mark.parametrize("get", GETS, ids=["httpx", "requests"])
def test_a_server_without_tls(get: Callable[..., object]) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert _failure(get, f"https://127.0.0.1:{server.getsockname()[1]}/") is Code.NETWORK_SSL_ERROR
        thread.join(10)


def test_what_is_no_matter_of_transport() -> None:
    assert judge_transport(ValueError("connection refused")) is None
    assert judge_transport(OSError("connection refused")) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "30"}, 30), ({"retry-after": "Fri, 31 Dec 2027 23:59:59 GMT"}, None), ({}, None), (None, None)],
)
def test_seconds_to_wait(headers: dict[str, str] | None, seconds: int | None) -> None:
    assert retry_after(headers) == seconds
