"""Tables: read in batches by a cursor of the server, filled in one transaction."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.data.database import connected
from avtomatika.operations.data.params import SqlSource, SqlTarget, Type
from avtomatika.operations.data.values import BATCH, BadRows, Batch, Misfit, Row, cast, plain
from avtomatika.operations.errors import OperationError
from avtomatika.results import JSON

_KINDS: list[tuple[type, Type]] = [
    (bool, "boolean"), (int, "integer"), (float, "number"), (Decimal, "decimal"), (datetime, "datetime"), (date, "date"),
    (str, "string"),
]  # fmt: skip
_COLUMNS: dict[Type, Any] = {
    "boolean": sa.Boolean, "integer": sa.BigInteger, "number": sa.Double, "decimal": sa.Numeric, "datetime": sa.DateTime,
    "date": sa.Date, "string": sa.Text,
}  # fmt: skip


class SqlReader:
    """A table or a query; the database itself is told that nothing is to be written."""

    def __init__(self, source: SqlSource, op: OperationContext) -> None:
        self._source = source
        self._op = op
        self.types: dict[str, Type] = {}
        self.rows = 0
        self.bad = BadRows(0, source.table or source.query or "the query")

    def share(self) -> float | None:
        return None

    def batches(self) -> Iterator[Batch]:
        with connected(self._source, self._op) as connection:
            query, parameters = self._query(connection)
            streaming = connection.execution_options(stream_results=True, max_row_buffer=BATCH)
            with streaming.execute(query, parameters) as result:
                names = list(result.keys())
                if len(set(names)) != len(names):
                    raise OperationError(TaskErrorCode.DATA_FORMAT_INVALID, "the query gives two columns one name: write AS")
                for rows in result.partitions(BATCH):
                    self._op.checkpoint()
                    self.rows += len(rows)
                    yield [dict(zip(names, row, strict=True)) for row in rows]

    def _query(self, connection: sa.Connection) -> tuple[Any, dict[str, Any]]:
        source = self._source
        if source.table is None:
            named = self._op.permit.option("queries") or {}
            return sa.text(one_select(named[source.query] if source.query else str(source.statement))), source.parameters
        table = reflected(source.table, connection)
        names = source.columns or [column.name for column in table.columns]
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise _no_columns(source.table, missing)
        self.types = {name: kind for name in names if (kind := kind_of(table.columns[name])) is not None}
        return sa.select(*(table.columns[name] for name in names)), {}


def one_select(statement: str) -> str:
    """The statement; OperationError (VALIDATION_CONSTRAINT_VIOLATION) where it is more than one, or does not read."""
    text = statement.strip().removesuffix(";")
    # A second one could end the transaction that only reads; a text with a semicolon can be a parameter.
    if ";" in text or re.match(r"(?i)\(*\s*(select|with|values|table)\b", text) is None:
        raise OperationError(
            TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, "a query is one SELECT, without a semicolon in it (use :parameters)"
        )
    return text


def reflected(name: str, connection: sa.Connection) -> sa.Table:
    """A table as the database has it; NoSuchTableError."""
    schema, _, table = name.rpartition(".")
    return sa.Table(table, sa.MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False)


def kind_of(column: sa.Column[Any]) -> Type | None:
    """What a column's values are; None for what rows cannot be made to fit."""
    try:
        found = column.type.python_type
    except NotImplementedError:
        return None
    return next((kind for type_, kind in _KINDS if issubclass(found, type_)), None)


def fitter(column: sa.Column[Any]) -> Callable[[Any], Any]:
    """Makes a value what a column takes; Misfit where it cannot."""
    kind = kind_of(column)
    if kind == "datetime":
        # A column without a zone has UTC; SQLite has no zones at all.
        keeps_zone = bool(getattr(column.type, "timezone", False))
        return lambda value: _in_utc(cast(value, "datetime"), keeps_zone)
    if kind is not None:
        return lambda value: cast(json.dumps(plain(value), ensure_ascii=False) if isinstance(value, dict | list) else value, kind)
    if isinstance(column.type, sa.LargeBinary):
        return _bytes
    if isinstance(column.type, sa.Uuid):
        return _uuid
    return lambda value: plain(value) if isinstance(value, dict | list) else value


def _in_utc(value: datetime, keeps_zone: bool) -> datetime:
    return value if value.tzinfo is None or keeps_zone else value.astimezone(UTC).replace(tzinfo=None)


def _bytes(value: Any) -> bytes:
    """Files of text have Base64."""
    try:
        return b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
    except (ValueError, TypeError):
        raise Misfit("a value is no Base64") from None


