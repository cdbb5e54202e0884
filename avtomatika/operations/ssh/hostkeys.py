"""Which host keys are trusted: pinned in the inventory, or in a known_hosts file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import HostEntry
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.failures import HostKeyMismatch

if TYPE_CHECKING:
    from paramiko import PKey

#: What is asked for where nothing tells which type of key the peer has.
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_RSA = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True, slots=True)
class KnownLine:
    """A line of a known_hosts file."""

    number: int
    marker: str
    names: tuple[str, ...]
    type: str
    blob: bytes

    def matches(self, name: str) -> bool:
        """Whether it speaks of this name, ``host`` or ``[host]:port``; a negated pattern that matches decides."""
        found = False
        for pattern in self.names:
            if pattern.startswith("|1|"):
                found = found or _is_hashed(pattern, name)
            elif fnmatchcase(name.lower(), _fnmatch(pattern.removeprefix("!").lower())):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The keys that a host may show.

    Attributes:
        revoked: those that it must not show, whatever else says so.
    """

    blobs: frozenset[bytes] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    revoked: frozenset[bytes] = frozenset()
    types: frozenset[str] = field(default=frozenset())

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What to negotiate: only types of which a key is known, or the peer would show one that nobody knows."""
        wanted = {name for type_ in self.types for name in (_RSA if type_ == "ssh-rsa" else (type_,))}
        return tuple(name for name in KEY_TYPES if name in wanted) if wanted else KEY_TYPES

    def verify(self, host: str, key: PKey) -> str:
        """The fingerprint of the key that a host has shown. Raises HostKeyMismatch where it is not one of these."""
        blob = key.asbytes()
        shown = fingerprint(blob)
        if blob in self.revoked:
            raise HostKeyMismatch(f"the host key of {host}, {shown}, is revoked", host=host, shown=shown)
        if blob not in self.blobs and shown not in self.fingerprints:
            expected = sorted({*map(fingerprint, self.blobs), *self.fingerprints})
            raise HostKeyMismatch(
                f"{host} shows the {key.get_name()} key {shown}, which is not known for it: either it was set up anew, and the "
                "inventory is to be changed, or another machine answers in its place",
                host=host,
                shown=shown,
                expected=expected,
            )
        return shown


def fingerprint(blob: bytes) -> str:
    """As OpenSSH prints it: ``SHA256:…``."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def trusted_keys(entry: HostEntry, address: str, port: int) -> TrustedKeys:
    """What is known of a host. Raises HostKeyMismatch where nothing is: a first key is never taken on trust."""
    blobs: set[bytes] = set()
    types: set[str] = set()
    revoked: set[bytes] = set()
    prints: set[str] = set()
    for line in entry.host_keys:
        type_, blob = _key(line.split(), f"host_keys of [hosts.{entry.name}]")
        blobs.add(blob)
        types.add(type_)
    if entry.fingerprint:
        *named, print_ = entry.fingerprint.split()
        prints.add(print_.rstrip("="))
        types.update(named)
    if entry.known_hosts is not None:
        for known in _lines_of(entry.known_hosts, address, port):
            if known.marker == "@revoked":
                revoked.add(known.blob)
            else:
                blobs.add(known.blob)
                types.add(known.type)
    blobs -= revoked
    if not blobs and not prints:
        raise HostKeyMismatch(
            f"no host key of {entry.name} ({name_of(address, port)}) is known: add host_keys, fingerprint or known_hosts "
            f"to [hosts.{entry.name}]; `ssh-keyscan -p {port} {address}` shows them, to be compared on the machine itself",
            host=entry.name,
        )
    # A fingerprint does not tell its type, unless that stands before it: then every type is to be asked for.
    open_ = bool(prints) and len((entry.fingerprint or "").split()) == 1
    return TrustedKeys(frozenset(blobs), frozenset(prints), frozenset(revoked), frozenset() if open_ else frozenset(types))


def name_of(address: str, port: int) -> str:
    """A host as known_hosts files name it."""
    return address if port == 22 else f"[{address}]:{port}"


def _lines_of(path: Path, address: str, port: int) -> Iterator[KnownLine]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as exc:
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"known_hosts {path}: {exc.strerror or exc}") from None
    for known in parse_known_hosts(text, str(path)):
        if not known.matches(name_of(address, port)):
            continue
        if known.marker == "@cert-authority":
            raise _wrong(str(path), known.number, "host certificates are not supported: add the host's own key")
        yield known


def parse_known_hosts(text: str, source: str = "known_hosts") -> list[KnownLine]:
    """Every line. Raises OperationError (CONFIGURATION_ERROR) with the first line that cannot be understood."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        marker = parts.pop(0) if parts[0].startswith("@") else ""
        if marker not in ("", "@revoked", "@cert-authority"):
            raise _wrong(source, number, f"the marker {marker} is unknown")
        if len(parts) < 3:
            raise _wrong(source, number, "a line is: names, type of key, key")
        type_, blob = _key(parts[1:], f"{source}, line {number}")
        found.append(KnownLine(number, marker, tuple(parts[0].split(",")), type_, blob))
    return found


def _key(parts: list[str], where: str) -> tuple[str, bytes]:
    """Type and bytes of ``ssh-ed25519 AAAA… comment``; the type inside of the bytes has to be the same."""
    try:
        type_, encoded = parts[0], parts[1]
        blob = base64.b64decode(encoded, validate=True)
        inner = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
    except (IndexError, binascii.Error, UnicodeDecodeError):
        inner, type_, blob = "", "?", b""
    if not blob or inner != type_:
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR, f"{where}: this is no public key; write it as `ssh-ed25519 AAAA…`"
        )
    return type_, blob


def _is_hashed(pattern: str, name: str) -> bool:
    try:
        _, _, salt, digest = pattern.split("|")
        expected = base64.b64decode(digest)
        # HMAC-SHA-1 is what this file format is made of; nothing is signed by it.
        found = hmac.new(base64.b64decode(salt), name.encode("utf-8", "surrogateescape"), hashlib.sha1).digest()
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(found, expected)


def _fnmatch(pattern: str) -> str:
    """Only ``*`` and ``?`` are wildcards here; the brackets of ``[host]:port`` stand for themselves."""
    return pattern.replace("[", "[[]")


def _wrong(source: str, number: int, why: str) -> OperationError:
    return OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"{source}, line {number}: {why}")
