"""How commands reach the facade: its URL, the token, and errors said in words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import click

from avtomatika.cli.main import CommandError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8080"


def facade_options(command: F) -> F:
    """Adds --url and --data-dir."""
    command = click.option("--url", envvar="AVTOMATIKA_URL", default=DEFAULT_URL, show_default=True, help="The facade.")(command)
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".avtomatika"),
        show_default=True,
        help="Where `up` keeps its token, for when CLIENT_TOKEN is not set.",
    )(command)


def token_of(data_dir: Path) -> str:
    """CLIENT_TOKEN, else the token that `up` keeps."""
    token = os.environ.get("CLIENT_TOKEN", "").strip()
    if token:
        return token
    path = data_dir / "client-token"
    try:
        return path.read_text().strip()
    except OSError:
        raise CommandError(
            f"no token: set CLIENT_TOKEN, or name the data directory of `avtomatika up` ({path} cannot be read)", 2
        ) from None


class Facade:
    """A small client of the facade: `get` and `post` give the decoded answer or raise CommandError."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            headers={"X-Avtomatika-Token": token}, timeout=aiohttp.ClientTimeout(total=60, sock_connect=5)
        )

    async def __aenter__(self) -> Facade:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **params: str) -> Any:
        return await self._request("GET", path, params=params)

    async def post(self, path: str, body: Any) -> Any:
        return await self._request("POST", path, json=body)

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                if response.content_type != "application/json":
                    raise CommandError(
                        f"{self._url} does not look like a facade of avtomatika: {response.status} {response.content_type}"
                    )
                body = await response.json()
        except aiohttp.InvalidURL:
            raise CommandError(f"{self._url!r} is not a URL", 2) from None
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise CommandError(
                f"the facade at {self._url} does not answer ({exc or type(exc).__name__}); is `avtomatika up` running?"
            ) from None
        if response.status >= 400:
            message = body.get("error") if isinstance(body, dict) else None
            raise CommandError(
                str(message or f"{response.status} {response.reason}"), 2 if response.status in (400, 401, 422) else 1
            )
        return body


def ask(url: str, data_dir: Path, call: Callable[[Facade], Awaitable[T]]) -> T:
    """Runs one conversation with the facade."""

    async def converse() -> T:
        async with Facade(url, token_of(data_dir)) as facade:
            return await call(facade)

    return asyncio.run(converse())
