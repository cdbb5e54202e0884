"""Data operations over real databases: SQLite, and PostgreSQL where the machine has one."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.data.tables import one_select
from avtomatika.operations.errors import OperationError, OperationStopped, StopReason
from tests.support.history import postgres_database
from tests.support.local_operations import Bench, stop_at
from tests.support.processes import free_port
from tests.support.requirements import require

OPTIONS = {
    "tables": ["people", "typed", "fresh*"],
    "write_tables": ["people", "typed", "fresh*"],
    "queries": {"by_city": "SELECT name, age FROM people WHERE city = :city ORDER BY name"},
}


@dataclass
class Database:
    """A database, as tasks name it and as the test looks into it."""

    place: dict[str, Any]
    bench: Bench
    engine: sa.Engine
    folder: Path

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            result = connection.execute(sa.text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def source(self, **more: Any) -> dict[str, Any]:
        return {"format": "sql", **self.place, **more}

    target = source


def made(place: dict[str, Any], url: str, folder: Path, **bench: Any) -> Iterator[Database]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    database = Database(place, Bench(folder, options=OPTIONS, **bench), engine, folder)
    database.execute("CREATE TABLE people (name VARCHAR(20) PRIMARY KEY, age INTEGER, city TEXT DEFAULT 'nowhere')")
    database.execute("INSERT INTO people VALUES ('Ada', 36, 'London'), ('Bob', NULL, 'Oslo'), ('Cy', 7, 'Oslo')")
    yield database
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    if request.param == "sqlite":
        sqlite3.connect(tmp_path / "x.db").close()
        yield from made({"url": f"sqlite:///{tmp_path}/x.db"}, f"sqlite:///{tmp_path}/x.db", tmp_path)
        return
    with postgres_database(require("postgres")) as url:
        parts = urlsplit(url)
        monkeypatch.setenv("DATABASE_PASSWORD", parts.password or "")
        yield from made(
            {"url": f"postgresql://warehouse{parts.path}", "credential": "reader"},
            url.replace("postgresql:", "postgresql+psycopg:"),
            tmp_path,
            hosts={"warehouse": {"address": parts.hostname, "port": parts.port or 5432}},
            credentials={"reader": {"username": parts.username, "password_env": "DATABASE_PASSWORD"}},
        )


def write(folder: Path, name: str, *rows: dict[str, Any]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def export(database: Database, **source: Any) -> list[dict[str, Any]]:
    database.bench.run("data_export", {"source": database.source(**source), "target": {"path": "out.jsonl"}})
    return read(database.folder / "out.jsonl")


def load(database: Database, *rows: dict[str, Any], **target: Any) -> dict[str, Any]:
    name = write(database.folder, "in.jsonl", *rows)
    return database.bench.run(
        "data_import", {"source": {"path": name}, "target": database.target(**{"table": "people", **target})}
    )


PEOPLE = "SELECT name, age, city FROM people ORDER BY name"


def test_export(database: Database) -> None:
    assert sorted(export(database, table="people"), key=str)[0] == {"name": "Ada", "age": 36, "city": "London"}
    assert export(database, table="people", columns=["age"]) == [{"age": 36}, {"age": None}, {"age": 7}]
    assert export(database, query="by_city", parameters={"city": "Oslo"}) == [
        {"name": "Bob", "age": None},
        {"name": "Cy", "age": 7},
    ]
    assert export(database, query="by_city", parameters={"city": "' OR 1=1 --"}) == []


def test_analyze(database: Database) -> None:
    found = database.bench.run("data_analyze", {"source": database.source(table="people")})
    assert found["rows"] == 3
    assert {column["name"]: column["nulls"] for column in found["columns"]} == {"name": 0, "age": 1, "city": 0}


def test_append_and_replace(database: Database) -> None:
    found = load(database, {"name": "Dee", "age": "41"}, {"name": "Eve", "age": None, "city": "Rome"})
    assert (found["rows_written"], found["created"]) == (2, False)
    assert database.execute(PEOPLE)[3:] == [("Dee", 41, "nowhere"), ("Eve", None, "Rome")]

    for _ in range(2):
        load(database, {"name": "Flo", "age": 1}, mode="replace")
        assert database.execute(PEOPLE) == [("Flo", 1, "nowhere")]
    load(database, mode="replace")
    assert database.execute(PEOPLE) == []


def test_upsert(database: Database) -> None:
    for _ in range(2):
        load(database, {"name": "Ada", "age": 37}, {"name": "Gil", "age": 2}, mode="upsert", key=["name"])
        assert database.execute(PEOPLE) == [
            ("Ada", 37, "London"), ("Bob", None, "Oslo"), ("Cy", 7, "Oslo"), ("Gil", 2, "nowhere"),
        ]  # fmt: skip


def test_a_new_table(database: Database) -> None:
    rows = [{"id": 1, "ok": True, "ratio": 0.5, "text": None}, {"id": 2, "ok": False, "ratio": 1.0, "text": "x"}]
    found = load(database, *rows, table="fresh", create=True, mode="upsert", key=["id"])

    assert found["created"] is True
    assert export(database, table="fresh") == rows
    assert load(database, *rows, table="fresh", create=True, mode="upsert", key=["id"])["created"] is False


def test_an_import_is_whole_or_not_at_all(database: Database) -> None:
    before = database.execute(PEOPLE)
    rows = [{"name": f"n{number}", "age": number} for number in range(2500)]
    for broken in ({"name": "n7", "age": 1}, {"name": "z", "age": "many"}, {"name": "z", "height": 1}):
        with pytest.raises(OperationError) as found:
            load(database, *rows, broken, mode="replace")
        assert found.value.code in (TaskErrorCode.DATA_FORMAT_INVALID, TaskErrorCode.DATA_PARSING_FAILED)
        assert database.execute(PEOPLE) == before
    with pytest.raises(OperationError):
        load(database, {"id": 1}, {"id": "x"}, table="fresh_one", create=True, types={"id": "integer"})
    assert not sa.inspect(database.engine).has_table("fresh_one")

    name = write(database.folder, "in.jsonl", *rows)
    params = {"source": {"path": name}, "target": database.target(table="people", mode="replace")}
    with pytest.raises(OperationStopped):
        database.bench.run("data_import", params, before=stop_at(3))
    assert database.execute(PEOPLE) == before


def test_rows_that_do_not_fit_the_columns_may_be_left_out(database: Database) -> None:
    found = load(database, {"name": "x", "age": "many"}, {"name": "y", "age": "5"}, mode="replace", max_bad_rows=1)

    assert (found["rows_written"], found["bad_rows"]) == (1, 1)
    assert found["bad_samples"] == [{"row": 1, "reason": "a value is no integer, in the column 'age'"}]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM people",
        "SELECT 1; DELETE FROM people",
        "WITH gone AS (DELETE FROM people RETURNING *) SELECT * FROM gone",
        "INSERT INTO people VALUES ('x', 1, '')",
        "PRAGMA query_only = OFF",
        "SET TRANSACTION READ WRITE",
        "COPY people TO PROGRAM 'touch /tmp/x'",
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "",
    ],
)
def test_a_select_can_only_read(database: Database, statement: str) -> None:
    database.bench.permit.entry.options["free_queries"] = True
    try:
        error = database.bench.fails(
            "data_export", {"source": database.source(statement=statement), "target": {"path": "out.csv"}}
        )
        assert export(database, statement="SELECT count(*) AS n FROM people;") == [{"n": 3}]
    finally:
        del database.bench.permit.entry.options["free_queries"]
    assert error.code in (TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, TaskErrorCode.VALIDATION_INVALID_PARAMS)
    assert not (database.folder / "out.csv").exists()


def test_the_database_itself_refuses_to_write(database: Database) -> None:
    """What stands behind the look at the statement: a transaction that only reads."""
    from avtomatika.operations.data.database import connected
    from avtomatika.operations.data.params import SqlSource

    source = SqlSource.model_validate(database.source(table="people"))
    with pytest.raises(OperationError) as found, connected(source, database.bench.context("data_export", {})) as connection:
        connection.execute(sa.text("DELETE FROM people"))
    assert found.value.code in (TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, TaskErrorCode.SYSTEM_PERMISSION_DENIED)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"table": "secrets"}, "tables"),
        ({"query": "unknown"}, "queries"),
        ({"statement": "SELECT 1"}, "free_queries"),
        ({"table": "people", "credential": "other"}, "credentials"),
    ],
)
def test_what_the_policy_does_not_name(database: Database, source: dict[str, Any], named: str) -> None:
    error = database.bench.fails("data_export", {"source": database.source(**source), "target": {"path": "out.csv"}})
    assert error.code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
    assert named in str(error)


def test_tables_that_may_be_read_may_not_be_written(database: Database) -> None:
    database.bench.permit.entry.options["write_tables"] = ["fresh*"]
    try:
        with pytest.raises(OperationError, match="write_tables"):
            load(database, {"name": "x"})
    finally:
        database.bench.permit.entry.options["write_tables"] = OPTIONS["tables"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"table": "fresh_none"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"table": "people", "columns": ["nowhere"]}, TaskErrorCode.DATA_FORMAT_INVALID),
        ({"query": "by_city"}, TaskErrorCode.DATA_FORMAT_INVALID),  # its parameter is missing
        ({"table": "people; DROP TABLE people"}, TaskErrorCode.VALIDATION_INVALID_FORMAT),
        ({}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"table": "people", "query": "by_city"}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
    ],
)
def test_sources_that_do_not_fit(database: Database, more: dict[str, Any], code: TaskErrorCode) -> None:
    params = {"source": database.source(**more), "target": {"path": "out.csv"}}
    assert database.bench.fails("data_export", params).code is code
    assert not (database.folder / "out.csv").exists()


def test_a_long_query_is_interrupted(database: Database) -> None:
    database.bench.permit.entry.options["free_queries"] = True
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT max(i) AS i FROM n"
    params = {"source": database.source(statement=forever), "target": {"path": "out.csv"}}
    began = time.monotonic()
    try:
        with pytest.raises(OperationStopped):
            database.bench.run(
                "data_export", params, before=lambda op: threading.Timer(0.5, op.stop, [StopReason.CANCEL]).start()
            )
    finally:
        del database.bench.permit.entry.options["free_queries"]
    assert time.monotonic() - began < 60
    assert not list(database.folder.glob("*out.csv*"))


ROW = st.fixed_dictionaries(
    {
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "ratio": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.none() | st.booleans(),
        "day": st.none() | st.dates().map(lambda day: day.isoformat()),
        "moment": st.none() | st.datetimes().map(lambda moment: moment.isoformat()),
        # An empty text is null in CSV, and PostgreSQL knows no NUL.
        "text": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    }
)
TYPES = {"number": "integer", "ratio": "number", "flag": "boolean", "day": "date", "moment": "datetime", "text": "string"}


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(ROW, min_size=1, max_size=8))
def test_rows_survive_the_round_through_all_formats(database: Database, rows: list[dict[str, Any]]) -> None:
    bench, folder = database.bench, database.folder

    def move(source: Any, target: Any, *steps: Any) -> None:
        found = bench.run("data_process", {"source": source, "steps": list(steps), "target": target})
        assert (found["rows_written"], found["bad_rows"]) == (len(rows), 0)

    order = {"step": "derive", "column": "position", "expression": "position + 0"}
    name = write(folder, "in.jsonl", *({"position": index, **row} for index, row in enumerate(rows)))
    types = {"position": "integer", **TYPES}
    move({"path": name, "types": types}, {"path": "a.csv"})
    move({"path": "a.csv", "types": types}, {"path": "b.parquet"}, order)
    move({"path": "b.parquet"}, database.target(table="fresh_round", create=True, mode="replace"))
    move(database.source(table="fresh_round"), {"path": "c.json"}, {"step": "sort", "by": ["position"]})
    move({"path": "c.json"}, {"path": "d.jsonl"}, {"step": "drop", "columns": ["position"]})

    assert read(folder / "d.jsonl") == rows


def test_decimals_stay_exact(database: Database) -> None:
    database.execute("CREATE TABLE typed (price NUMERIC(20, 4))")
    load(database, {"price": "12345678901.2345"}, table="typed")
    if database.engine.dialect.name == "postgresql":
        assert database.execute("SELECT price FROM typed") == [(Decimal("12345678901.2345"),)]
        assert export(database, table="typed") == [{"price": "12345678901.2345"}]


def test_values_that_files_of_text_write_in_their_way(database: Database) -> None:
    postgres = database.engine.dialect.name == "postgresql"
    own = (
        "id UUID, zoned TIMESTAMPTZ, moment TIMESTAMP, content BYTEA, more JSON" if postgres else "moment DATETIME, content BLOB"
    )
    database.execute(f"CREATE TABLE typed ({own})")
    row = {"moment": "2026-01-31T12:00:00+02:00", "content": "AP8="}
    if postgres:
        row |= {"id": "8e4d2d5c-0c5b-4d31-9a0e-6f0c1f1f8a10", "zoned": "2026-01-31T12:00:00+02:00", "more": {"a": [1]}}
    load(database, row, table="typed")

    [found] = export(database, table="typed")
    assert (found["moment"], found["content"]) == ("2026-01-31T10:00:00", "AP8=")
    if postgres:
        assert (found["id"], found["more"]) == (row["id"], {"a": [1]})
        assert datetime.fromisoformat(found["zoned"]) == datetime.fromisoformat(row["zoned"])
        assert load(database, {"id": "none"}, table="typed", max_bad_rows=1)["bad_rows"] == 1
    assert load(database, {"content": "no Base64!"}, table="typed", max_bad_rows=1)["bad_rows"] == 1


def test_a_new_table_keeps_zones_where_the_database_has_them(database: Database) -> None:
    load(database, {"moment": "2026-01-31T12:00:00+02:00"}, table="fresh", create=True, types={"moment": "datetime"})
    [found] = export(database, table="fresh")
    moment = datetime.fromisoformat(found["moment"])
    assert moment.replace(tzinfo=moment.tzinfo or UTC) == datetime.fromisoformat("2026-01-31T12:00:00+02:00")


# One database each


def test_a_sqlite_file_that_is_none_or_is_missing(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database, though it is long enough to be looked at" * 100)
    bench = Bench(tmp_path, options=OPTIONS)
    for name, code in (("bad.db", TaskErrorCode.DATA_FILE_CORRUPTED), ("gone.db", TaskErrorCode.DATA_FILE_NOT_FOUND)):
        source = {"format": "sql", "url": f"sqlite:///{tmp_path}/{name}", "table": "people"}
        assert bench.fails("data_export", {"source": source, "target": {"path": "out.csv"}}).code is code
        (tmp_path / "in.csv").write_text("name\nx\n")
        error = bench.fails("data_import", {"source": {"path": "in.csv"}, "target": source})
        assert error.code is code
    assert not (tmp_path / "gone.db").exists()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("sqlite:////etc/passwd", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ("sqlite://", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ("postgresql://u:secret@warehouse/x", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ("postgresql://elsewhere/x", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ("postgresql:///x", TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION),
        ("postgresql://warehouse/x?sslkey=/etc/shadow", TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ("sqlite:///x.db?mode=memory", TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ("mssql+pyodbc://warehouse/x", TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ("no url", TaskErrorCode.VALIDATION_INVALID_FORMAT),
    ],
)
def test_urls_that_are_refused(tmp_path: Path, url: str, code: TaskErrorCode) -> None:
    bench = Bench(tmp_path, options=OPTIONS)
    error = bench.fails(
        "data_export", {"source": {"format": "sql", "url": url, "table": "people"}, "target": {"path": "out.csv"}}
    )
    assert error.code is code
    assert "secret" not in str(error)


def test_a_host_outside_the_inventory(tmp_path: Path) -> None:
    source = {"format": "sql", "url": "postgresql://127.0.0.1/postgres", "table": "people"}
    error = Bench(tmp_path, options=OPTIONS, any_host=True).fails("data_export", {"source": source, "target": {"path": "x.csv"}})
    assert error.code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION


def test_a_locked_database_is_for_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtomatika.operations.data.database._CONNECT_SECONDS", 0.1)
    with sqlite3.connect(tmp_path / "x.db", isolation_level=None) as holder:
        holder.execute("CREATE TABLE people (name TEXT)")
        holder.execute("BEGIN EXCLUSIVE")
        (tmp_path / "in.csv").write_text("name\nx\n")
        target = {"format": "sql", "url": f"sqlite:///{tmp_path}/x.db", "table": "people"}
        error = Bench(tmp_path, options=OPTIONS).fails("data_import", {"source": {"path": "in.csv"}, "target": target})
        holder.execute("ROLLBACK")
    holder.close()

    assert error.code is TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE
    assert error.kind is ErrorCode.TRANSIENT


@pytest.mark.parametrize(
    ("user", "closed", "code"),
    [
        ("no_such_role", False, TaskErrorCode.SYSTEM_PERMISSION_DENIED),
        ("no_such_role", True, TaskErrorCode.NETWORK_CONNECTION_FAILED),
    ],
)
def test_connections_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, closed: bool, code: TaskErrorCode
) -> None:
    parts = urlsplit(require("postgres"))
    monkeypatch.setenv("DATABASE_PASSWORD", "any-password")
    bench = Bench(
        tmp_path,
        options=OPTIONS,
        hosts={"warehouse": {"address": parts.hostname, "port": free_port() if closed else parts.port or 5432}},
        credentials={"reader": {"username": user, "password_env": "DATABASE_PASSWORD"}},
    )
    source = {"format": "sql", "url": f"postgresql://warehouse{parts.path}", "credential": "reader", "table": "people"}
    error = bench.fails("data_export", {"source": source, "target": {"path": "out.csv"}})

    assert error.code is code
    assert "-password" not in f"{error} {error.details}"
    assert not (tmp_path / "out.csv").exists()


def test_a_credential_that_is_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_database(require("postgres")) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE people (name TEXT)")
        monkeypatch.setenv("DATABASE_URL_OF_TEST", url)
        bench = Bench(tmp_path, options=OPTIONS, credentials={"whole": {"token_env": "DATABASE_URL_OF_TEST"}})
        source = {"format": "sql", "credential": "whole", "table": "people"}
        assert bench.run("data_export", {"source": source, "target": {"path": "out.json"}})["rows_written"] == 0

    monkeypatch.setenv("DATABASE_URL_OF_TEST", "no url")
    assert bench.fails("data_export", {"source": source, "target": {"path": "x.csv"}}).code is TaskErrorCode.CONFIGURATION_ERROR


@pytest.mark.parametrize(
    ("statement", "fine"),
    [
        ("select 1", True),
        (" (SELECT 1);", True),
        ("values (1)", True),
        ("selection", False),
        ("SELECT ';'", False),
        ("EXPLAIN x", False),
    ],
)
def test_one_select(statement: str, fine: bool) -> None:
    if fine:
        one_select(statement)
    else:
        with pytest.raises(OperationError):
            one_select(statement)


def test_a_target_that_fails_lets_go_of_the_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
        connection.executemany("INSERT INTO people VALUES (?)", [("ü",)] * 5000)
    connection.close()
    bench = Bench(tmp_path, options=OPTIONS)
    place = {"format": "sql", "url": f"sqlite:///{tmp_path}/x.db", "table": "people"}
    kept = bench.fails("data_export", {"source": place, "target": {"path": "out.csv", "encoding": "ascii"}})
    (tmp_path / "in.csv").write_text("name\nx\n")

    assert kept.code is TaskErrorCode.DATA_ENCODING_ERROR
    assert bench.run("data_import", {"source": {"path": "in.csv"}, "target": {**place, "mode": "replace"}})["rows_written"] == 1
