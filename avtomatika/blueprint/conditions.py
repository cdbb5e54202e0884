"""The small language of `.when`: parsed with Python's own parser, compiled to closures over a whitelist, never eval'd.

A condition has three answers inside: true, false, and unanswerable (a key is missing, or `None < 3`). As in SQL, `not` of an
unanswerable part is unanswerable, `or` still takes a true alternative, and a condition that stays unanswerable does not hold.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import date
from typing import Any

from avtomatika.blueprint.context import JobContext
from avtomatika.errors import ConditionError

MAX_LENGTH = 1000
MAX_DEPTH = 50

FIELDS = ("initial_data", "state_history", "client", "job_id", "current_state", "tracing_context", "aggregation_results")

_LANGUAGE = (
    "== != < <= > >= in, not in, is None, and/or/not, parentheses, strings, numbers, True, False, None, and lists of those"
)
ALLOWED = f"allowed are paths (context.initial_data.a.b, a['key'], a[0]), {_LANGUAGE}"
ALLOWED_OF_ROWS = f"allowed are columns (amount, row['unit price']), {_LANGUAGE}"


class _Missing:
    __slots__ = ()


_MISSING = _Missing()
_Value = Callable[[JobContext], Any]
_Answer = Callable[[JobContext], bool | None]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}

_REFUSED: dict[type[ast.AST], str] = {
    ast.Call: "a call",
    ast.BinOp: "arithmetic",
    ast.Lambda: "a lambda",
    ast.IfExp: "an if expression",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "an assignment",
    ast.Await: "an await",
    ast.Slice: "a slice",
    ast.Starred: "a star",
    ast.Dict: "a dict",
    ast.Set: "a set (write a list)",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; call it with a JobContext."""

    text: str
    answer: _Answer

    def __call__(self, context: JobContext) -> bool:
        return self.answer(context) is True


def parse_condition(text: str) -> Condition:
    """Parses a condition; ConditionError names the column and what is allowed."""
    return Condition(text, _parse(text, _Compiler))


def parse_row_condition(text: str) -> Callable[[Mapping[str, Any]], bool]:
    """The same language for a row of data: a name is a column, and so is ``row['any name']``.

    A date or time in a row compares as text in ISO format: ``day >= '2026-01-31'``. A row that the condition cannot be
    answered for, since a value is missing or null, does not fit.
    """
    answer: Callable[[Any], bool | None] = _parse(text, _RowCompiler)
    return lambda row: answer(row) is True


def _parse(text: str, compiler: type[_Compiler]) -> _Answer:
    allowed = compiler.allowed
    if not isinstance(text, str):
        raise ConditionError(f"a condition is a string, not {type(text).__name__}; {allowed}")
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"a condition has at most {MAX_LENGTH} characters, this one has {len(text)}; shorten it")
    # One for one, so that columns stay: a condition may be wrapped over lines.
    flat = text.replace("\r", " ").replace("\n", " ").replace("\t", " ").replace("\f", " ")
    lead = len(flat) - len(flat.lstrip(" "))
    source = flat.strip(" ")
    if not source:
        raise ConditionError(f"a condition must not be empty; {allowed}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, mode="eval")
    except SyntaxError as exc:
        column = lead + (exc.offset or len(source) + 1)  # 0: where the text ends
        raise ConditionError(f"condition {text!r}, column {column}: {exc.msg}; {allowed}") from None
    except (ValueError, MemoryError, RecursionError) as exc:
        raise ConditionError(f"condition {text!r}, column {lead + 1}: cannot be read ({exc}); {allowed}") from None
    return compiler(text, source, lead).answer(tree.body, 0)


class _Compiler:
    allowed = ALLOWED

    def __init__(self, text: str, source: str, lead: int) -> None:
        self._text = text
        self._source = source.encode()
        self._lead = lead

    def refuse(self, node: ast.AST, what: str) -> ConditionError:
        before = self._source[: getattr(node, "col_offset", 0)].decode(errors="ignore")
        return ConditionError(f"condition {self._text!r}, column {self._lead + len(before) + 1}: {what}; {self.allowed}")

    def deeper(self, node: ast.AST, depth: int) -> int:
        if depth >= MAX_DEPTH:
            raise self.refuse(node, f"nested more than {MAX_DEPTH} levels deep")
        return depth + 1

    def answer(self, node: ast.expr, depth: int) -> _Answer:
        """A part that is true, false or unanswerable."""
        depth = self.deeper(node, depth)
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self.answer(value, depth) for value in values]
                return _any(parts) if isinstance(op, ast.Or) else _all(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self.answer(operand, depth))
            case ast.Compare():
                return self.comparison(node, depth)
        return _truth(self.value(node, depth))

    def comparison(self, node: ast.Compare, depth: int) -> _Answer:
        operands = [node.left, *node.comparators]
        for op, right in zip(node.ops, node.comparators, strict=True):
            constant = isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
            if isinstance(op, ast.Is | ast.IsNot) and not constant:
                raise self.refuse(right, "`is` compares with None, True or False only (write ==)")
        values = [self.value(operand, depth) for operand in operands]
        operators = [_COMPARISONS[type(op)] for op in node.ops]
        return _compare(values, operators)

    def value(self, node: ast.expr, depth: int) -> _Value:
        """A part that has a value: a path, a literal, or a logical part in parentheses."""
        depth = self.deeper(node, depth)
        match node:
            case ast.Constant():
                return _constant(self.literal(node, depth))
            case ast.UnaryOp(op=ast.USub()) | ast.List() | ast.Tuple():
                return _constant(self.literal(node, depth))
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp(op=ast.Not()):
                answer = self.answer(node, depth)
                return lambda context: _MISSING if (found := answer(context)) is None else found
            case ast.Name(id=name):
                return self.root(node, name)
            case ast.Attribute(value=base, attr=name):
                return self.attribute(node, base, name, depth)
            case ast.Subscript(value=base, slice=index):
                return _item(self.value(base, depth), self.key(index, depth))
        raise self.refuse(node, f"{_REFUSED.get(type(node), type(node).__name__)} is not allowed")

    def literal(self, node: ast.expr, depth: int) -> Any:
        depth = self.deeper(node, depth)
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, str | int | float):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if not isinstance(value, bool):
                return -value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self.literal(element, depth) for element in elements]
        raise self.refuse(node, f"{_REFUSED.get(type(node), 'this')} is not allowed in a literal")

    def key(self, node: ast.expr, depth: int) -> str | int:
        key = self.literal(node, depth)
        if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
            return key
        raise self.refuse(node, "a key in brackets is a string or a whole number")

    def root(self, node: ast.expr, name: str) -> _Value:
        if name in FIELDS:
            return operator.attrgetter(name)
        if name == "context":
            raise self.refuse(node, f"`context` needs a field: {', '.join(FIELDS)}")
        if name in ("true", "false", "null", "none"):
            proper = {"true": "True", "false": "False"}.get(name, "None")
            raise self.refuse(node, f"{name} is written {proper} here")
        raise self.refuse(node, f"{name} is unknown (context.initial_data.{name}? or, as a text, '{name}'?)")

    def attribute(self, node: ast.Attribute, base: ast.expr, name: str, depth: int) -> _Value:
        if name.startswith("_"):
            raise self.refuse(node, f"names that begin with _ are private (a key may be written ['{name}'])")
        if isinstance(base, ast.Name) and base.id == "context":
            if name not in FIELDS:
                raise self.refuse(node, f"context has no field {name} for conditions (it has {', '.join(FIELDS)})")
            return operator.attrgetter(name)
        return _item(self.value(base, depth), name, attribute=True)


