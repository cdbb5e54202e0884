"""Steps between a source and a target: each takes batches and gives batches, and keeps as little as it can."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from avtomatika.blueprint.conditions import parse_row_condition
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.data import params as declared
from avtomatika.operations.data.aggregation import Groups
from avtomatika.operations.data.expressions import CannotCompute, parse_expression
from avtomatika.operations.data.params import Type
from avtomatika.operations.data.reading import FileReader
from avtomatika.operations.data.values import BATCH, BadRows, Batch, Budget, Misfit, Row, cast, plain
from avtomatika.operations.errors import OperationError

Batches = Iterator[Batch]


@dataclass
class Kitchen:
    """What steps share.

    Attributes:
        memory: bytes that steps which have to keep rows may keep, each.
        dropped: rows that a step with ``on_error="drop"`` left out.
    """

    op: OperationContext
    memory: int
    dropped: int = 0

    def budget(self, what: str) -> Budget:
        return Budget(self.memory, what)


def apply(steps: list[declared.Step], batches: Batches, kitchen: Kitchen) -> Batches:
    """The batches as they come out of the last step."""
    for number, step in enumerate(steps, 1):
        batches = _STEPS[type(step)](batches, step, kitchen, f"step {number} ({step.step})")
    return batches


def types_after(steps: list[declared.Step], types: dict[str, Type]) -> dict[str, Type]:
    """What is known of the columns' types after the steps."""
    types = dict(types)
    for step in steps:
        match step:
            case declared.Rename(columns=columns):
                types = {columns.get(name, name): type_ for name, type_ in types.items()}
            case declared.Cast(columns=columns):
                types |= columns
            case declared.Derive(column=column):
                types.pop(column, None)
            case declared.Aggregate(group_by=group_by, measures=measures):
                types = {name: type_ for name, type_ in types.items() if name in group_by and name not in measures}
            case declared.Join(source=source, columns=columns):
                taken = {name: type_ for name, type_ in source.types.items() if columns is None or name in columns}
                types = {**taken, **types}
    return types


def _select(batches: Batches, step: declared.Select, kitchen: Kitchen, where: str) -> Batches:
    for batch in batches:
        yield [{name: _get(row, name, where) for name in step.columns} for row in batch]


def _drop(batches: Batches, step: declared.Drop, kitchen: Kitchen, where: str) -> Batches:
    dropped = frozenset(step.columns)
    for batch in batches:
        yield [{name: value for name, value in row.items() if name not in dropped} for row in batch]


def _rename(batches: Batches, step: declared.Rename, kitchen: Kitchen, where: str) -> Batches:
    names = step.columns
    for batch in batches:
        renamed = [{names.get(name, name): value for name, value in row.items()} for row in batch]
        for before, after in zip(batch, renamed, strict=True):
            if len(after) != len(before):
                raise OperationError(TaskErrorCode.DATA_FORMAT_INVALID, f"{where}: two columns would have one name")
        yield renamed


def _cast(batches: Batches, step: declared.Cast, kitchen: Kitchen, where: str) -> Batches:
    def change(row: Row) -> None:
        for name, type_ in step.columns.items():
            try:
                row[name] = cast(_get(row, name, where), type_)
            except Misfit as exc:
                if step.on_error != "null":
                    raise Misfit(f"{exc}, in the column {name!r}") from None
                row[name] = None

    yield from _changed(batches, change, step.on_error, kitchen, where)


def _derive(batches: Batches, step: declared.Derive, kitchen: Kitchen, where: str) -> Batches:
    compute = parse_expression(step.expression)

    def change(row: Row) -> None:
        try:
            row[step.column] = compute(row)
        except CannotCompute as exc:
            if step.on_error != "null":
                raise Misfit(str(exc)) from None
            row[step.column] = None

    yield from _changed(batches, change, step.on_error, kitchen, where)


def _changed(batches: Batches, change: Callable[[Row], None], on_error: str, kitchen: Kitchen, where: str) -> Batches:
    """Changes each row in its place; one that cannot be changed fails the operation, or is left out."""
    bad = BadRows(0, where)
    number = 0
    for batch in batches:
        kept = []
        for row in batch:
            number += 1
            try:
                change(row)
            except Misfit as exc:
                if on_error == "fail":
                    bad.add(str(exc), row=number)
                kitchen.dropped += 1
                continue
            kept.append(row)
        yield kept


