"""What data operations are told: sources, targets and steps. All of it is data: nothing in it is run."""

from __future__ import annotations

import codecs
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from avtomatika.blueprint.conditions import parse_row_condition
from avtomatika.errors import ConditionError
from avtomatika.operations.base import Params
from avtomatika.operations.data.expressions import parse_expression

Type = Literal["string", "integer", "number", "boolean", "decimal", "date", "datetime"]
FileFormat = Literal["csv", "json", "jsonl", "parquet"]
Column = Annotated[str, Field(min_length=1, max_length=200)]
Columns = Annotated[list[Column], Field(min_length=1, max_length=1000)]
Types = Annotated[dict[Column, Type], Field(max_length=1000)]
Scalar = str | int | float | bool | None
Table = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$", max_length=130)]

_SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _encoding(name: str) -> str:
    try:
        found = codecs.lookup(name)
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(f"there is no encoding {name!r} for text") from None
    return found.name


def _condition(text: str) -> str:
    try:
        parse_row_condition(text)
    except ConditionError as exc:
        raise ValueError(str(exc)) from None
    return text


def _expression(text: str) -> str:
    try:
        parse_expression(text)
    except ConditionError as exc:
        raise ValueError(str(exc)) from None
    return text


class _File(_Part):
    path: str = Field(min_length=1, description="beneath the policy's local_roots")
    format: FileFormat | None = Field(None, description="by the path's suffix, where it is not given")
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"
    delimiter: str = Field(",", min_length=1, max_length=1, pattern=r"^[^\r\n\"]$", description="of CSV")

    @model_validator(mode="after")
    def _known(self) -> _File:
        suffix = PurePosixPath(self.path).suffix.lower()
        if self.format is None and suffix not in _SUFFIXES:
            raise ValueError(f"format is to be given: csv, json, jsonl or parquet; the suffix {suffix!r} says none of them")
        return self

    @property
    def kind(self) -> FileFormat:
        return self.format or _SUFFIXES[PurePosixPath(self.path).suffix.lower()]


class FileSource(_File):
    """A file of rows. What a row's values are in CSV is text, unless `types` says more."""

    header: bool = Field(True, description="CSV: whether the first line names the columns; else `columns` does")
    columns: Columns | None = None
    null_values: list[str] = Field(default_factory=lambda: [""], max_length=20, description="CSV: texts that stand for null")
    types: Types = Field(default_factory=dict)
    max_bad_rows: int = Field(0, ge=0, description="rows that may be left out since they are malformed")

    @model_validator(mode="after")
    def _named(self) -> FileSource:
        if self.kind == "csv" and not self.header and self.columns is None:
            raise ValueError("columns is to be given, since there is no header")
        return self


class FileTarget(_File):
    """A file that appears when it is whole."""

    header: bool = True
    types: Types = Field(default_factory=dict, description="of columns of a Parquet file; else as the first rows are")
    overwrite: bool = True
    mode: Literal["0600", "0640", "0644"] = "0600"


class _Database(_Part):
    format: Literal["sql"]
    url: str | None = Field(None, max_length=500, description="sqlite:///<path>, or postgresql://<host>/<database>; no password")
    credential: str | None = Field(None, description="its password or token opens the URL, or is a URL by itself")

    @model_validator(mode="after")
    def _somewhere(self) -> _Database:
        if self.url is None and self.credential is None:
            raise ValueError("url or credential is to be given")
        return self


class SqlSource(_Database):
    """A table, a query that the policy knows by name, or, where the policy has `free_queries`, a SELECT."""

    table: Table | None = None
    columns: Columns | None = Field(None, description="of the table; all of them without it")
    query: str | None = Field(None, max_length=100, description="a name in the policy's option `queries`")
    statement: str | None = Field(None, max_length=20_000)
    parameters: dict[str, Scalar] = Field(default_factory=dict, description="for :names in the query or the statement")

    @model_validator(mode="after")
    def _one(self) -> SqlSource:
        if sum(given is not None for given in (self.table, self.query, self.statement)) != 1:
            raise ValueError("give one of table, query and statement")
        if self.table is None and self.columns is not None:
            raise ValueError("columns goes with table")
        return self


