"""Where requests go, and where they never go."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from avtomatika import outgoing
from avtomatika.addresses import UrlRefusedError, check_url, is_public, receiver_of
from avtomatika.outgoing import SendError, post
from tests.support.processes import free_port
from tests.support.receiver import receiving

INSIDE = [
    "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "0.0.0.0", "0.1.2.3",
    "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "2002:7f00:1::1", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "not an address", "", "2130706433", "127.1",
]  # fmt: skip
OUTSIDE = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/x", "https://"),
        ("file:///etc/passwd", "https://"),
        ("example.com/hook", "https://"),
        ("", "https://"),
        ("https://", "no host"),
        ("http:///path", "no host"),
        ("https://user@example.com/", "user or a password"),
        ("https://user:pass@example.com/", "user or a password"),
        ("https://exa mple.com/", "space"),
        ("https://example.com/\r\nX: y", "space"),
        ("https://example.com:99999/", "no URL"),
        ("https://[::1/", "no URL"),
        ("https://example.com/" + "x" * 2000, "2000"),
        ("http://127.0.0.1/", "not public"),
        ("http://127.1/", "not public"),
        ("http://2130706433/", "not public"),
        ("http://0x7f000001/", "not public"),
        ("http://0177.0.0.1/", "not public"),
        ("http://0/", "not public"),
        ("http://[::1]/", "not public"),
        ("http://[::ffff:10.0.0.1]/", "not public"),
        ("http://[fe80::1%25eth0]/", "not public"),
        ("http://169.254.169.254/latest/meta-data", "not public"),
        ("http://localhost:8080/", "not public"),
        ("http://LOCALHOST./", "not public"),
        ("http://x.localhost/", "not public"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(UrlRefusedError, match=words):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://example.com", "http://example.com:8080/a?b=c", "https://8.8.8.8/", "https://[2606:4700::1]/"]
)
def test_urls_that_are_taken(url: str) -> None:
    check_url(url)


def test_addresses_inside_may_be_allowed_and_nothing_else() -> None:
    check_url("http://127.0.0.1:8080/hook", allow_private=True)
    with pytest.raises(UrlRefusedError, match="user or a password"):
        check_url("http://me@127.0.0.1/", allow_private=True)


def test_the_receiver_is_host_and_port() -> None:
    assert receiver_of("https://Example.com:8443/a?b") == "example.com:8443"


async def test_a_post_is_answered() -> None:
    async with receiving([204]) as receiver:
        status = await post(f"{receiver.url}/hook", b"{}", {"X-One": "1"}, timeout_seconds=10, allow_private=True)
    (got,) = receiver.got
    assert (status, got.path, got.body, got.headers["X-One"], got.headers["Content-Type"]) == (
        204, "/hook", b"{}", "1", "application/json",
    )  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiving([status]) as receiver:
        assert await post(f"{receiver.url}/hook", b"{}", {}, timeout_seconds=10, allow_private=True) == status
    assert [got.path for got in receiver.got] == ["/hook"]


async def test_no_answer_in_time() -> None:
    async with receiving([0]) as receiver:
        with pytest.raises(SendError, match=r"no answer within 0\.2 s"):
            await post(receiver.url, b"{}", {}, timeout_seconds=0.2, allow_private=True)


async def test_nobody_listens_and_no_address_is_named() -> None:
    with pytest.raises(SendError, match="no connection") as refused:
        await post(f"http://127.0.0.1:{free_port()}/", b"{}", {}, timeout_seconds=10, allow_private=True)
    assert "127.0.0.1" not in str(refused.value)


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name leads to these addresses, as an evil name server could have it."""

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(families[":" in a], socket.SOCK_STREAM, 6, "", (a, int(port or 0))) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("10.0.0.1", "127.0.0.1")])
async def test_a_name_that_leads_inside_is_refused_when_it_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    async with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        _resolve_to(monkeypatch, *addresses)
        with pytest.raises(UrlRefusedError, match="WEBHOOK_ALLOW_PRIVATE"):
            await post(f"http://hooks.example.com:{port}/", b"{}", {}, timeout_seconds=10)
    assert receiver.got == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_the_guard_of_the_connection_alone_refuses_literal_addresses(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(outgoing, "check_url", lambda url, allow_private: None)
    async with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        with pytest.raises((UrlRefusedError, SendError)):
            await post(f"http://{host}:{port}/", b"{}", {}, timeout_seconds=10)
    assert receiver.got == []