def _filter(batches: Batches, step: declared.Filter, kitchen: Kitchen, where: str) -> Batches:
    fits = parse_row_condition(step.where)
    for batch in batches:
        yield [row for row in batch if fits(row)]


def _sort(batches: Batches, step: declared.Sort, kitchen: Kitchen, where: str) -> Batches:
    budget = kitchen.budget(where)
    rows: Batch = []
    for batch in batches:
        for row in batch:
            budget.take(*row.values())
        rows.extend(batch)
    # By the last column first: each sort keeps the order of what it finds equal.
    for by in reversed(step.by):
        name, down = by.removeprefix("-"), by.startswith("-")
        some = [row for row in rows if _get(row, name, where) is not None]
        none = [row for row in rows if row[name] is None]
        try:
            some.sort(key=lambda row: row[name], reverse=down)
        except TypeError:
            raise OperationError(
                TaskErrorCode.DATA_FORMAT_INVALID, f"{where}: the values of {name!r} are of kinds that have no order: cast them"
            ) from None
        rows = some + none
    yield from _batches(rows)


def _limit(batches: Batches, step: declared.Limit, kitchen: Kitchen, where: str) -> Batches:
    left, skip = step.rows, step.offset
    while left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        skipped = min(skip, len(batch))
        skip -= skipped
        batch = batch[skipped : skipped + left]
        left -= len(batch)
        yield batch
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def _deduplicate(batches: Batches, step: declared.Deduplicate, kitchen: Kitchen, where: str) -> Batches:
    budget = kitchen.budget(where)
    seen: set[bytes] = set()
    for batch in batches:
        kept = []
        for row in batch:
            values = [_get(row, name, where) for name in step.columns] if step.columns else sorted(row.items())
            digest = hashlib.blake2b(repr(plain(values)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest not in seen:
                budget.take(digest)
                seen.add(digest)
                kept.append(row)
        yield kept


def _aggregate(batches: Batches, step: declared.Aggregate, kitchen: Kitchen, where: str) -> Batches:
    groups = Groups(step, kitchen.budget(where), where)
    for batch in batches:
        groups.take(batch)
    yield from _batches(list(groups.rows()))


def _join(batches: Batches, step: declared.Join, kitchen: Kitchen, where: str) -> Batches:
    budget = kitchen.budget(where)
    there: dict[tuple[Any, ...], Batch] = {}
    taken: list[str] = list(step.columns or ())
    theirs = list(step.on.values())
    for batch in FileReader(step.source, kitchen.op).batches():
        for row in batch:
            key = tuple(_get(row, name, where) for name in theirs)
            kept = {name: value for name, value in row.items() if name not in theirs}
            if step.columns is not None:
                kept = {name: _get(row, name, where) for name in step.columns}
            taken = taken or list(kept)
            if None not in key:  # as in SQL, null equals nothing
                budget.take(*key, *kept.values())
                there.setdefault(_hashable(key, where), []).append(kept)
    nothing = [dict.fromkeys(taken)] if step.how == "left" else []
    for batch in batches:
        for row in batch:
            if clash := [name for name in taken if name in row]:
                raise OperationError(
                    TaskErrorCode.DATA_FORMAT_INVALID, f"{where}: both sides have the column {clash[0]!r}: rename it"
                )
            break
        joined = (
            {**row, **other}
            for row in batch
            for other in there.get(_hashable(tuple(_get(row, name, where) for name in step.on), where), nothing)
        )
        yield from _batches(joined)  # a key that is there many times makes many rows of one


def _hashable(key: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    try:
        hash(key)
    except TypeError:
        raise OperationError(TaskErrorCode.DATA_FORMAT_INVALID, f"{where}: a list or an object is no key") from None
    return key


def _get(row: Row, name: str, where: str) -> Any:
    try:
        return row[name]
    except KeyError:
        raise OperationError(TaskErrorCode.DATA_FORMAT_INVALID, f"{where}: a row has no column {name!r}") from None


def _batches(rows: Iterable[Row]) -> Batches:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


_STEPS: dict[type, Callable[[Batches, Any, Kitchen, str], Batches]] = {
    declared.Select: _select,
    declared.Drop: _drop,
    declared.Rename: _rename,
    declared.Cast: _cast,
    declared.Filter: _filter,
    declared.Derive: _derive,
    declared.Sort: _sort,
    declared.Limit: _limit,
    declared.Deduplicate: _deduplicate,
    declared.Aggregate: _aggregate,
    declared.Join: _join,
}
