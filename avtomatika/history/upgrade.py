"""Migrations: the database's tables are brought to what this version needs."""

from __future__ import annotations

import logging

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from avtomatika.errors import HistoryOutdatedError
from avtomatika.history.database import Database

# At INFO it says at each look which dialect it speaks.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)

VERSION_TABLE = "history_version"
_LOCK = 0x61766F6D  # of PostgreSQL's advisory locks, whatever else uses them


def upgrade(database: Database) -> tuple[str | None, str]:
    """Brings the tables up to date; returns the version before and after. Whoever comes second waits, and has nothing to do."""
    with database.transaction(writes=True) as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _current(connection)
        command.upgrade(_config(connection), "head")
        return before, newest()


def versions(database: Database) -> tuple[str | None, str]:
    """The version of the tables, and the newest one."""
    with database.transaction() as connection:
        return _current(connection), newest()


def check(database: Database) -> None:
    """Raises HistoryOutdatedError where the tables are not those of this version."""
    current, wanted = versions(database)
    if current != wanted:
        raise HistoryOutdatedError(current)


def newest() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "avtomatika.history:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
