"""Which addresses a host outside of the inventory may lead to, and how connections to several are tried."""

from __future__ import annotations

import socket

import pytest

from avtomatika.operations.errors import PolicyError
from avtomatika.operations.ssh.address import Resolved, check_outside, connect, resolve
from avtomatika.operations.ssh.failures import ConnectionFailed
from tests.support.processes import free_port


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.1.1",
        "168.63.129.16",
        "100.100.100.200",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
def test_no_address_of_this_machine_of_its_link_or_of_metadata(ip: str) -> None:
    with pytest.raises(PolicyError, match="inventory"):
        check_outside("elsewhere", ip)


@pytest.mark.parametrize("ip", ["10.0.0.5", "192.168.1.1", "93.184.216.34", "2606:4700::1111", "fd12:3456::1"])
def test_any_other(ip: str) -> None:
    check_outside("elsewhere", ip)


def test_the_first_address_that_answers_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [Resolved(socket.AF_INET, ("127.0.0.1", free_port())), *resolve("127.0.0.1", port, 5, nothing)]
        with connect(found, 5, nothing) as sock:
            assert sock.getpeername()[1] == port
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_every_address_is_named_that_does_not_answer() -> None:
    ports = [free_port(), free_port()]
    with pytest.raises(ConnectionFailed, match=f"{ports[0]}: Connection refused; .*{ports[1]}: Connection refused"):
        connect([Resolved(socket.AF_INET, ("127.0.0.1", port)) for port in ports], 5, nothing)


def test_what_can_be_no_name() -> None:
    with pytest.raises(ConnectionFailed, match="cannot be resolved"):
        resolve("a" * 64 + ".example.com", 22, 5, nothing)
