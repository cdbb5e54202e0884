"""Arithmetic over a row's columns: parsed with Python's own parser, compiled to closures over a whitelist, never eval'd."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from avtomatika.errors import ConditionError

MAX_LENGTH = 1000
MAX_DEPTH = 50
ALLOWED = "allowed are columns (amount, row['unit price']), numbers, strings, + - * / // %, and parentheses"

Row = Mapping[str, Any]
Expression = Callable[[Row], Any]

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class CannotCompute(ValueError):
    """An expression has no value for a row."""


def parse_expression(text: str) -> Expression:
    """A function that computes it for a row; None where a part of it is null.

    Raises:
        ConditionError: it is not of this language.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"an expression has at most {MAX_LENGTH} characters, this one has {len(text)}; shorten it")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as exc:
        raise ConditionError(f"expression {text!r} cannot be read: {getattr(exc, 'msg', exc)}; {ALLOWED}") from None
    return _compile(tree.body, text, 0)


def _compile(node: ast.expr, text: str, depth: int) -> Expression:
    if depth > MAX_DEPTH:
        raise ConditionError(f"expression {text!r} is nested more than {MAX_DEPTH} levels deep")
    match node:
        case ast.Constant(value=int() | float() | str() as value) if not isinstance(value, bool):
            return lambda row: value
        case ast.Name(id=name) if name != "row":
            return _column(name)
        case ast.Subscript(value=ast.Name(id="row"), slice=ast.Constant(value=str() as name)):
            return _column(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _operation(operator.sub, lambda row: 0, _compile(operand, text, depth + 1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _operation(_OPERATORS[type(op)], _compile(left, text, depth + 1), _compile(right, text, depth + 1))
    raise ConditionError(f"expression {text!r}, column {node.col_offset + 1}: {type(node).__name__} is not allowed; {ALLOWED}")


def _column(name: str) -> Expression:
    def column(row: Row) -> Any:
        if name not in row:
            raise CannotCompute(f"there is no column {name!r}")
        return row[name]

    return column


def _operation(compute: Callable[[Any, Any], Any], left: Expression, right: Expression) -> Expression:
    def operation(row: Row) -> Any:
        a, b = left(row), right(row)
        if a is None or b is None:
            return None
        if isinstance(a, str) and isinstance(b, str) and compute is operator.add:
            return a + b
        if not _is_number(a) or not _is_number(b):
            raise CannotCompute(f"{type(a).__name__} and {type(b).__name__} do not go together here")
        if isinstance(a, Decimal) and isinstance(b, float):
            b = Decimal(repr(b))
        elif isinstance(b, Decimal) and isinstance(a, float):
            a = Decimal(repr(a))
        try:
            return compute(a, b)
        except (ZeroDivisionError, OverflowError, InvalidOperation) as exc:
            raise CannotCompute(f"{type(exc).__name__}") from None

    return operation


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