class _RowCompiler(_Compiler):
    allowed = ALLOWED_OF_ROWS

    def root(self, node: ast.expr, name: str) -> _Value:
        if name in ("true", "false", "null", "none"):
            return super().root(node, name)
        return _column(name)

    def attribute(self, node: ast.Attribute, base: ast.expr, name: str, depth: int) -> _Value:
        raise self.refuse(node, "a column has no parts that a . could name")

    def value(self, node: ast.expr, depth: int) -> _Value:
        match node:
            case ast.Subscript(value=ast.Name(id="row"), slice=ast.Constant(value=str() as name)):
                return _column(name)
            case ast.Name(id="row"):
                raise self.refuse(node, "row needs a column: row['name']")
        return super().value(node, depth)


def _column(name: str) -> _Value:
    def column(row: Any) -> Any:
        found = row.get(name, _MISSING)
        return found.isoformat() if isinstance(found, date) else found

    return column


def _constant(value: Any) -> _Value:
    return lambda context: value


def _item(base: _Value, key: str | int, attribute: bool = False) -> _Value:
    def item(context: JobContext) -> Any:
        found = base(context)
        if isinstance(found, Mapping):
            return found.get(key, _MISSING)
        if isinstance(found, list | tuple) and isinstance(key, int):
            return found[key] if -len(found) <= key < len(found) else _MISSING
        if attribute and is_dataclass(found) and key in found.__dataclass_fields__:
            return getattr(found, str(key))
        return _MISSING

    return item


def _truth(value: _Value) -> _Answer:
    def truth(context: JobContext) -> bool | None:
        found = value(context)
        return None if found is _MISSING else bool(found)

    return truth


def _not(part: _Answer) -> _Answer:
    def negation(context: JobContext) -> bool | None:
        found = part(context)
        return None if found is None else not found

    return negation


def _all(parts: list[_Answer]) -> _Answer:
    def conjunction(context: JobContext) -> bool | None:
        result: bool | None = True
        for part in parts:
            found = part(context)
            if found is False:
                return False
            if found is None:
                result = None
        return result

    return conjunction


def _any(parts: list[_Answer]) -> _Answer:
    def disjunction(context: JobContext) -> bool | None:
        result: bool | None = False
        for part in parts:
            found = part(context)
            if found is True:
                return True
            if found is None:
                result = None
        return result

    return disjunction


def _compare(values: list[_Value], operators: list[Callable[[Any, Any], Any]]) -> _Answer:
    def comparison(context: JobContext) -> bool | None:
        left = values[0](context)
        for compare, operand in zip(operators, values[1:], strict=True):
            right = operand(context)
            if left is _MISSING or right is _MISSING:
                return None
            try:
                if not compare(left, right):
                    return False
            except (TypeError, ValueError, RecursionError):
                return None
            left = right
        return True

    return comparison
