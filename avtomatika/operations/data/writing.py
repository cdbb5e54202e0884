"""Files of rows, written in batches; each appears under its name when it is whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any, BinaryIO, Protocol

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.data.params import FileTarget, Type
from avtomatika.operations.data.values import Batch, plain, text
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import new_file, shown
from avtomatika.results import JSON

#: Rows of a group of a Parquet file.
ROW_GROUP = 50_000


class Writer(Protocol):
    """What rows go into. `done` says what a result has to say of it."""

    def write(self, batch: Batch) -> None: ...

    def done(self) -> JSON: ...


@contextmanager
def file_writer(target: FileTarget, op: OperationContext, types: dict[str, Type]) -> Iterator[FileWriter]:
    """A file that is there when the block has ended well; else nothing is."""
    path = op.permit.local_path(target.path)
    mode = int(target.mode, 8)
    with new_file(path, op.key, overwrite=target.overwrite, mode=mode) as file:
        writer = _WRITERS[target.kind](file, target, {**types, **target.types})
        try:
            yield writer
            writer.close()
        except UnicodeEncodeError as exc:
            message = f"{shown(path)}: there is a character that {target.encoding} does not have: {exc.reason}"
            raise OperationError(TaskErrorCode.DATA_ENCODING_ERROR, message) from None
        except BaseException:
            writer.drop()
            raise
        writer.bytes = file.seek(0, io.SEEK_END)
    writer.path = shown(path)


class FileWriter:
    """Columns are those of the first batch; a later row with another one is refused."""

    def __init__(self, file: BinaryIO, target: FileTarget, types: dict[str, Type]) -> None:
        self.target = target
        self.types = types
        self.columns: list[str] = []
        self.rows = 0
        self.bytes = 0
        self.path = ""
        self.open(file)

    def open(self, file: BinaryIO) -> None:
        raise NotImplementedError

    def write(self, batch: Batch) -> None:
        if not batch:
            return
        if self.target.kind in ("csv", "parquet"):
            self._know(batch)
        self.rows += len(batch)
        self.take(batch)

    def take(self, batch: Batch) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Writes what is still to be written."""

    def drop(self) -> None:
        """Lets go of the file, after a failure."""

    def done(self) -> JSON:
        return {"path": self.path, "format": self.target.kind, "size": self.bytes, "rows_written": self.rows}

    def _know(self, batch: Batch) -> None:
        first = not self.columns
        known = dict.fromkeys(self.columns)
        for row in batch:
            if row.keys() == known.keys():
                continue
            for name in row:
                if not first and name not in known:
                    raise OperationError(
                        TaskErrorCode.DATA_FORMAT_INVALID,
                        f"row {self.rows + 1} or a later one has the column {name!r}, which the first rows lack: add a step "
                        "`select` that names all columns",
                    )
                known[name] = None
        self.columns = list(known)


class _Text(FileWriter):
    def open(self, file: BinaryIO) -> None:
        self.text = io.TextIOWrapper(file, self.target.encoding, errors="strict", newline="", write_through=False)

    def close(self) -> None:
        self.text.flush()
        self.text.detach()

    def drop(self) -> None:
        with suppress(Exception):
            self.text.detach()


class _Csv(_Text):
    def take(self, batch: Batch) -> None:
        if self.rows == len(batch):
            self.csv = csv.writer(_Lines(self.text), delimiter=self.target.delimiter, lineterminator="\r\n")
            if self.target.header:
                self.csv.writerow(self.columns)
        if len(self.columns) == 1:
            # A null would be an empty line, which readers skip.
            name = self.columns[0]
            for row in batch:
                value = text(row.get(name))
                self.text.write('""\n') if value is None or value == "" else self.csv.writerow([value])
            return
        self.csv.writerows([text(row.get(name)) for name in self.columns] for row in batch)


class _Lines:
    """Rows of CSV that end with a line feed. The module quotes those line ends only that it writes itself: so it writes both."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, row: str) -> int:
        return self._text.write(f"{row[:-2]}\n")


class _JsonLines(_Text):
    def take(self, batch: Batch) -> None:
        self.text.writelines(f"{_json(row)}\n" for row in batch)


class _Json(_Text):
    def open(self, file: BinaryIO) -> None:
        super().open(file)
        self.text.write("[")

    def take(self, batch: Batch) -> None:
        before = ",\n" if self.rows > len(batch) else "\n"
        self.text.write(before + ",\n".join(_json(row) for row in batch))

    def close(self) -> None:
        self.text.write("\n]\n")
        super().close()


def _json(row: dict[str, Any]) -> str:
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False)


class _Parquet(FileWriter):
    def open(self, file: BinaryIO) -> None:
        self.file = file
        self.waiting: Batch = []
        self.parquet: Any = None

    def take(self, batch: Batch) -> None:
        self.waiting.extend(batch)
        if len(self.waiting) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        if self.waiting or self.parquet is None:
            self._flush()
        self.parquet.close()

    def drop(self) -> None:
        with suppress(Exception):
            if self.parquet is not None:
                self.parquet.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, self.waiting = self.waiting, []
        try:
            if self.parquet is None:
                self.schema = _schema(rows, self.columns or list(self.types), self.types)
                self.parquet = pq.ParquetWriter(self.file, self.schema)
            # Column by column: from_pylist would leave out a value of the wrong type in an inner field.
            arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in self.schema]
            self.parquet.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as exc:
            raise OperationError(
                TaskErrorCode.DATA_FORMAT_INVALID,
                f"rows do not fit the columns of the Parquet file: {str(exc).splitlines()[0][:200]}: "
                "name the types of the target, or cast before",
            ) from None


def _schema(rows: Batch, columns: list[str], types: dict[str, Type]) -> Any:
    """By the known types; else by the rows' values."""
    import pyarrow as pa

    known = {
        "string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
        "date": pa.date32(), "datetime": pa.timestamp("us"),
    }  # fmt: skip
    fields = []
    for name in columns:
        values = [row.get(name) for row in rows]
        type_ = types.get(name)
        if type_ in known and not (type_ == "datetime" and any(getattr(value, "tzinfo", None) for value in values)):
            fields.append(pa.field(name, known[type_]))
            continue
        found = pa.array(values).type
        if pa.types.is_null(found):
            found = pa.decimal128(38, 9) if type_ == "decimal" else pa.string()
        elif any(isinstance(value, Decimal) for value in values) and pa.types.is_decimal(found):
            found = pa.decimal128(38, found.scale) if found.precision <= 38 else found
        fields.append(pa.field(name, found))
    return pa.schema(fields)


_WRITERS: dict[str, type[FileWriter]] = {"csv": _Csv, "json": _Json, "jsonl": _JsonLines, "parquet": _Parquet}
