"""Each test here runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from avtomatika.history import Archive
from tests.support.history import Place, postgres_database
from tests.support.requirements import require


@pytest.fixture(scope="session")
def _databases() -> Iterator[dict[str, str]]:
    """The database of this test process on a server, made at first use and shared by its tests."""
    with ExitStack() as stack:
        yield _Made(stack)


class _Made(dict[str, str]):
    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self._stack = stack

    def __missing__(self, server: str) -> str:
        made = self[server] = self._stack.enter_context(postgres_database(server))
        return made


@pytest.fixture
def postgres_uri(_databases: dict[str, str]) -> str:
    """A PostgreSQL database of this test's own, empty."""
    url = _databases[require("postgres")]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.sqlite3'}"
    url: str = request.getfixturevalue("postgres_uri")
    return url


@pytest.fixture
def place(uri: str) -> Place:
    return Place(uri)


@pytest.fixture
async def archive(place: Place) -> AsyncIterator[Archive]:
    archive = place.archive()
    await archive.prepare()
    yield archive
    await archive.close()
