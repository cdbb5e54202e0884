"""Values of rows: what they may be, and how one kind becomes another."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.data.params import Type
from avtomatika.operations.errors import OperationError
from avtomatika.results import JSON

Row = dict[str, Any]
Batch = list[Row]
#: Rows that go through the steps together.
BATCH = 1000
#: Malformed rows that a result describes.
_DESCRIBED = 20

_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,4000}\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")
_BOOLEANS = {
    "true": True, "t": True, "yes": True, "y": True, "1": True,
    "false": False, "f": False, "no": False, "n": False, "0": False,
}  # fmt: skip


class Misfit(ValueError):
    """A value is not of the type that it is to have. The message does not show it."""


class BadRows:
    """Rows that are left out since they are malformed, as many as are allowed.

    Attributes:
        count: of them.
        described: the first ones: where they are, and why they are bad; never what is in them.
    """

    def __init__(self, limit: int, where: str) -> None:
        self.count = 0
        self.described: list[JSON] = []
        self._limit = limit
        self._where = where

    def add(self, reason: str, **place: int) -> None:
        """Raises OperationError (DATA_PARSING_FAILED) where this is one too many."""
        self.count += 1
        if len(self.described) < _DESCRIBED:
            self.described.append({**place, "reason": reason})
        if self.count > self._limit:
            first = self.described[0]
            at = ", ".join(f"{name} {number}" for name, number in first.items() if name != "reason")
            raise OperationError(
                TaskErrorCode.DATA_PARSING_FAILED,
                f"{self._where}, {at}: {first['reason']}" + (f" (and {self.count - 1} more)" if self.count > 1 else ""),
                details={"bad_rows": self.described, "max_bad_rows": self._limit},
            )


class Budget:
    """Memory for rows that have to be kept, counted as they come."""

    def __init__(self, bytes_: int, what: str) -> None:
        self._left = bytes_
        self._most = bytes_
        self._what = what

    def take(self, *values: Any) -> None:
        """Raises OperationError (DATA_SIZE_TOO_LARGE) where these values no longer fit."""
        self._left -= 100 + sum(map(sys.getsizeof, values))
        if self._left < 0:
            raise OperationError(
                TaskErrorCode.DATA_SIZE_TOO_LARGE,
                f"{self._what} needs more memory than {self._most} bytes: filter or aggregate first, or raise max_memory_mb "
                "in the policy's options",
            )


def cast(value: Any, type_: Type) -> Any:
    """The value as this type; null stays null. Raises Misfit."""
    if value is None:
        return None
    try:
        return _CASTS[type_](value)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
        raise Misfit(f"a value is no {type_}") from None


def _to_string(value: Any) -> str:
    return value if isinstance(value, str) else str(text(value))


def _to_integer(value: Any) -> int:
    if isinstance(value, str):
        if _INTEGER.fullmatch(value) is None:
            raise Misfit
        return int(value)
    if isinstance(value, float | Decimal) and value != int(value):
        raise Misfit
    return int(value) if isinstance(value, int | float | Decimal) else _refuse()


def _to_number(value: Any) -> float:
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            raise Misfit
        value = float(value)
    found = float(value) if isinstance(value, int | float | Decimal) else _refuse()
    return found if math.isfinite(found) else _refuse()


def _to_decimal(value: Any) -> Decimal:
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        raise Misfit
    if isinstance(value, float):
        value = repr(value)
    found = Decimal(value.strip() if isinstance(value, str) else value)
    return found if found.is_finite() else _refuse()


def _to_boolean(value: Any) -> bool:
    if isinstance(value, str):
        return _BOOLEANS[value.strip().lower()]
    return bool(value) if value in (0, 1) else _refuse()


def _to_date(value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else date.fromisoformat(value.strip())


def _to_datetime(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    return datetime.fromisoformat(value.strip())


def _refuse() -> Any:
    raise Misfit


_CASTS = {
    "string": _to_string,
    "integer": _to_integer,
    "number": _to_number,
    "decimal": _to_decimal,
    "boolean": _to_boolean,
    "date": _to_date,
    "datetime": _to_datetime,
}


def plain(value: Any) -> Any:
    """A value as JSON has it; what is no finite number is null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(bytes(value)).decode("ascii")
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [plain(item) for item in value]
    return str(value)  # Decimal, UUID


def text(value: Any) -> Any:
    """A value as CSV has it: null stays None."""
    found = plain(value)
    if isinstance(found, bool):
        return "true" if found else "false"
    return json.dumps(found, ensure_ascii=False) if isinstance(found, dict | list) else found
