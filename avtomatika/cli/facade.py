"""How commands reach the facade: its URL and the token."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from avtomatika.cli.main import CommandError
from avtomatika.client.blocking import Client
from avtomatika.client.calls import Call
from avtomatika.client.conclusions import DEFAULT_URL
from avtomatika.client.retries import Retries

F = TypeVar("F", bound=Callable[..., Any])


def facade_options(command: F) -> F:
    """Adds --url, --ca and --data-dir."""
    command = click.option("--url", envvar="AVTOMATIKA_URL", default=DEFAULT_URL, show_default=True, help="The facade.")(command)
    command = click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False),
        envvar="AVTOMATIKA_CA",
        expose_value=False,
        callback=_use_ca,
        help="Authorities that the facade's certificate is checked with  [AVTOMATIKA_CA, else the system's]",
    )(command)
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".avtomatika"),
        show_default=True,
        help="Where `up` keeps its token, for when CLIENT_TOKEN is not set.",
    )(command)


def _use_ca(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["AVTOMATIKA_CA"] = value


def token_of(data_dir: Path) -> str:
    """CLIENT_TOKEN, else the token that `up` keeps; none where a certificate (AVTOMATIKA_CERT) stands for it."""
    token = os.environ.get("CLIENT_TOKEN", "").strip()
    if token or os.environ.get("AVTOMATIKA_CERT"):
        return token
    path = data_dir / "client-token"
    try:
        return path.read_text().strip()
    except OSError:
        raise CommandError(
            f"no token: set CLIENT_TOKEN, or name the data directory of `avtomatika up` ({path} cannot be read)", 2
        ) from None


def connected(url: str, data_dir: Path) -> Client:
    """A client of the facade; a command line waits for it less long than a program would."""
    return Client(url, token_of(data_dir), timeout=60, retries=Retries(attempts=3))


def ask(url: str, data_dir: Path, call: Call[Any]) -> Any:
    """The answer to one call, as the facade gave it."""
    with connected(url, data_dir) as client:
        return client.send(call.raw())