def _uuid(value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise Misfit("a value is no UUID") from None


def _no_columns(table: str, names: list[str]) -> OperationError:
    return OperationError(
        TaskErrorCode.DATA_FORMAT_INVALID, f"the table {table} has no column {', '.join(map(repr, names[:10]))}"
    )


class SqlWriter:
    """Fills a table. Values become what its columns are; rows that cannot are bad rows."""

    def __init__(self, target: SqlTarget, connection: sa.Connection, types: dict[str, Type]) -> None:
        self._target = target
        self._connection = connection
        self._types = {**types, **target.types}
        self._table: sa.Table | None = None
        self._fit: dict[str, Callable[[Any], Any]] = {}
        self._seen = 0
        self.rows = 0
        self.bad = BadRows(target.max_bad_rows, target.table)
        self.created = False

    def write(self, batch: Batch) -> None:
        if self._table is None:
            self._table = self._open(batch)
        rows = list(self._fitting(batch))
        if not rows:
            return
        # One statement a set of columns: a column that a row lacks keeps its default.
        groups: dict[tuple[str, ...], Batch] = {}
        for row in rows:
            groups.setdefault(tuple(row), []).append(row)
        for names, group in groups.items():
            self._connection.execute(self._insert(self._table, names), group)
        self.rows += len(rows)

    def close(self) -> None:
        """Where no row came, an old table is emptied all the same."""
        if self._table is None:
            self._table = self._open([])

    def done(self) -> JSON:
        return {"table": self._target.table, "mode": self._target.mode, "created": self.created, "rows_written": self.rows}

    def _open(self, batch: Batch) -> sa.Table:
        target = self._target
        schema, _, name = target.table.rpartition(".")
        if target.create and not sa.inspect(self._connection).has_table(name, schema=schema or None):
            self._create(name, schema or None, batch)
        table = reflected(target.table, self._connection)
        self._fit = {column.name: fitter(column) for column in table.columns}
        if missing := [key for key in target.key or () if key not in table.columns]:
            raise _no_columns(target.table, missing)
        if target.mode == "replace":
            self._connection.execute(sa.delete(table))
        return table

    def _create(self, name: str, schema: str | None, batch: Batch) -> None:
        names = list(dict.fromkeys(name for row in batch for name in row)) or list(self._types)
        if not names:
            raise OperationError(TaskErrorCode.DATA_FORMAT_INVALID, "no row came, so nobody knows the columns of the new table")
        keys = self._target.key or []
        columns = [sa.Column(column, self._column_type(column, batch), primary_key=column in keys) for column in names]
        sa.Table(name, sa.MetaData(), *columns, schema=schema).create(self._connection)
        self.created = True

    def _column_type(self, name: str, batch: Batch) -> Any:
        value: Any = next((row[name] for row in batch if row.get(name) is not None), "")
        if isinstance(value, bytes):
            return sa.LargeBinary()
        by_value: Type = next((kind for type_, kind in _KINDS if isinstance(value, type_)), "string")
        kind = self._types.get(name, by_value)
        has_zone = getattr(value, "tzinfo", None) is not None
        return sa.DateTime(timezone=True) if kind == "datetime" and has_zone else _COLUMNS[kind]()

    def _fitting(self, batch: Batch) -> Iterator[Row]:
        for row in batch:
            self._seen += 1
            unknown = [name for name in row if name not in self._fit]
            if unknown:
                raise _no_columns(self._target.table, unknown)
            try:
                fitting = {}
                for name, value in row.items():
                    fitting[name] = None if value is None else self._fit[name](value)
            except Misfit as exc:
                self.bad.add(f"{exc}, in the column {name!r}", row=self._seen)
                continue
            yield fitting

    def _insert(self, table: sa.Table, names: tuple[str, ...]) -> Any:
        key = self._target.key
        if key is None:
            return sa.insert(table)
        dialect = self._connection.dialect.name
        if dialect not in ("postgresql", "sqlite"):
            raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, f"mode upsert is not known for {dialect}")
        statement: Any = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
        others = {name: statement.excluded[name] for name in names if name not in key}
        if not others:
            return statement.on_conflict_do_nothing(index_elements=key)
        return statement.on_conflict_do_update(index_elements=key, set_=others)


@contextmanager
def sql_writer(target: SqlTarget, op: OperationContext, types: dict[str, Type]) -> Iterator[SqlWriter]:
    """A table that is filled when the block has ended well; else it is as it was."""
    with connected(target, op) as connection:
        writer = SqlWriter(target, connection, types)
        yield writer
        writer.close()
