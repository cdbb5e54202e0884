"""Who may come in: tokens, kept and compared as SHA-256."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from aiohttp import web

from avtomatika.errors import ConfigurationError
from avtomatika.jobs import Client
from avtomatika.settings import Settings


class ClientTokens:
    """Which client a token belongs to. The tokens themselves are not kept."""

    def __init__(self, tokens: Iterable[tuple[str, Client]]) -> None:
        self._clients = [(_digest(token), client) for token, client in tokens]

    @classmethod
    def from_settings(cls, settings: Settings) -> ClientTokens:
        """The single CLIENT_TOKEN is an admin's. Raises ConfigurationError where there is no token at all."""
        token = settings.client_token.get_secret_value().strip() if settings.client_token is not None else ""
        if not token:
            raise ConfigurationError(
                "the facade does not start without a token: set CLIENT_TOKEN to a long random string "
                "(`avtomatika up` makes one and keeps it in its data directory)"
            )
        return cls([(token, Client(name="default", admin=True))])

    def client_of(self, token: str) -> Client | None:
        """The token's client, in a time that does not depend on how much of the token is right."""
        digest = _digest(token)
        found = None
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        return found


def token_of(request: web.Request) -> str | None:
    """The token of a request: X-Avtomatika-Token, X-Client-Token, or Authorization: Bearer."""
    for header in ("X-Avtomatika-Token", "X-Client-Token"):
        if token := request.headers.get(header, "").strip():
            return token
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
