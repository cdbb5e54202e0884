"""What handlers find on the application and on a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from avtomatika.api.metrics import RequestMetrics
from avtomatika.jobs import Client
from avtomatika.settings import Settings

if TYPE_CHECKING:
    from avtomatika.api.clients import Account, AccountBook
    from avtomatika.api.listeners import Listeners
    from avtomatika.api.tls import TLSBook
    from avtomatika.api.websocket import Sockets
    from avtomatika.api.workertokens import WorkerTokenBook
    from avtomatika.broker.hub import PullHub
    from avtomatika.engine.remote import RemoteWorkers
    from avtomatika.engine.service import Service
    from avtomatika.history import Archive


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Whose token a worker's request bears.

    Attributes:
        worker_id: None for the global token.
        name_of_token: for logs and messages.
        named: the workers that have a token of their own, which the global one does not stand for.
    """

    worker_id: str | None
    name_of_token: str
    named: frozenset[str] = frozenset()

    def may_be(self, worker_id: str) -> bool:
        """Whether it may speak for this worker."""
        return worker_id not in self.named if self.worker_id is None else worker_id == self.worker_id


SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
SERVICE: web.AppKey[Service] = web.AppKey("service")
REMOTE: web.AppKey[RemoteWorkers] = web.AppKey("remote")
HUB: web.AppKey[PullHub] = web.AppKey("hub")
SOCKETS: web.AppKey[Sockets] = web.AppKey("sockets")
ACCOUNTS: web.AppKey[AccountBook] = web.AppKey("accounts")
WORKER_TOKENS: web.AppKey[WorkerTokenBook] = web.AppKey("worker_tokens")
TLS: web.AppKey[TLSBook | None] = web.AppKey("tls")  # None: plain HTTP
METRICS: web.AppKey[RequestMetrics] = web.AppKey("metrics", RequestMetrics)
ARCHIVE: web.AppKey[Archive | None] = web.AppKey("archive")  # None: no history is kept
LISTENERS: web.AppKey[Listeners] = web.AppKey("listeners")
CLIENT: web.RequestKey[Client] = web.RequestKey("client", Client)  # whose token a request bears
ACCOUNT: web.RequestKey[Account] = web.RequestKey("account")  # the same client, and what it may do
WORKER: web.RequestKey[WorkerIdentity] = web.RequestKey("worker", WorkerIdentity)  # under /_worker/
PATIENCE: web.RequestKey[asyncio.Timeout] = web.RequestKey("patience")  # what bounds the time of a request
BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)  # once it is read: see intake.py
REPEATED: web.RequestKey[bool] = web.RequestKey("repeated", bool)  # an idempotent repeat: it made nothing new
