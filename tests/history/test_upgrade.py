"""The tables are made by migrations, once, whoever comes first; and migrations and models agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import inspect, text

from avtomatika.cli.doctor import examine
from avtomatika.cli.main import main
from avtomatika.errors import ConfigurationError, HistoryOutdatedError
from avtomatika.history import Archive
from avtomatika.history.database import Database, database_url
from avtomatika.history.tables import metadata
from avtomatika.history.upgrade import VERSION_TABLE, upgrade, versions


def _fresh(uri: str) -> Database:
    return Database(uri)


def test_migrations_make_what_the_models_say(uri: str) -> None:
    database = _fresh(uri)
    assert upgrade(database) == (None, "0001")

    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert {"job", "event", "worker", "history_position"} <= set(inspect(connection).get_table_names())
    database.engine.dispose()


def test_who_comes_second_has_nothing_to_do(uri: str) -> None:
    databases = [_fresh(uri) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        befores = [before for before, _ in threads.map(upgrade, databases)]

    assert sorted(befores, key=str) == ["0001", "0001", "0001", None]
    assert versions(databases[0]) == ("0001", "0001")
    for database in databases:
        database.engine.dispose()


def test_the_command(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTORY_DATABASE_URI", uri)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["db", *words])
        return done.exit_code, done.output

    assert run("status") == (1, "tables: none, newest: 0001\n")
    assert run("upgrade") == (0, "upgraded from nothing to 0001\n")
    assert run("upgrade") == (0, "up to date: 0001\n")
    assert run("status") == (0, "tables: 0001, newest: 0001\n")


async def test_postgres_is_upgraded_only_by_whoever_is_to(postgres_uri: str) -> None:
    asked = Archive(postgres_uri)
    with pytest.raises(HistoryOutdatedError, match="do not exist yet: run `avtomatika db upgrade`"):
        await asked.job("x")
    upgrade(asked.database)
    asked.database._rests_until = 0.0

    assert await asked.job("x") is None
    with asked.database.transaction(writes=True) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0000'"))
    later = Archive(postgres_uri)
    with pytest.raises(HistoryOutdatedError, match="of version 0000"):
        await later.job("x")
    for archive in (asked, later):
        await archive.close()


def test_commands_without_a_history_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HISTORY_DATABASE_URI", raising=False)

    done = CliRunner().invoke(main, ["history", "verify"])

    assert done.exit_code == 2
    assert "HISTORY_DATABASE_URI is not set, and there is no" in done.output


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:a/b.db", "sqlite:///a/b.db"),
        ("sqlite+aiosqlite:///b.db", "sqlite:///b.db"),
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h:1/d", "postgresql+psycopg://u:p@h:1/d"),
    ],
)
def test_addresses(given: str, taken: str) -> None:
    assert database_url(given).render_as_string(hide_password=False) == taken


@pytest.mark.parametrize("given", ["mysql://u:secret@h/d", "not a uri", "sqlite://", "sqlite:///:memory:"])
def test_addresses_that_are_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match="HISTORY_DATABASE_URI must") as caught:
        database_url(given)
    assert "secret" not in str(caught.value)


def test_the_doctor_names_what_to_mend(postgres_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def problems(uri: str) -> list[str]:
        monkeypatch.setenv("HISTORY_DATABASE_URI", uri)
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        return [problem for problem in examine(None)["problems"] if "history" in problem.lower()]

    assert problems(postgres_uri) == ["the tables of the history do not exist yet: run `avtomatika db upgrade`"]
    CliRunner().invoke(main, ["db", "upgrade"])
    assert problems(postgres_uri) == []
    [away] = problems("postgresql://me:secret@127.0.0.1:1/none")
    assert "does not answer" in away
    assert "secret" not in away
    assert "must begin with" in problems("mysql://me:secret@127.0.0.1/none")[0]


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'history.sqlite3'}")
    upgrade(database)

    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}.items() >= {("history.sqlite3", 0o600)}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    database.engine.dispose()
