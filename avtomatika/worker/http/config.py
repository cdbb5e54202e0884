"""What a worker over HTTP is told: for whom it works, under which name, and where it keeps things."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from avtomatika.errors import ConfigurationError
from avtomatika.settings import Settings
from avtomatika.worker.http.rotation import Rank

_NAME = re.compile(r"[A-Za-z0-9_@:-][A-Za-z0-9_.@:-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """One facade. Its token is in no repr and no log."""

    url: str
    token: str = field(repr=False)
    rank: Rank = field(default_factory=Rank)


@dataclass(frozen=True, slots=True)
class Config:
    """Attributes:
    family: what all worker ids of this machine and worker type begin with, where the id is not chosen; else None.
    spool_dir: holds a folder for each worker id; None means the user's state folder.
    health_port: None means no health endpoint; 0 a free port.
    """

    worker_id: str
    orchestrators: tuple[Orchestrator, ...]
    family: str | None = None
    spool_dir: Path | None = None
    websocket: bool = True
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    heartbeat_seconds: float = 15.0
    grace_seconds: float = 8.0


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str
    priority: int = 1
    weight: int = Field(1, ge=1, le=1000)
    token: SecretStr | None = None


def read_config(
    settings: Settings,
    worker_type: str,
    *,
    urls: Sequence[str] = (),
    orchestrators: Sequence[Mapping[str, Any]] | None = None,
    token: str | None = None,
    worker_id: str | None = None,
) -> Config:
    """Arguments come before the settings, several orchestrators before one. Raises ConfigurationError, which names the fix."""
    entries = _entries(settings, urls, orchestrators)
    shared = token or _secret(settings.worker_individual_token) or _secret(settings.worker_token)
    chosen = worker_id or settings.worker_id
    family = None if chosen else re.sub(r"[^A-Za-z0-9_-]+", "-", f"{worker_type}-{socket.gethostname()}").strip("-") + "-"
    name = chosen or f"{family}{os.getpid()}"
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"the worker id {name!r} does not fit: use up to 200 letters, digits and any of _ . @ : - (WORKER_ID, or worker_id=)"
        )
    return Config(
        worker_id=name,
        orchestrators=tuple(_orchestrator(entry, shared) for entry in entries),
        family=family,
        spool_dir=settings.worker_spool_dir,
        websocket=settings.worker_websocket,
        health_host=settings.worker_health_host,
        health_port=settings.worker_health_port,
        heartbeat_seconds=settings.heartbeat,
        grace_seconds=settings.shutdown_grace_seconds,
    )


def _entries(settings: Settings, urls: Sequence[str], orchestrators: Sequence[Mapping[str, Any]] | None) -> list[_Entry]:
    if urls and orchestrators:
        raise ConfigurationError("give orchestrator_url or orchestrators, not both")
    if urls:
        found = [_Entry(url=url) for url in urls]
    elif orchestrators is not None:
        found = _checked(orchestrators, "orchestrators")
    elif (text := _secret(settings.orchestrators_config)) is not None:
        try:
            value = json.loads(text)
        except ValueError as exc:
            raise ConfigurationError(f"ORCHESTRATORS_CONFIG is not JSON: {exc}") from None
        found = _checked(value, "ORCHESTRATORS_CONFIG")
    else:
        found = [_Entry(url=settings.orchestrator_url)] if settings.orchestrator_url else []
    if not found:
        raise ConfigurationError(
            "no orchestrator is named: set ORCHESTRATOR_URL (or ORCHESTRATORS_CONFIG), "
            "or call run(orchestrator_url='https://…'), or give --url"
        )
    places = [entry.url.rstrip("/") for entry in found]
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise ConfigurationError(f"{twice[0]} is named twice among the orchestrators; remove one of them")
    return found


def _checked(value: Any, where: str) -> list[_Entry]:
    try:
        return TypeAdapter(list[_Entry]).validate_python(value)
    except ValidationError as exc:
        misfits = "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}".lstrip(": ")
            for error in exc.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(
            f'{where} does not fit: {misfits}; write [{{"url": "https://…", "priority": 1, "weight": 1, "token": "…"}}, …]'
        ) from None


def _orchestrator(entry: _Entry, shared: str | None) -> Orchestrator:
    url = entry.url.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"{_shown(url)!r} is no orchestrator's URL: write https://host, or http://host:port")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"the URL of {parts.hostname} holds a user or password; give the token as WORKER_TOKEN instead")
    token = _secret(entry.token) or shared
    if not token:
        raise ConfigurationError(
            f"there is no token for {url}: set WORKER_INDIVIDUAL_TOKEN or WORKER_TOKEN, or give run(token=…), "
            "or a token in its entry of ORCHESTRATORS_CONFIG"
        )
    if not token.isascii() or not token.isprintable():
        raise ConfigurationError(f"the token for {url} holds a character that no header can carry; copy it again")
    return Orchestrator(url, token, Rank(entry.priority, entry.weight))


def _shown(url: str) -> str:
    """Without a password that may be in it."""
    return re.sub(r"//[^/]*@", "//***@", url)


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value().strip() or None if value is not None else None