class SqlTarget(_Database):
    """A table, filled in one transaction."""

    table: Table
    mode: Literal["append", "replace", "upsert"] = "append"
    key: Columns | None = Field(None, description="upsert: the columns of a unique key")
    create: bool = Field(False, description="make the table where it is missing, as the first rows are")
    types: Types = Field(default_factory=dict, description="of columns, where it is made")
    max_bad_rows: int = Field(0, ge=0, description="rows that may be left out since they do not fit the table's columns")

    @model_validator(mode="after")
    def _keyed(self) -> SqlTarget:
        if (self.mode == "upsert") != (self.key is not None):
            raise ValueError("key goes with mode upsert, and only with it")
        return self


def _place(value: Any) -> str:
    format_ = value.get("format") if isinstance(value, dict) else getattr(value, "format", None)
    return "sql" if format_ == "sql" else "file"


Source = Annotated[Annotated[FileSource, Tag("file")] | Annotated[SqlSource, Tag("sql")], Discriminator(_place)]
Target = Annotated[Annotated[FileTarget, Tag("file")] | Annotated[SqlTarget, Tag("sql")], Discriminator(_place)]


class Select(_Part):
    step: Literal["select"]
    columns: Columns


class Drop(_Part):
    step: Literal["drop"]
    columns: Columns


class Rename(_Part):
    step: Literal["rename"]
    columns: dict[Column, Column] = Field(min_length=1, max_length=1000)


class Cast(_Part):
    step: Literal["cast"]
    columns: Types = Field(min_length=1)
    on_error: Literal["fail", "null", "drop"] = "fail"


class Filter(_Part):
    step: Literal["filter"]
    where: Annotated[str, AfterValidator(_condition)]


class Derive(_Part):
    step: Literal["derive"]
    column: Column
    expression: Annotated[str, AfterValidator(_expression)]
    on_error: Literal["fail", "null", "drop"] = "fail"


class Sort(_Part):
    step: Literal["sort"]
    by: Columns = Field(description="columns; `-` before a name: the largest first. Nulls come last")


class Limit(_Part):
    step: Literal["limit"]
    rows: int = Field(ge=0)
    offset: int = Field(0, ge=0)


class Deduplicate(_Part):
    step: Literal["deduplicate"]
    columns: Columns | None = None


class Measure(_Part):
    function: Literal["count", "count_distinct", "sum", "min", "max", "avg"]
    column: Column | None = None

    @model_validator(mode="after")
    def _of(self) -> Measure:
        if self.column is None and self.function != "count":
            raise ValueError(f"{self.function} is of a column")
        return self


class Aggregate(_Part):
    step: Literal["aggregate"]
    group_by: list[Column] = Field(default_factory=list, max_length=100)
    measures: dict[Column, Measure] = Field(min_length=1, max_length=100)


class Join(_Part):
    step: Literal["join"]
    source: FileSource
    on: dict[Column, Column] = Field(min_length=1, max_length=20, description="column here: column there")
    how: Literal["inner", "left"] = "inner"
    columns: Columns | None = Field(None, description="to take from there; all but its keys without it")


Step = Annotated[
    Select | Drop | Rename | Cast | Filter | Derive | Sort | Limit | Deduplicate | Aggregate | Join, Discriminator("step")
]


class DataProcess(Params):
    """Rows from a source, through steps, into a target."""

    source: Source
    steps: list[Step] = Field(default_factory=list, max_length=100)
    target: Target


class DataAnalyze(Params):
    """What is in a source."""

    source: Source
    max_rows: int | None = Field(None, ge=1, description="only these first rows")


class DataExport(Params):
    """Rows of a database become a file."""

    source: SqlSource
    target: FileTarget


class DataImport(Params):
    """Rows of a file go into a table."""

    source: FileSource
    target: SqlTarget
