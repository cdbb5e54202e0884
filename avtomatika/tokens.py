"""Tokens: made at random, kept and compared as SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets

from avtomatika.tomlfile import TomlFile

SHORTEST = 16
_STORED = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
_MAKE = "make one with `avtomatika token new`"


def fresh_token() -> str:
    """A new token, out of 32 random bytes."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def stored_form(token: str) -> str:
    """How a file should hold it: ``sha256:<hex>``."""
    return f"sha256:{digest_of(token).hex()}"


def read_digest(file: TomlFile, table: str, value: object) -> bytes:
    """The digest of a table's token, which is ``sha256:<64 hex>``, or plain. No message holds a token."""
    if value is None:
        raise file.error(f"[{table}] has no token; {_MAKE}", table)
    if not isinstance(value, str):
        raise file.error(f"the token must be a string in quotes; {_MAKE}", table, "token")
    if value.lower().startswith("sha256:"):
        stored = _STORED.fullmatch(value)
        if stored is None:
            raise file.error(f"after sha256: a token has 64 hexadecimal digits; {_MAKE}", table, "token")
        return bytes.fromhex(stored[1])
    if len(value) < SHORTEST:
        raise file.error(f"a plain token has at least {SHORTEST} characters; {_MAKE}", table, "token")
    if value != value.strip() or not value.isprintable():
        raise file.error(
            f"a token has no blanks around it and no control characters: no header could carry it; {_MAKE}", table, "token"
        )
    return digest_of(value)


def read_tables(file: TomlFile, what: str) -> dict[str, dict[str, object]]:
    """The tables of a file in which each table is one client or one worker."""
    for name, value in file.values.items():
        if not isinstance(value, dict):
            raise file.error(f"{name!r} stands outside of a table; put it under the [name] of a {what}", None, name)
        if not 0 < len(name) <= 200 or not name.isprintable():
            raise file.error(f"the name of a {what} has 1 to 200 printable characters, not {name!r}", name)
        if not {"token", "certificate"} & set(value) and any(isinstance(inner, dict) for inner in value.values()):
            raise file.error(f'[{name}] has no token; a name with dots needs quotes, ["{name}.…"]', name)
    return file.values


class Digests:
    """The digests read so far: no two names may have one token."""

    def __init__(self, file: TomlFile) -> None:
        self._file = file
        self._owners: dict[bytes, str] = {}

    def add(self, digest: bytes, owner: str, table: str | None = None) -> None:
        """Notes whose it is; raises ConfigurationError at the token's line where it is somebody else's."""
        if digest in self._owners:
            raise self._file.error(
                f"this is the token of {self._owners[digest]}, too; each needs its own: {_MAKE}", table, "token"
            )
        self._owners[digest] = owner
