"""What handlers find on the application and on a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from avtomatika.jobs import Client
from avtomatika.settings import Settings

if TYPE_CHECKING:
    from avtomatika.engine.service import Service

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
SERVICE: web.AppKey[Service] = web.AppKey("service")
CLIENT: web.RequestKey[Client] = web.RequestKey("client", Client)  # whose token a request bears
