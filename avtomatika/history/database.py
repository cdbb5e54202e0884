"""The database of the history: SQLite or PostgreSQL, asked from threads, and how it says that it is away."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from avtomatika.errors import ConfigurationError, HistoryUnavailableError

T = TypeVar("T")

_WRITES = "avtomatika_writes"
#: Seconds for which nobody is made to wait for a database that has just not answered.
REST_SECONDS = 1.0
_CONNECT_SECONDS = 5
_POSTGRES = {
    "connect_timeout": _CONNECT_SECONDS,
    # A server that is gone without a word is noticed in about 15 s.
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
    "application_name": "avtomatika history",
}


#: A writer whose machine is gone must not hold its lock for as long as TCP has patience.
_SESSION = (
    "SET idle_in_transaction_session_timeout = '60s'; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; "
    "SET tcp_keepalives_count = 3"
)
#: Nobody waits longer for an answer of the facade.
_READ_PATIENCE = "SET LOCAL statement_timeout = '9s'"


def database_url(uri: str) -> URL:
    """HISTORY_DATABASE_URI as SQLAlchemy takes it: ``sqlite:///path`` or ``postgresql://…``, whichever driver it names.

    Raises:
        ConfigurationError: it is neither.
    """
    if uri.startswith("sqlite:") and not uri.startswith("sqlite://"):
        uri = f"sqlite:///{uri.removeprefix('sqlite:')}"  # sqlite:path/to/file
    if uri.startswith("postgres://"):
        uri = f"postgresql://{uri.removeprefix('postgres://')}"
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        raise ConfigurationError(_MISFIT) from None  # its words may hold a password
    match url.get_backend_name():
        case "sqlite":
            if url.database in (None, "", ":memory:"):
                raise ConfigurationError("HISTORY_DATABASE_URI must name a file: every process has to see the same history")
            return url.set(drivername="sqlite")
        case "postgresql":
            return url.set(drivername="postgresql+psycopg")
    raise ConfigurationError(_MISFIT)


_MISFIT = "HISTORY_DATABASE_URI must begin with sqlite:/// (then a file) or postgresql://"


class Database:
    """
    Attributes:
        is_sqlite: else it is PostgreSQL.
    """

    def __init__(self, uri: str) -> None:
        url = database_url(uri)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.engine = _sqlite(url) if self.is_sqlite else _postgres(url)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="history")
        self._rests_until = 0.0

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """Runs `work(connection, *args)` in a transaction, in a thread."""
        return await self._run(self._transact, False, work, *args)

    async def write(self, work: Callable[..., T], *args: Any) -> T:
        """The same, for a transaction that writes."""
        return await self._run(self._transact, True, work, *args)

    async def call(self, work: Callable[[], T]) -> T:
        """Runs something else that needs the database, in a thread."""
        return await self._run(work)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        if time.monotonic() < self._rests_until:
            raise HistoryUnavailableError
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args))
        except (OperationalError, InterfaceError, InternalError, PoolTimeoutError, ConnectionError) as exc:
            self._rests_until = time.monotonic() + REST_SECONDS
            raise HistoryUnavailableError(_reason(exc)) from exc
        except DBAPIError as exc:
            if exc.connection_invalidated:
                raise HistoryUnavailableError(_reason(exc)) from exc
            raise

    def _transact(self, writes: bool, work: Callable[..., T], *args: Any) -> T:
        with self.transaction(writes) as connection:
            if not (writes or self.is_sqlite):
                connection.exec_driver_sql(_READ_PATIENCE)
            return work(connection, *args)

    def transaction(self, writes: bool = False) -> Any:
        """A context manager: a connection in a transaction, committed at its end."""
        return self.engine.execution_options(**{_WRITES: writes}).begin()

    async def close(self) -> None:
        # Whoever is still at work in a thread ends by the time-outs of the connection.
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.get_running_loop().run_in_executor(None, self.engine.dispose)


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 10, "check_same_thread": False})

    @event.listens_for(engine, "do_connect")
    def _make(*_: Any) -> None:
        with suppress(OSError):  # it is there, or its folder is not, which the driver says better
            os.close(os.open(url.database or "", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    @event.listens_for(engine, "connect")
    def _open(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver thinks that they should
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # What is written is dropped from the feed at once: it must be on the disk by then.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes then would not wait for another writer.
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres(url: URL) -> Engine:
    try:
        engine = create_engine(url, connect_args=_POSTGRES, pool_size=4, max_overflow=0, pool_timeout=5, pool_pre_ping=True)
    except ImportError:
        raise ConfigurationError("a history in PostgreSQL needs psycopg: pip install 'avtomatika[postgres]'") from None

    @event.listens_for(engine, "connect")
    def _open(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_SESSION)
        connection.commit()

    return engine


def _reason(exc: BaseException) -> str:
    """One line, without the statement and its values."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    return f"the database of the history does not answer: {' '.join(str(cause).split()) or type(cause).__name__}"
