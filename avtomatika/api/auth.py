"""Who may come in: a client's token under /api/, a worker's under /_worker/."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import NoReturn
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from avtomatika.api.keys import ACCOUNT, ACCOUNTS, CLIENT, WORKER, WORKER_TOKENS
from avtomatika.api.middleware import RequestError
from avtomatika.api.tls import peer_certificate

logger = logging.getLogger(__name__)

_CLIENT_HEADERS = ("X-Avtomatika-Token", "X-Client-Token")
WORKER_HEADERS = ("X-Worker-Token",)


@web.middleware
async def authentication(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Requires a token where one is needed, and puts whose it is on the request."""
    place = place_of(request)
    if place.startswith("/_worker/"):
        _let_worker_in(request)
    elif place.startswith(("/api/", "/_public/debug/")):
        _let_client_in(request)
    return await handler(request)


def place_of(request: web.Request) -> str:
    """The route that serves a request, as it was declared: what is matched decides, however the path is spelt."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else request.path


def token_of(request: web.Request, headers: tuple[str, ...] = _CLIENT_HEADERS) -> str | None:
    """The token of a request: one of these headers, or Authorization: Bearer."""
    for header in headers:
        if token := request.headers.get(header, "").strip():
            return token
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _let_client_in(request: web.Request) -> None:
    token = token_of(request)
    accounts = request.app[ACCOUNTS].current
    account = accounts.account_of(token) if token is not None else None
    if token is None and (certificate := peer_certificate(request)) is not None:
        account = accounts.account_of_certificate(certificate.names)
        if account is None:
            _refuse(request, None, "this certificate is no client's either: name it in clients.toml, certificate = …")
        _refuse_other_pages(request)
    if account is None:
        _refuse(request, token, "send it as X-Avtomatika-Token or Authorization: Bearer")
    request[ACCOUNT] = account
    request[CLIENT] = account.client


def _refuse_other_pages(request: web.Request) -> None:
    """A browser shows its certificate whatever page asks it to; a token it sends for nobody else."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        _failures.note(request, f"a page of {origin!r} used somebody's certificate")
        raise RequestError(403, "a certificate counts for the facade's own pages only; send a token")


def _let_worker_in(request: web.Request) -> None:
    tokens = request.app[WORKER_TOKENS].current
    if not tokens:
        _refuse(
            request,
            None,
            "no worker may come in over HTTP here: set GLOBAL_WORKER_TOKEN, or WORKERS_CONFIG_PATH to a workers.toml",
        )
    token = token_of(request, WORKER_HEADERS)
    identity = tokens.identity_of(token) if token is not None else None
    if identity is None:
        _refuse(request, token, "send a worker's token as X-Worker-Token or Authorization: Bearer")
    request[WORKER] = identity
    worker_id = request.match_info.get("worker_id")
    if worker_id is not None and not identity.may_be(worker_id):
        _failures.note(request, f"the token of {identity.name_of_token} is not that of worker {worker_id!r}")
        raise RequestError(403, f"this token is not that of worker {worker_id!r}; use the one that workers.toml names for it")


def _refuse(request: web.Request, token: str | None, fix: str) -> NoReturn:
    what = "no token" if token is None else "this token is not known"
    _failures.note(request, what)
    raise RequestError(401, f"{what}: {fix}", {"WWW-Authenticate": "Bearer"})


class Failures:
    """Logs what was refused, at most once a second for each peer, so that a flood fills no disk."""

    PAUSE = 1.0
    _PEERS = 1000

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, request: web.Request, why: str, now: float | None = None) -> None:
        peer = request.remote or "unknown"
        now = time.monotonic() if now is None else now
        last, unsaid = self._seen.get(peer, (float("-inf"), 0))
        if now - last < self.PAUSE:
            self._seen[peer] = (last, unsaid + 1)
            return
        self._seen[peer] = (now, 0)
        self._seen.move_to_end(peer)
        if len(self._seen) > self._PEERS:
            self._seen.popitem(last=False)
        logger.warning(
            "refused %s %r of %s: %s%s",
            request.method,
            request.path,
            peer,
            why,
            f" (and {unsaid} before)" if unsaid else "",
            extra={"action": "access_refused", "peer": peer, "path": request.path},
        )


_failures = Failures()
