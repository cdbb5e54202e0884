"""Files of rows, read in batches: CSV, a JSON array, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.data.params import FileSource, Type
from avtomatika.operations.data.values import BATCH, BadRows, Batch, Misfit, Row, cast
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import open_file, shown

#: Characters of one record; a longer one is refused, so that memory stays bounded.
MAX_RECORD = 16 << 20
#: Bytes that a group of rows of a Parquet file may take in memory.
MAX_ROW_GROUP = 2 << 30


class Reader(Protocol):
    """What rows come from.

    Attributes:
        types: of columns, as far as they are known before the first row.
        rows: read so far.
        bad: what was left out.
    """

    types: dict[str, Type]
    rows: int
    bad: BadRows

    def batches(self) -> Iterator[Batch]: ...

    def share(self) -> float | None:
        """How much of it has been read, 0..1; None where nobody knows."""


class FileReader:
    """A file. Every row that it gives has the types that its source names."""

    def __init__(self, source: FileSource, op: OperationContext) -> None:
        self._source = source
        self._op = op
        self._path: Path = op.permit.local_path(source.path)
        self._size = 1
        self._done = 0.0
        self.types: dict[str, Type] = dict(source.types)
        self.rows = 0
        self.bad = BadRows(source.max_bad_rows, self._path.name)

    def share(self) -> float | None:
        return min(1.0, self._done)

    def batches(self) -> Iterator[Batch]:
        with open_file(self._path) as file:
            self._size = max(1, file.seek(0, io.SEEK_END))
            file.seek(0)
            most = self._op.permit.option("max_file_bytes")
            if most is not None and self._size > most:
                raise self._error(TaskErrorCode.DATA_SIZE_TOO_LARGE, f"it has {self._size} bytes; the policy allows {most}")
            for batch in _batched(self._rows(file)):
                self._op.checkpoint()
                self.rows += len(batch)
                yield batch

    def _rows(self, file: BinaryIO) -> Iterator[Row]:
        if self._source.kind == "parquet":
            yield from (row for number, row in self._typed(self._parquet(file), "row"))
            return
        encoding = "utf-8-sig" if self._source.encoding == "utf-8" else self._source.encoding  # a mark at its head is no text
        lines = io.TextIOWrapper(file, encoding, errors="strict", newline="")
        read = {"csv": self._csv, "json": self._json, "jsonl": self._jsonl}[self._source.kind]
        try:
            yield from (row for number, row in self._typed(read(lines), "line"))
        except UnicodeDecodeError as exc:
            message = f"after row {self.rows} there is what is no {self._source.encoding}: {exc.reason}"
            raise self._error(TaskErrorCode.DATA_ENCODING_ERROR, message) from None
        finally:
            with suppress(ValueError):  # the file is closed already where the rows were not read to their end
                lines.detach()

    def _typed(self, rows: Iterable[tuple[int, Row]], place: str) -> Iterator[tuple[int, Row]]:
        types = self._source.types
        if not types:
            yield from rows
            return
        for number, row in rows:
            try:
                for name, type_ in types.items():
                    if name in row:
                        row[name] = cast(row[name], type_)
            except Misfit as exc:
                self.bad.add(f"{exc}, in the column {name!r}", **{place: number})
                continue
            yield number, row

    def _csv(self, lines: io.TextIOWrapper) -> Iterator[tuple[int, Row]]:
        rows = csv.reader(self._limited(lines), delimiter=self._source.delimiter, strict=True)
        names = self._source.columns if not self._source.header else self._header(rows)
        assert names is not None
        self._check_types(names)
        nulls = frozenset(self._source.null_values)
        while True:
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error as exc:
                self.bad.add(f"this is no CSV: {exc}", line=rows.line_num)
                continue
            if not values:
                continue  # an empty line
            if len(values) != len(names):
                self.bad.add(f"there are {len(values)} values for {len(names)} columns", line=rows.line_num)
                continue
            yield rows.line_num, {name: None if value in nulls else value for name, value in zip(names, values, strict=True)}

    def _check_types(self, names: Collection[str]) -> None:
        if names and (missing := [name for name in self._source.types if name not in names]):
            raise self._error(TaskErrorCode.DATA_FORMAT_INVALID, f"it has no column {missing[0]!r}, which types names")

    def _header(self, rows: Any) -> list[str]:
        try:
            names: list[str] = next(rows, [])
        except csv.Error as exc:
            raise self._error(TaskErrorCode.DATA_FORMAT_INVALID, f"its header is no CSV: {exc}") from None
        if "" in names or len(set(names)) != len(names):
            raise self._error(TaskErrorCode.DATA_FORMAT_INVALID, "its header has a column without a name, or one twice")
        return list(names)

    def _limited(self, lines: io.TextIOWrapper) -> Iterator[str]:
        """The lines; OperationError (DATA_SIZE_TOO_LARGE) for one without an end."""
        while line := lines.readline(MAX_RECORD):
            if len(line) == MAX_RECORD and not line.endswith(("\n", "\r")):
                raise self._error(TaskErrorCode.DATA_SIZE_TOO_LARGE, f"a line is longer than {MAX_RECORD} characters")
            self._done = _position(lines) / self._size
            yield line

    def _jsonl(self, lines: io.TextIOWrapper) -> Iterator[tuple[int, Row]]:
        for number, line in enumerate(self._limited(lines), 1):
            if not line.strip():
                continue
            try:
                found = _DECODER.decode(line)
            except (ValueError, RecursionError):
                self.bad.add("this is no JSON", line=number)
                continue
            if isinstance(found, dict):
                yield number, found
            else:
                self.bad.add("this is no object", line=number)

    def _json(self, lines: io.TextIOWrapper) -> Iterator[tuple[int, Row]]:
        """An array of objects, one object in memory at a time. Where one is malformed, nobody knows where the next begins."""
        text = _Window(lines)
        if text.peek() != "[":
            raise self._error(TaskErrorCode.DATA_FORMAT_INVALID, "it is no JSON array of objects")
        text.take(1)
        number = 0
        while (following := text.peek()) != "]":
            if number:
                if following != ",":
                    self._malformed(number)
                text.take(1)
                following = text.peek()
            number += 1
            if following != "{":
                self._malformed(number)
            found = text.decode()
            if found is None:
                self._malformed(number)
            self._done = _position(lines) / self._size
            yield number, found
        text.take(1)
        if text.peek():
            self._malformed(number + 1)

    def _malformed(self, number: int) -> NoReturn:
        message = f"its object {number} is malformed, cut off, or longer than {MAX_RECORD} characters"
        raise self._error(TaskErrorCode.DATA_PARSING_FAILED, message, object=number)

    def _parquet(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            found = pq.ParquetFile(file)
            schema = found.schema_arrow
            if len(set(schema.names)) != len(schema.names):
                raise self._error(TaskErrorCode.DATA_FORMAT_INVALID, "it names a column twice")
            self._check_types(schema.names)
            self.types = {**_types_of(schema), **self.types}
            for index in range(found.metadata.num_row_groups):
                if found.metadata.row_group(index).total_byte_size > MAX_ROW_GROUP:
                    raise self._error(
                        TaskErrorCode.DATA_SIZE_TOO_LARGE, f"a group of its rows takes more than {MAX_ROW_GROUP} bytes"
                    )
            number, total = 0, max(1, found.metadata.num_rows)
            for batch in found.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
                self._done = number / total
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise self._error(
                TaskErrorCode.DATA_FILE_CORRUPTED, f"it is no Parquet file that can be read: {_short(exc)}"
            ) from None
        except OSError as exc:
            if exc.errno is not None:
                raise
            raise self._error(TaskErrorCode.DATA_FILE_CORRUPTED, f"it cannot be read as Parquet: {_short(exc)}") from None

    def _error(self, code: TaskErrorCode, message: str, **details: Any) -> OperationError:
        return OperationError(code, f"{shown(self._path)}: {message}", details={"path": shown(self._path), **details})


def _position(lines: io.TextIOWrapper) -> int:
    """How far its bytes have been read."""
    found: int = lines.buffer.raw.tell() if hasattr(lines.buffer, "raw") else 0
    return found


def _short(exc: BaseException) -> str:
    return str(exc).split("\n", 1)[0][:200]


def _types_of(schema: Any) -> dict[str, Type]:
    import pyarrow as pa

    kinds: list[tuple[Any, Type]] = [
        (pa.types.is_boolean, "boolean"), (pa.types.is_integer, "integer"), (pa.types.is_floating, "number"),
        (pa.types.is_decimal, "decimal"), (pa.types.is_date, "date"), (pa.types.is_timestamp, "datetime"),
        (pa.types.is_string, "string"), (pa.types.is_large_string, "string"),
    ]  # fmt: skip
    found: dict[str, Type] = {}
    for field in schema:
        for fits, name in kinds:
            if fits(field.type):
                found[field.name] = name
    return found


def _batched(rows: Iterator[Row]) -> Iterator[Batch]:
    batch: Batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_BLOCK = 1 << 16


class _Window:
    """A part of a text, from where it is read on."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False

    def _more(self, least: int = _BLOCK) -> bool:
        """Reads on; false at the end."""
        block = "" if self._ended else self._file.read(least)
        self._ended = not block
        self._text = self._text[self._at :] + block
        self._at = 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, count: int) -> None:
        self._at += count

    def decode(self) -> Any:
        """The object that begins here; None for what is none, or is too long."""
        while True:
            try:
                found, self._at = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                return None
            except ValueError:
                # Perhaps it is only cut off here. Twice as much each time: else a long one would be begun again and again.
                if len(self._text) - self._at > MAX_RECORD or not self._more(max(_BLOCK, len(self._text) - self._at)):
                    return None
            else:
                return found
