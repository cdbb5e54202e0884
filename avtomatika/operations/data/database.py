"""Databases: where they are, who may open them, and what their errors mean."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, NoSuchTableError, StatementError

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.data.params import SqlSource, SqlTarget
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit

#: What tasks may name; a credential's own URL may name any database that SQLAlchemy finds.
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg"}
_CONNECT_SECONDS = 15


def guard(place: SqlSource | SqlTarget, permit: Permit) -> None:
    """Asks the permit for all that a place in a database names."""
    host = None
    if place.url is not None:
        url = _task_url(place.url)
        if url.get_backend_name() == "sqlite":
            permit.local_path(url.database or "")
        else:
            host = permit.host(url.host or "")
            if host.name not in permit.config.hosts:  # even with any_host: where its name leads would be the driver's business
                raise permit.refusal(f"the database's host {url.host!r}, which is not in the inventory", "add it as a host")
    permit.credential(place.credential, host)
    if isinstance(place, SqlTarget):
        permit.matches("write_tables", place.table)
    elif place.table is not None:
        permit.matches("tables", place.table)
    elif place.query is not None:
        if place.query not in (permit.option("queries") or {}):
            raise permit.refusal(f"the query {place.query!r}", f"add it to queries of [policy.{permit.entry.name}.options]")
    elif permit.option("free_queries", False) is not True:
        raise permit.refusal(
            "a SELECT of one's own", f"add it to queries, or set free_queries = true, in [policy.{permit.entry.name}.options]"
        )


def _task_url(text: str) -> sa.URL:
    """A URL that stands in parameters: no secret in it, and no options of drivers, which open files and programs."""
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        raise OperationError(TaskErrorCode.VALIDATION_INVALID_FORMAT, "url is no URL of a database") from None
    if url.password is not None:
        raise OperationError(
            TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, "a password does not belong into url: name a credential instead"
        )
    if url.query or url.drivername not in _DRIVERS:
        raise OperationError(
            TaskErrorCode.VALIDATION_INVALID_PARAMS,
            "url is sqlite:///<path> or postgresql://<host>/<database>, without options; a credential may hold any other URL",
        )
    return url.set(drivername=_DRIVERS[url.drivername])


@contextmanager
def connected(place: SqlSource | SqlTarget, op: OperationContext) -> Iterator[sa.Connection]:
    """A connection in a transaction: committed where the block ends well. A source's one can only read."""
    write = isinstance(place, SqlTarget)
    engine = _engine(place, op, write)
    try:
        with engine.connect() as connection:
            if not write and connection.dialect.name == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            with op.on_stop(lambda: _interrupt(connection)), connection.begin():
                yield connection
    except OperationError:
        raise
    except NoSuchTableError as exc:
        raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, f"there is no table {exc}") from None
    except (DBAPIError, StatementError) as exc:
        op.checkpoint()  # what it met may be the stop itself
        raise judge_sql(exc, engine.url) from None
    finally:
        engine.dispose()


def _engine(place: SqlSource | SqlTarget, op: OperationContext, write: bool) -> sa.Engine:
    if place.url is not None:
        url = _task_url(place.url)
        if url.get_backend_name() == "sqlite":
            return _sqlite(op.permit.local_path(url.database or ""), write)
        host = op.host(url.host or "")
        url = url.set(host=host.address, port=url.port or host.port)
        name = place.credential or host.credential
        if name is not None:
            credential = op.credential(name)
            url = url.set(
                username=credential.username or url.username or host.username, password=credential.token or credential.password
            )
    else:
        credential = op.credential(place.credential)
        url = _secret_url(credential.token or credential.password, str(place.credential))
        if url.password is not None:
            op.hide(str(url.password))
    if url.get_backend_name() == "sqlite":
        return _sqlite(Path(url.database or "").resolve(), write)
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": _CONNECT_SECONDS, "application_name": "avtomatika"}
    try:
        return sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True, connect_args=arguments)
    except (NoSuchModuleError, ImportError) as exc:
        message = f"the driver {url.drivername} is not installed on this worker: {type(exc).__name__}"
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, message) from None


def _secret_url(secret: str | None, name: str) -> sa.URL:
    try:
        url = sa.make_url(secret or "")
    except (ArgumentError, ValueError):
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR, f"credential {name!r} holds no URL of a database, and the task has no url"
        ) from None
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def _sqlite(path: Path, write: bool) -> sa.Engine:
    """A file that is there already: a misspelt path makes no new database."""
    uri = f"file:{quote(str(path))}?mode={'rw' if write else 'ro'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=_CONNECT_SECONDS, check_same_thread=False, isolation_level=None)
        if not write:
            connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool, hide_parameters=True)
    # With its own transactions, Python's module would commit before a CREATE TABLE.
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN"))
    return engine


