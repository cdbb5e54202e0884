"""The fault proxy of the tests: what each of its faults looks like to a client."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import pytest
import redis

from tests.support.polling import eventually
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


def _client(proxy: Proxy, seconds: float = 30) -> redis.Redis:
    return redis.Redis(port=proxy.port, socket_timeout=seconds, retry=None, decode_responses=True)  # type: ignore[arg-type]


def test_it_forwards_and_a_cut_connection_is_made_anew(proxy: Proxy) -> None:
    with _client(proxy) as client:
        one = client.client()
        assert one.ping()
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            one.execute_command("GET", "a")
        assert client.set("a", "1")


def test_it_refuses_until_it_is_told_otherwise(proxy: Proxy) -> None:
    with _client(proxy) as client:
        proxy.refuse()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        proxy.accept()
        assert client.ping()


def test_frozen_connections_are_silent_and_go_on(proxy: Proxy) -> None:
    with _client(proxy, 3) as client, socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as raw:
        assert client.ping()
        proxy.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        raw.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            raw.recv(10)
        proxy.thaw()
        raw.settimeout(10)
        assert raw.recv(10) == b"+PONG\r\n"


def test_it_freezes_at_a_request(proxy: Proxy, redis_server: RedisServer) -> None:
    proxy.freezes_on = re.compile(rb"SET\r\n\$1\r\nb\r\n")
    with _client(proxy, 3) as client, redis_server.client() as direct:
        assert client.set("a", "1")
        with pytest.raises(redis.TimeoutError):
            client.set("b", "2")
        assert proxy.frozen.wait(10)
        assert direct.get("b") is None
        proxy.thaw()
        assert client.set("c", "3")


def test_it_delays(proxy: Proxy) -> None:
    with _client(proxy) as client:
        assert client.ping()
        proxy.delay = 0.1
        began = time.monotonic()
        assert client.ping()
        assert time.monotonic() - began >= 0.2


def test_a_half_open_connection_is_gone_for_the_server_alone(proxy: Proxy, redis_server: RedisServer) -> None:
    with _client(proxy, 3) as client, redis_server.client() as direct:
        one = client.client()
        one.execute_command("CLIENT", "SETNAME", "half")
        proxy.half_open()
        eventually(lambda: all(each["name"] != "half" for each in direct.client_list()))
        with pytest.raises(redis.TimeoutError):  # not told that it is closed
            one.execute_command("GET", "a")
        assert client.ping()
