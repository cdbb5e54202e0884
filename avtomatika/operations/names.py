"""Names that end up on command lines and in protocols: of hosts and users, and which keys stand for secrets."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any

HOST_NAME = r"^[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,251}[A-Za-z0-9_])?$"
_HOST = re.compile(HOST_NAME)
_USER = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET = re.compile(
    r"(^|_)(password|passwd|passphrase|passcode|pwd|secret|token|private_key|api_key|apikey|access_key|secret_key"
    r"|secret_access_key|account_key|auth_key|signing_key|encryption_key|webhook_secret|bearer|authorization)$"
)
_NUMERIC = re.compile(r"(^|_)(password|passwd|passphrase|passcode|pwd)$")
#: Names of secrets that are none: what pages a list, and the like.
_HARMLESS = frozenset({"page_token", "next_page_token", "next_token", "continue_token", "stop_token", "eos_token", "pad_token"})

#: Where clouds keep what a machine may know of itself, its credentials included; those that are not link-local.
_KEEPERS = frozenset(map(ipaddress.ip_address, ("168.63.129.16", "100.100.100.200", "fd00:ec2::254")))


def check_address(value: Any) -> Any:
    """A host name or an IP address: no dash in front, nothing that a shell, a URL or an option would read."""
    if not isinstance(value, str) or value == "" or is_address(value):
        return value
    raise ValueError("this is neither a host name nor an IP address: letters, digits, '.', '-', '_' only, without a port")


def is_address(text: str) -> bool:
    if ":" in text:
        address, _, zone = text.partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            return False
        return not zone or (zone.isascii() and zone.isalnum())
    return bool(_HOST.fullmatch(text)) and len(text) <= 253


def is_of_this_machine(text: str) -> bool:
    """Whether an address is the machine itself, its link (where clouds keep their metadata), or nobody's in particular."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        try:  # also the old ways to write an IPv4 address: 127.1, 0x7f.1, 2130706433
            ip = ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(text)))
        except (OSError, UnicodeError):
            name = text.lower().rstrip(".")
            return name.endswith((".localhost", ".localdomain")) or name in ("localhost", "ip6-localhost", "ip6-loopback")
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    special = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast or ip.is_reserved
    return special or ip in _KEEPERS


def check_username(value: Any) -> Any:
    """A user's name of a strict kind: OpenSSH's and other programs' names have been ways in."""
    if not isinstance(value, str) or is_username(value):
        return value
    raise ValueError("a user's name has letters, digits, '.', '_', '+' and '-', does not begin with '-', and has 64 at most")


def is_username(text: str) -> bool:
    return bool(_USER.fullmatch(text))


def is_secret_name(name: str) -> bool:
    """Whether a key such as ``apiKey`` or ``DB_PASSWORD`` stands for a secret; ``max_tokens`` and ``password_file`` do not."""
    plain = _plain(name)
    return plain not in _HARMLESS and _SECRET.search(plain) is not None


def is_numeric_secret_name(name: str) -> bool:
    """Whether even a number under this key is a secret, such as a passcode's."""
    return _NUMERIC.search(_plain(name)) is not None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", _CAMEL.sub("_", name).lower()).strip("_")