def _interrupt(connection: sa.Connection) -> None:
    """From another thread: the statement that runs ends with an error."""
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "interrupt"):
        driver.interrupt()
    elif hasattr(driver, "cancel"):
        driver.cancel()


_SQLITE = {
    sqlite3.SQLITE_BUSY: TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE,
    sqlite3.SQLITE_LOCKED: TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE,
    sqlite3.SQLITE_FULL: TaskErrorCode.SYSTEM_DISK_SPACE,
    sqlite3.SQLITE_NOMEM: TaskErrorCode.SYSTEM_MEMORY_LIMIT,
    sqlite3.SQLITE_READONLY: TaskErrorCode.SYSTEM_PERMISSION_DENIED,
    sqlite3.SQLITE_PERM: TaskErrorCode.SYSTEM_PERMISSION_DENIED,
    sqlite3.SQLITE_AUTH: TaskErrorCode.SYSTEM_PERMISSION_DENIED,
    sqlite3.SQLITE_CANTOPEN: TaskErrorCode.DATA_FILE_NOT_FOUND,
    sqlite3.SQLITE_CORRUPT: TaskErrorCode.DATA_FILE_CORRUPTED,
    sqlite3.SQLITE_NOTADB: TaskErrorCode.DATA_FILE_CORRUPTED,
    sqlite3.SQLITE_TOOBIG: TaskErrorCode.DATA_SIZE_TOO_LARGE,
    sqlite3.SQLITE_CONSTRAINT: TaskErrorCode.DATA_FORMAT_INVALID,
    sqlite3.SQLITE_MISMATCH: TaskErrorCode.DATA_FORMAT_INVALID,
    sqlite3.SQLITE_ERROR: TaskErrorCode.VALIDATION_INVALID_PARAMS,
}
#: By SQLSTATE: whole codes, then their classes.
_SQLSTATE = {
    "42501": TaskErrorCode.SYSTEM_PERMISSION_DENIED,
    "25006": TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
    "53100": TaskErrorCode.SYSTEM_DISK_SPACE,
    "53200": TaskErrorCode.SYSTEM_MEMORY_LIMIT,
    "0A": TaskErrorCode.VALIDATION_INVALID_PARAMS,
    "08": TaskErrorCode.NETWORK_CONNECTION_FAILED,
    "22": TaskErrorCode.DATA_FORMAT_INVALID,
    "23": TaskErrorCode.DATA_FORMAT_INVALID,
    "28": TaskErrorCode.SYSTEM_PERMISSION_DENIED,
    "3D": TaskErrorCode.VALIDATION_INVALID_PARAMS,
    "40": TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE,
    "42": TaskErrorCode.VALIDATION_INVALID_PARAMS,
    "53": TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE,
    "54": TaskErrorCode.DATA_SIZE_TOO_LARGE,
    "55": TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE,
    "57": TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE,
}


def judge_sql(exc: BaseException, url: sa.URL) -> OperationError:
    """What a database's error means, by its number: SQLSTATE, or SQLite's code."""
    cause: BaseException = exc.orig if isinstance(exc, StatementError) and exc.orig is not None else exc
    said = f"the database refuses: {type(cause).__name__}: {_first_line(cause)}"
    state = getattr(cause, "sqlstate", None)
    if state:
        code = _SQLSTATE.get(state) or _SQLSTATE.get(state[:2], TaskErrorCode.EXTERNAL_SERVICE_ERROR)
        return OperationError(code, said, details={"sqlstate": state})
    if isinstance(cause, sqlite3.Error):
        number = getattr(cause, "sqlite_errorcode", None)
        code = _SQLITE.get((number or 0) & 0xFF, TaskErrorCode.EXTERNAL_SERVICE_ERROR)
        kind = ErrorCode.INVALID_INPUT if code is TaskErrorCode.DATA_FILE_NOT_FOUND else None
        return OperationError(code, said, details={"sqlite_error": getattr(cause, "sqlite_errorname", None)}, kind=kind)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(cause, psycopg.OperationalError):
        code = TaskErrorCode.SYSTEM_PERMISSION_DENIED if _answers(url) else TaskErrorCode.NETWORK_CONNECTION_FAILED
        return OperationError(code, said)
    if isinstance(exc, DBAPIError) and exc.connection_invalidated:
        return OperationError(TaskErrorCode.NETWORK_CONNECTION_FAILED, said)
    return OperationError(TaskErrorCode.DATA_FORMAT_INVALID, said)


def _answers(url: sa.URL) -> bool:
    """Whether a PostgreSQL server takes connections: for one that it refuses, libpq tells no SQLSTATE."""
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    where = make_conninfo(host=url.host, port=url.port, dbname=url.database, user=url.username, connect_timeout=_CONNECT_SECONDS)
    return pq.PGconn.ping(where.encode()) == pq.Ping.OK


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [""])[0][:300]
