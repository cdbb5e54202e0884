"""TLS on the facade: its certificate, read again when it is renewed, and the certificates that clients come with."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

from avtomatika.book import Book
from avtomatika.errors import ConfigurationError
from avtomatika.private import too_open
from avtomatika.settings import Settings

_RENEW = "renew it, or name the right file"


class TLSBook(Book[ssl.SSLContext]):
    """What the facade serves with; None for plain HTTP, see `open_tls`."""

    def __init__(self, settings: Settings) -> None:
        files = (settings.api_tls_key, settings.api_tls_client_ca)
        super().__init__(settings.api_tls_cert, partial(read_context, settings), files)

    def context(self) -> ssl.SSLContext:
        """For the server: every connection is served with what was read last."""
        return _Current(self)


def open_tls(settings: Settings) -> TLSBook | None:
    """None where no certificate is set. Raises ConfigurationError where one of the files does not fit."""
    if settings.api_tls_cert is not None:
        return TLSBook(settings)
    for name in ("api_tls_key", "api_tls_client_ca"):
        if getattr(settings, name) is not None:
            raise ConfigurationError(f"{name.upper()} is set, and API_TLS_CERT is not: set it, too, or neither")
    return None


def read_context(settings: Settings) -> ssl.SSLContext:
    """Raises ConfigurationError: a file cannot be read, is no PEM, does not fit the other one, or is open to others."""
    cert, key = settings.api_tls_cert, settings.api_tls_key
    assert cert is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    for name, path in (("API_TLS_CERT", cert), ("API_TLS_KEY", key), ("API_TLS_CLIENT_CA", settings.api_tls_client_ca)):
        if path is not None:
            _check_readable(name, path)
    problem = too_open(key or cert)
    if problem is not None:
        raise ConfigurationError(f"{'API_TLS_KEY' if key else 'API_TLS_CERT'}: {problem}")
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as exc:
        reason = exc.reason or "it is no PEM, or holds no private key"
        raise ConfigurationError(f"API_TLS_CERT and API_TLS_KEY ({cert}, {key or cert}) do not fit: {reason}; {_RENEW}") from None
    if settings.api_tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.api_tls_client_ca)
        except ssl.SSLError as exc:
            raise ConfigurationError(
                f"API_TLS_CLIENT_CA ({settings.api_tls_client_ca}) holds no certificates: {exc.reason}; {_RENEW}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED if settings.api_tls_client_auth == "required" else ssl.CERT_OPTIONAL
    return context


def _check_readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as exc:
        raise ConfigurationError(f"{name} names {path}, which cannot be read: {exc.strerror}") from None


def _no_passphrase() -> NoReturn:
    raise ConfigurationError(
        "the key of API_TLS_KEY has a passphrase, which nobody is there to enter: keep one without, mode 600"
    )


class _Current(ssl.SSLContext):
    """Hands each connection to the context that holds when it is made: so a removed authority is gone at once, too."""

    _book: TLSBook

    def __new__(cls, book: TLSBook) -> _Current:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._book = book
        return made

    def __init__(self, book: TLSBook) -> None:
        """All is set in `__new__`: the base class takes a protocol there."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self._book.current.wrap_bio(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """Of a client, checked by API_TLS_CLIENT_CA.

    Attributes:
        names: how clients.toml may name it: ``CN=…``, where it has exactly one common name, and ``sha256:…``.
    """

    names: frozenset[str]


def peer_certificate(request: web.Request) -> PeerCertificate | None:
    """What the client of a request came with; None without a certificate, or without TLS."""
    tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    if tls is None:
        return None
    der: bytes | None = tls.getpeercert(binary_form=True)
    if not der:
        return None
    names = {f"sha256:{hashlib.sha256(der).hexdigest()}"}
    subject = (tls.getpeercert() or {}).get("subject", ())
    common = [value for pairs in subject for key, value in pairs if key == "commonName"]
    if len(common) == 1:
        names.add(f"CN={common[0]}")
    return PeerCertificate(frozenset(names))
