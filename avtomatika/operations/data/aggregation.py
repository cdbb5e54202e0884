"""Counting, adding up, and estimating: what remains of many rows."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.data import params as declared
from avtomatika.operations.data.values import Batch, Budget, Row, plain
from avtomatika.operations.errors import OperationError


class Groups:
    """Rows by the values of some columns, and the measures of each group. Nulls are no part of a measure, as in SQL."""

    def __init__(self, step: declared.Aggregate, budget: Budget, where: str) -> None:
        self._step = step
        self._budget = budget
        self._where = where
        self._groups: dict[tuple[Any, ...], list[Accumulator]] = {}
        if not step.group_by:
            self._groups[()] = self._new()  # without groups there is one, even of nothing

    def _new(self) -> list[Accumulator]:
        return [Accumulator(measure.function, self._budget) for measure in self._step.measures.values()]

    def take(self, batch: Batch) -> None:
        columns = [measure.column for measure in self._step.measures.values()]
        for row in batch:
            key = tuple(self._value(row, name) for name in self._step.group_by)
            try:
                group = self._groups.get(key)
                if group is None:
                    self._budget.take(*key, *columns)
                    group = self._groups[key] = self._new()
                for accumulator, column in zip(group, columns, strict=True):
                    accumulator.add(True if column is None else self._value(row, column))
            except (TypeError, ArithmeticError):
                raise OperationError(
                    TaskErrorCode.DATA_FORMAT_INVALID, f"{self._where}: values are of kinds that do not go together: cast them"
                ) from None

    def rows(self) -> Iterator[Row]:
        for key, group in self._groups.items():
            measured = {name: found.result() for name, found in zip(self._step.measures, group, strict=True)}
            yield {**dict(zip(self._step.group_by, key, strict=True)), **measured}

    def _value(self, row: Row, name: str) -> Any:
        if name not in row:
            raise OperationError(TaskErrorCode.DATA_FORMAT_INVALID, f"{self._where}: a row has no column {name!r}")
        return row[name]


class Accumulator:
    """One measure of one group."""

    def __init__(self, function: str, budget: Budget) -> None:
        self._function = function
        self._budget = budget
        self._count = 0
        self._value: Any = None
        self._seen: set[bytes] = set()

    def add(self, value: Any) -> None:
        if value is None:
            return
        self._count += 1
        match self._function:
            case "sum" | "avg":
                if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
                    raise TypeError
                if isinstance(value, float) and isinstance(self._value, Decimal):
                    value = Decimal(repr(value))
                elif isinstance(value, Decimal) and isinstance(self._value, float):
                    self._value = Decimal(repr(self._value))
                self._value = value if self._value is None else self._value + value
            case "min":
                self._value = value if self._value is None or value < self._value else self._value
            case "max":
                self._value = value if self._value is None or value > self._value else self._value
            case "count_distinct":
                digest = fingerprint(value)
                if digest not in self._seen:
                    self._budget.take(digest)
                    self._seen.add(digest)

    def result(self) -> Any:
        match self._function:
            case "count":
                return self._count
            case "count_distinct":
                return len(self._seen)
            case "avg":
                return None if self._count == 0 else self._value / self._count
        return self._value


def fingerprint(value: Any) -> bytes:
    """The same for equal values; 1 and 1.0 are equal, "1" is another one."""
    if isinstance(value, float | Decimal) and -1e18 < value < 1e18 and value == int(value):
        value = int(value)
    return hashlib.blake2b(repr(plain(value)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _quick_fingerprint(value: Any) -> int:
    """A whole number below 2**64, the same for equal values in this process."""
    if isinstance(value, float | Decimal) and -1e18 < value < 1e18 and value == int(value):
        value = int(value)
    # Only a text's hash is spread evenly: an integer's is itself, and that of -1 is that of -2.
    return hash(value if isinstance(value, str) else f"\0{value!r}") & 0xFFFF_FFFF_FFFF_FFFF


class Distinct:
    """How many different values there were: exactly while they are few, else by the K smallest fingerprints (about 2 %)."""

    K = 2048

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._known: set[int] = set()
        self.exact = True

    def add(self, value: Any) -> None:
        number = _quick_fingerprint(value)
        if number in self._known:
            return
        if len(self._kept) == self.K:
            self.exact = False
            if number > self._kept[-1]:
                return
            self._known.discard(self._kept.pop())
        self._known.add(number)
        bisect.insort(self._kept, number)

    def estimate(self) -> int:
        if self.exact:
            return len(self._kept)
        return round((self.K - 1) / (self._kept[-1] / 2**64))


class ColumnProfile:
    """What the values of a column are like."""

    _SHOWN = 200

    def __init__(self) -> None:
        self.nulls = 0
        self.count = 0
        self.kinds: dict[str, int] = {}
        self._least: Any = None
        self._most: Any = None
        self._sum = 0.0
        self._numbers = 0
        self._longest = 0
        self._ordered = True
        self._distinct = Distinct()

    def add(self, value: Any) -> None:
        if value is None:
            self.nulls += 1
            return
        self.count += 1
        kind = _KINDS.get(type(value)) or kind_of(value)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self._distinct.add(value)
        if isinstance(value, int | float | Decimal) and kind != "boolean" and math.isfinite(value):
            self._numbers += 1
            self._sum += float(value)
        if isinstance(value, str):
            self._longest = max(self._longest, len(value))
        if self._ordered and not isinstance(value, dict | list):
            try:
                self._least = value if self._least is None or value < self._least else self._least
                self._most = value if self._most is None or value > self._most else self._most
            except TypeError:
                self._ordered = False  # of several kinds

    def result(self, rows: int) -> dict[str, Any]:
        least, most = (self._least, self._most) if self._ordered else (None, None)
        found = {
            "types": dict(sorted(self.kinds.items())),
            "nulls": rows - self.count,  # a row that lacks the column has null in it
            "distinct": self._distinct.estimate(),
            "distinct_exact": self._distinct.exact,
            "min": self._text(least),
            "max": self._text(most),
            "mean": self._sum / self._numbers if self._numbers else None,
        }
        return {**found, "max_length": self._longest} if "string" in self.kinds else found

    def _text(self, value: Any) -> Any:
        found = plain(value)
        return found[: self._SHOWN] if isinstance(found, str) else found


_KINDS: dict[type, str] = {
    bool: "boolean", int: "integer", float: "number", Decimal: "decimal", datetime: "datetime", date: "date", str: "string",
}  # fmt: skip


def kind_of(value: Any) -> str:
    """The name of a value's type, as `types` of sources has them."""
    for type_, name in _KINDS.items():  # bool before int, datetime before date
        if isinstance(value, type_):
            return name
    match value:
        case bytes():
            return "binary"
        case dict():
            return "object"
        case list():
            return "array"
    return type(value).__name__
