"""Who may use the worker API: GLOBAL_WORKER_TOKEN and workers.toml."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from avtomatika.api.access import require_admin
from avtomatika.api.answers import answer
from avtomatika.api.describe import describe
from avtomatika.api.keys import WORKER_TOKENS, WorkerIdentity
from avtomatika.api.middleware import RequestError
from avtomatika.book import Book
from avtomatika.errors import ConfigurationError
from avtomatika.settings import Settings
from avtomatika.tokens import Digests, digest_of, read_digest, read_tables
from avtomatika.tomlfile import TomlFile

_KNOWN = ("token", "description")


class WorkerTokens:
    """Which worker a token belongs to. The tokens themselves are not kept.

    Args:
        digests: of the workers that have a token of their own, by worker id.
        shared: the digest of the global token.
    """

    def __init__(self, digests: Mapping[str, bytes], shared: bytes | None = None) -> None:
        self._digests = dict(digests)
        self._shared = shared
        self.named = frozenset(digests)

    def __bool__(self) -> bool:
        return bool(self._digests) or self._shared is not None

    def identity_of(self, token: str) -> WorkerIdentity | None:
        """Whose token it is, in a time that does not depend on how much of it is right."""
        digest = digest_of(token)
        found = None
        if self._shared is not None and hmac.compare_digest(self._shared, digest):
            found = WorkerIdentity(None, "GLOBAL_WORKER_TOKEN", self.named)
        for worker_id, known in self._digests.items():
            if hmac.compare_digest(known, digest):
                found = WorkerIdentity(worker_id, worker_id)
        return found


class WorkerTokenBook(Book[WorkerTokens]):
    """The worker tokens of these settings, as their file says now. There may be none: then no worker comes in over HTTP.

    Raises:
        ConfigurationError: the file is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.workers_config_path, partial(read_worker_tokens, settings))


def read_worker_tokens(settings: Settings) -> WorkerTokens:
    secret = settings.global_worker_token
    token = secret.get_secret_value().strip() if secret is not None else ""
    shared = digest_of(token) if token else None
    path = settings.workers_config_path
    if path is None:
        return WorkerTokens({}, shared)
    return WorkerTokens(_of_file(TomlFile(path, "WORKERS_CONFIG_PATH"), [shared] if shared is not None else []), shared)


def _of_file(file: TomlFile, others: Iterable[bytes]) -> dict[str, bytes]:
    digests = Digests(file)
    for digest in others:
        digests.add(digest, "GLOBAL_WORKER_TOKEN")
    found = {}
    for worker_id, table in read_tables(file, "worker").items():
        found[worker_id] = read_digest(file, worker_id, table.get("token"))
        digests.add(found[worker_id], f"[{worker_id}]", worker_id)
        for key in table:
            if key not in _KNOWN:
                raise file.error(f"a worker has a token and a description, not {key!r}; take it out", worker_id, key)
        if not isinstance(table.get("description", ""), str):
            raise file.error("description must be a string", worker_id, "description")
    return found


class Reloaded(BaseModel):
    status: Literal["worker_configs_reloaded"] = "worker_configs_reloaded"


@describe("Read workers.toml again", "admin", answers={200: Reloaded}, errors=(400, 403))
async def reload_workers(request: web.Request) -> web.Response:
    require_admin(request)
    book = request.app[WORKER_TOKENS]
    if book.path is None:
        raise RequestError(400, "there is no file to read: set WORKERS_CONFIG_PATH to a workers.toml")
    try:
        book.reload()
    except ConfigurationError as exc:
        raise RequestError(400, f"{exc}; the old tokens stay") from None
    return answer(Reloaded().model_dump())
