"""The family ``data``, its operations, and what its exceptions mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from avtomatika.operations.base import Family
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.data import database
from avtomatika.operations.data.aggregation import ColumnProfile
from avtomatika.operations.data.params import (
    DataAnalyze,
    DataExport,
    DataImport,
    DataProcess,
    FileSource,
    FileTarget,
    Join,
    SqlSource,
    SqlTarget,
    Step,
)
from avtomatika.operations.data.reading import FileReader, Reader
from avtomatika.operations.data.steps import Kitchen, apply, types_after
from avtomatika.operations.data.tables import SqlReader, SqlWriter, sql_writer
from avtomatika.operations.data.writing import FileWriter, file_writer
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import judge_os
from avtomatika.operations.policy import Permit
from avtomatika.results import JSON

#: Megabytes that a step may keep, where the policy's option `max_memory_mb` does not say it.
MEMORY_MB = 256
#: Columns that an analysis looks at.
MAX_COLUMNS = 1000


def _judge(exc: BaseException) -> OperationError | None:
    return judge_os(exc, missing=TaskErrorCode.DATA_FILE_NOT_FOUND)


family = Family("data", extra="data", modules=("pyarrow",), judge=_judge)


def _allow(permit: Permit, *places: FileSource | SqlSource | FileTarget | SqlTarget) -> None:
    for place in places:
        if isinstance(place, FileSource | FileTarget):
            permit.local_path(place.path)
        else:
            database.guard(place, permit)


def _guard_process(params: DataProcess, permit: Permit) -> None:
    _allow(permit, params.source, params.target, *(step.source for step in params.steps if isinstance(step, Join)))


@family.operation("data_process", timeout_seconds=3600, max_retries=1, guard=_guard_process)
def data_process(params: DataProcess, op: OperationContext) -> JSON:
    """Takes rows from a source through declared steps into a target, in batches."""
    return _move(params.source, params.steps, params.target, op)


@family.operation(
    "data_export", timeout_seconds=3600, max_retries=1, guard=lambda params, permit: _allow(permit, params.source, params.target)
)
def data_export(params: DataExport, op: OperationContext) -> JSON:
    """Writes a table, or what a query finds, into a file."""
    return _move(params.source, [], params.target, op)


@family.operation(
    "data_import", timeout_seconds=3600, max_retries=1, guard=lambda params, permit: _allow(permit, params.source, params.target)
)
def data_import(params: DataImport, op: OperationContext) -> JSON:
    """Puts the rows of a file into a table, in one transaction."""
    return _move(params.source, [], params.target, op)


@family.operation("data_analyze", timeout_seconds=3600, max_retries=1, guard=lambda params, permit: _allow(permit, params.source))
def data_analyze(params: DataAnalyze, op: OperationContext) -> JSON:
    """Says what is in a source: its rows, and of each column the types, nulls, least, largest, mean and distinct values."""
    reader = _reader(params.source, op)
    profiles: dict[str, ColumnProfile] = {}
    rows = 0
    with closing(reader.batches()) as batches:  # type: ignore[type-var]
        for batch in batches:
            for row in batch[: None if params.max_rows is None else params.max_rows - rows]:
                rows += 1
                for name, value in row.items():
                    if name not in profiles and len(profiles) == MAX_COLUMNS:
                        raise OperationError(TaskErrorCode.DATA_SIZE_TOO_LARGE, f"there are more than {MAX_COLUMNS} columns")
                    profiles.setdefault(name, ColumnProfile()).add(value)
            _say(reader, op)
            if rows == params.max_rows:
                break
    columns = [{"name": name, **profile.result(rows)} for name, profile in profiles.items()]
    return {"rows": rows, "columns": columns, "complete": rows != params.max_rows, **_left_out(reader)}


def _move(source: FileSource | SqlSource, steps: list[Step], target: FileTarget | SqlTarget, op: OperationContext) -> JSON:
    reader = _reader(source, op)
    memory = int(op.permit.option("max_memory_mb", MEMORY_MB)) << 20
    kitchen = Kitchen(op, memory)
    with closing(reader.batches()) as read, closing(apply(steps, read, kitchen)) as batches:  # type: ignore[type-var]
        first = next(batches, [])  # before the target is opened: a source that cannot be read leaves it as it is
        with _writer(target, op, types_after(steps, reader.types)) as writer:
            writer.write(first)
            for batch in batches:
                op.checkpoint()
                writer.write(batch)
                _say(reader, op)
            op.checkpoint()
    result = {"rows_read": reader.rows, **writer.done(), "rows_dropped": kitchen.dropped, **_left_out(reader)}
    if isinstance(writer, SqlWriter) and writer.bad.count:
        result |= {"bad_rows": reader.bad.count + writer.bad.count, "bad_samples": reader.bad.described + writer.bad.described}
    op.log(f"{reader.rows} rows were read, {writer.rows} written, {result['bad_rows']} left out as malformed")
    return result


def _reader(source: FileSource | SqlSource, op: OperationContext) -> Reader:
    return FileReader(source, op) if isinstance(source, FileSource) else SqlReader(source, op)


@contextmanager
def _writer(target: FileTarget | SqlTarget, op: OperationContext, types: JSON) -> Iterator[FileWriter | SqlWriter]:
    if isinstance(target, FileTarget):
        with file_writer(target, op, types) as file:
            yield file
    else:
        with sql_writer(target, op, types) as table:
            yield table


def _left_out(reader: Reader) -> JSON:
    return {"bad_rows": reader.bad.count, "bad_samples": reader.bad.described}


def _say(reader: Reader, op: OperationContext) -> None:
    share = reader.share()
    op.progress(0.0 if share is None else 0.95 * share, f"{reader.rows} rows read")
