"""`avtomatika db`: the tables of the history."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import OperationalError

from avtomatika.errors import ConfigurationError, HistoryUnavailableError
from avtomatika.history.database import Database
from avtomatika.history.upgrade import upgrade, versions
from avtomatika.settings import read_settings

_DEFAULT_DIR = Path(".avtomatika")


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --data-dir; the command gets the `uri` of the history's database."""

    @wraps(command)
    def with_uri(*args: Any, data_dir: Path | None, **kwargs: Any) -> Any:
        return command(*args, uri=_uri(data_dir), **kwargs)

    option = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Of an `avtomatika up`: its history  [default: HISTORY_DATABASE_URI, else .avtomatika]",
    )
    return option(with_uri)


def _uri(data_dir: Path | None) -> str:
    configured = read_settings().history_database_uri
    if data_dir is None and configured is not None:
        return configured.get_secret_value()
    path = (data_dir or _DEFAULT_DIR).absolute() / "history.sqlite3"
    if not path.is_file():
        raise ConfigurationError(f"no history: HISTORY_DATABASE_URI is not set, and there is no {path}")
    return f"sqlite:///{path}"


@contextmanager
def opened(uri: str) -> Iterator[Database]:
    """The database, for a command: it says in one line that it is away."""
    database = Database(uri)
    try:
        yield database
    except OperationalError as exc:
        raise HistoryUnavailableError(f"the database of the history does not answer: {' '.join(str(exc.orig).split())}") from exc
    finally:
        database.engine.dispose()


@click.group()
def db() -> None:
    """The tables of the history in SQL."""


@db.command("upgrade")
@database_options
def upgrade_command(uri: str) -> None:
    """Make the tables, or bring them up to date. What is up to date stays as it is."""
    with opened(uri) as database:
        before, after = upgrade(database)
    click.echo(f"up to date: {after}" if before == after else f"upgraded from {before or 'nothing'} to {after}")


@db.command()
@database_options
def status(uri: str) -> None:
    """Show the version of the tables. Exit code 1 where `db upgrade` has something to do."""
    with opened(uri) as database:
        current, newest = versions(database)
    click.echo(f"tables: {current or 'none'}, newest: {newest}")
    raise SystemExit(os.EX_OK if current == newest else 1)
