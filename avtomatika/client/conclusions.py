"""What an answer means: its value, or the error that says what to do."""

from __future__ import annotations

import os
import ssl
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from avtomatika.client.calls import Call
from avtomatika.client.retries import Outcome
from avtomatika.errors import (
    ApiError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    FacadeUnavailableError,
    NotAllowedError,
    NotFoundError,
    TooManyRequestsError,
)

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_SECONDS = 5.0
#: A stream that is silent for longer is dead: the facade says something every 15 s.
SILENCE_SECONDS = 45.0

_ERRORS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    409: ConflictError,
    413: BadRequestError,
    422: BadRequestError,
    429: TooManyRequestsError,
}


def http_options(url: str | None, token: str | None, timeout: float) -> dict[str, Any]:
    """What both of httpx's clients are made with.

    Raises:
        ConfigurationError: there is no token, or the URL is none.
    """
    url = (url or os.environ.get("AVTOMATIKA_URL") or DEFAULT_URL).strip().rstrip("/")
    token = (token or os.environ.get("CLIENT_TOKEN") or "").strip()
    if not token and not os.environ.get("AVTOMATIKA_CERT"):
        raise ConfigurationError("there is no token: set CLIENT_TOKEN, or give the client its token")
    if not (token.isascii() and token.isprintable()):
        raise ConfigurationError("the token holds letters that no header can carry: check CLIENT_TOKEN")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigurationError(f"{url!r} is not the URL of a facade: set AVTOMATIKA_URL to one like {DEFAULT_URL}")
    return {
        "base_url": url,
        "headers": {"X-Avtomatika-Token": token} if token else {},
        "verify": _verification(),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        "trust_env": parts.hostname not in ("127.0.0.1", "::1", "localhost"),  # no proxy to this very machine
    }


def _verification() -> ssl.SSLContext | bool:
    """How the facade's certificate is checked, and which one the client comes with: AVTOMATIKA_CA, _CERT and _KEY."""
    ca, cert, key = (os.environ.get(f"AVTOMATIKA_{name}") or None for name in ("CA", "CERT", "KEY"))
    if ca is None and cert is None:
        return True
    name = "AVTOMATIKA_CA"
    try:
        context = ssl.create_default_context(cafile=ca)
        name = "AVTOMATIKA_CERT and AVTOMATIKA_KEY"
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigurationError(f"{name}: {exc.strerror or exc}; name files in PEM that fit") from None
    return context


def stream_timeout() -> httpx.Timeout:
    return httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)


def request_options(call: Call[Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"params": call.query, "headers": call.headers}
    if call.body is not None:
        options["json"] = call.body
    return options


def conclude(call: Call[T], outcome: Outcome, url: object) -> T:
    """The answer's value.

    Raises:
        ApiError: what the facade refused, or that it does not answer.
    """
    if isinstance(outcome, httpx.TransportError):
        raise unreachable(outcome, url) from outcome
    raise_for_status(outcome, url)
    kind = kind_of(outcome)
    if kind == "text/html":
        raise stranger(outcome, url)
    try:
        return call.parse(outcome.json() if kind == "application/json" else outcome.text)
    except (ValidationError, KeyError, TypeError, ValueError) as exc:
        raise ApiError(outcome.status_code, f"the answer of {url} to {call.path} is not what this client knows: {exc}") from exc


def raise_for_status(response: httpx.Response, url: object) -> None:
    status = response.status_code
    if status < 300:
        return
    message = _message(response)
    if message is None:
        raise stranger(response, url)
    cls = FacadeUnavailableError if status >= 500 else _ERRORS.get(status, ApiError)
    raise cls(status, message)


def unreachable(exc: httpx.TransportError, url: object) -> FacadeUnavailableError:
    reason = str(exc) or type(exc).__name__
    return FacadeUnavailableError(0, f"the facade at {url} does not answer ({reason}); is `avtomatika up` running?")


def _message(response: httpx.Response) -> str | None:
    """The facade's own words, where it was the facade who answered."""
    if kind_of(response) != "application/json":
        return None
    try:
        body = response.json()
    except ValueError:
        return None
    return str(body["error"]) if isinstance(body, dict) and "error" in body else None


def stranger(response: httpx.Response, url: object) -> ApiError:
    """Something else than a facade has answered."""
    what = f"{response.status_code} {kind_of(response) or 'without a type'}"
    cls = FacadeUnavailableError if response.status_code >= 500 else ApiError
    return cls(response.status_code, f"{url} does not look like a facade of avtomatika: it answered {what}; check AVTOMATIKA_URL")


def kind_of(response: httpx.Response) -> str:
    """The answer's media type."""
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
