"""Which URLs and addresses requests may go to that others have named: none inside, unless that is allowed."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from avtomatika.errors import AvtomatikaError

MAX_URL_LENGTH = 2000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")


class UrlRefusedError(AvtomatikaError):
    """Nothing is sent to this URL; the message says why, and what would do."""


#: Global by its number, and yet the machine's own keeper: the wire server of Azure's virtual machines.
_AZURE_WIRE_SERVER = ipaddress.IPv4Address("168.63.129.16")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: none that is private, of this machine, or for a special use."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _inner(ip)
        if inner is not None:
            return _is_public(inner)
    return _is_public(ip)


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    special = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved or ip.is_unspecified
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    return ip.is_global and not special and not site_local and ip != _AZURE_WIRE_SERVER


def _inner(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4, Teredo, NAT64."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return None


def check_url(url: str, allow_private: bool = False) -> None:
    """Refuses what can be seen to be wrong in a URL itself; where its name leads is looked at when it is connected to.

    Raises:
        UrlRefusedError: another scheme, no host, a user or password in it, or the address of a machine inside.
    """
    if len(url) > MAX_URL_LENGTH:
        raise UrlRefusedError(f"the URL has {len(url)} characters; {MAX_URL_LENGTH} are the most")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise UrlRefusedError("the URL holds a space or a control character; encode it")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UrlRefusedError("this is no URL; write it like https://example.com/hooks/jobs") from None
    if parts.scheme not in ("http", "https"):
        raise UrlRefusedError(f"the URL must begin with https:// or http://, not with {parts.scheme or 'nothing'!r}")
    if not host:
        raise UrlRefusedError("the URL names no host; write it like https://example.com/hooks/jobs")
    if parts.username is not None or parts.password is not None:
        raise UrlRefusedError("the URL holds a user or a password; leave them out, every request is signed")
    if not allow_private and _is_inside(host):
        raise UrlRefusedError("the URL leads to an address that is not public; WEBHOOK_ALLOW_PRIVATE=true allows such ones")


def receiver_of(url: str) -> str:
    """Host and port of a URL: who gets what is sent there."""
    return urlsplit(url).netloc.lower()


def _is_inside(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        # Also the old ways to write an IPv4 address: 127.1, 0x7f.1, 2130706433.
        address = host if ":" in host else socket.inet_ntoa(socket.inet_aton(name))
    except (OSError, UnicodeError):
        return False
    return not is_public(address)
