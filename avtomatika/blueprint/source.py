"""The source of a handler as a syntax tree, and what its names mean where that is written down literally."""

from __future__ import annotations

import ast
import enum
import inspect
import linecache
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_MAX_DEPTH = 20
_UNKNOWN = object()


class Sources:
    """Syntax trees of files, each parsed once."""

    def __init__(self) -> None:
        self._functions: dict[str, list[FunctionNode] | None] = {}

    def find(self, func: Callable[..., Any]) -> tuple[FunctionNode, Any] | None:
        """The node of a function and the plain function it belongs to; None where no source is at hand."""
        plain = inspect.unwrap(func.func if isinstance(func, partial) else func)
        plain = getattr(plain, "__func__", plain)
        code = getattr(plain, "__code__", None)
        if code is None:
            return None
        found = [node for node in self._of(code.co_filename, plain.__globals__) if _begins(node) == code.co_firstlineno]
        named = [node for node in found if getattr(node, "name", "<lambda>") == code.co_name]
        return (named[0], plain) if len(named) == 1 else None

    def _of(self, file: str, module: dict[str, Any]) -> list[FunctionNode]:
        if file not in self._functions:
            linecache.checkcache(file)
            text = "".join(linecache.getlines(file, module))
            try:
                tree = ast.parse(text) if text else None
            except (SyntaxError, ValueError):
                tree = None
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
            self._functions[file] = None if tree is None else [n for n in ast.walk(tree) if isinstance(n, kinds)]
        return self._functions[file] or []


def _begins(node: FunctionNode) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


@dataclass(frozen=True, slots=True)
class Strings:
    """The literal strings that an expression can be, each with its line; `open` where it can be others, too."""

    values: tuple[tuple[str, int], ...] = ()
    open: bool = False

    def __or__(self, other: Strings) -> Strings:
        return Strings(self.values + other.values, self.open or other.open)

    @property
    def names(self) -> tuple[str, ...]:
        """Each string once."""
        return tuple(dict.fromkeys(value for value, _ in self.values))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a status leads. A status of None is any status, a state of None any state."""

    status: str | None
    state: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A transitions dict, as far as it is literal."""

    targets: tuple[Target, ...] = ()
    open: bool = False

    def __or__(self, other: Table) -> Table:
        return Table(self.targets + other.targets, self.open or other.open)


@dataclass(slots=True)
class Scope:
    """The names inside one handler: what is assigned to locals, and the real values of globals and closures."""

    node: FunctionNode
    func: Any
    _assigned: dict[str, list[ast.expr | None]] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _appended: dict[str, list[ast.expr]] = field(default_factory=dict)
    _outer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._collect()
        self._outer = dict(self.func.__globals__)
        for name, cell in zip(self.func.__code__.co_freevars, self.func.__closure__ or (), strict=False):
            try:
                self._outer[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                self._outer.pop(name, None)

    def assigned(self, name: str) -> list[ast.expr | None] | None:
        """What is assigned to a local name (None for what cannot be seen); None where the name is no local."""
        return self._assigned.get(name)

    def _collect(self) -> None:
        for node in ast.walk(self.node):
            match node:
                case ast.arg(arg=name):
                    self._bind(name, None)
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._bind_target(target, value)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._bind_target(target, value)
                case ast.NamedExpr(target=target, value=value):
                    self._bind_target(target, value)
                case ast.AugAssign(target=target):
                    self._bind_target(target, None)
                case ast.For(target=target) | ast.AsyncFor(target=target) | ast.comprehension(target=target):
                    self._bind_target(target, None)
                case ast.withitem(optional_vars=ast.expr() as target):
                    self._bind_target(target, None)
                case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
                    self._bind(name, None)
                case ast.Global(names=names) | ast.Nonlocal(names=names):
                    for name in names:
                        self._bind(name, None)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method), args=args):
                    if method == "append" and len(args) == 1:
                        self._appended.setdefault(name, []).append(args[0])
                    elif method not in ("get", "keys", "items", "values", "copy"):
                        self._changed.add(name)

    def _bind(self, name: str, value: ast.expr | None) -> None:
        self._assigned.setdefault(name, []).append(value)

    def _bind_target(self, target: ast.expr, value: ast.expr | None) -> None:
        match target:
            case ast.Name(id=name):
                self._bind(name, value)
            case ast.Subscript(value=ast.Name(id=name)):
                self._changed.add(name)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                for element in elements:
                    self._bind_target(element, None)
            case ast.Starred(value=inner):
                self._bind_target(inner, None)

    def strings(self, node: ast.expr | None, depth: int = 0) -> Strings:
        """The literal strings that an expression can be."""
        if node is None or depth > _MAX_DEPTH:
            return Strings(open=True)
        match node:
            case ast.Constant(value=str() as value):
                return Strings(((value, node.lineno),))
            case ast.IfExp(body=body, orelse=orelse):
                return self.strings(body, depth + 1) | self.strings(orelse, depth + 1)
            case ast.BoolOp(values=values):
                return _union(self.strings(value, depth + 1) for value in values)
            case ast.NamedExpr(value=value):
                return self.strings(value, depth + 1)
            case ast.Name(id=name) if name in self._assigned:
                return _union(self.strings(value, depth + 1) for value in self._assigned[name])
        value = self._outer_value(node)
        return Strings(((str(value), node.lineno),)) if isinstance(value, str) else Strings(open=True)

    def table(self, node: ast.expr | None, depth: int = 0) -> Table:
        """The statuses and states of a transitions dict."""
        if node is None or depth > _MAX_DEPTH:
            return Table(open=True)
        match node:
            case ast.Constant(value=None):
                return Table()
            case ast.Dict(keys=keys, values=values):
                parts = [
                    self.table(value, depth + 1) if key is None else self._row(self.strings(key, depth + 1), value, depth)
                    for key, value in zip(keys, values, strict=True)
                ]
                return _tables(parts)
            case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords):
                parts = [self.table(arg, depth + 1) for arg in args]
                for keyword in keywords:
                    if keyword.arg is None:
                        parts.append(self.table(keyword.value, depth + 1))
                    else:
                        parts.append(self._row(Strings(((keyword.arg, keyword.value.lineno),)), keyword.value, depth))
                return _tables(parts)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                return self.table(left, depth + 1) | self.table(right, depth + 1)
            case ast.IfExp(body=body, orelse=orelse):
                return self.table(body, depth + 1) | self.table(orelse, depth + 1)
            case ast.Name(id=name) if name in self._assigned:
                known = _tables([self.table(value, depth + 1) for value in self._assigned[name]])
                return known | Table(open=name in self._changed)
        value = self._outer_value(node)
        if isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair):
            return Table(tuple(Target(str(k), str(v), node.lineno) for k, v in value.items()))
        return Table(open=True)

    def _row(self, statuses: Strings, value: ast.expr, depth: int) -> Table:
        states = self.strings(value, depth + 1)
        targets = [
            Target(status, state, line)
            for status in (statuses.names or (None,))
            for state, line in (*states.values, *(((None, value.lineno),) if states.open else ()))
        ]
        return Table(tuple(targets))

    def task_names(self, node: ast.expr | None, depth: int = 0) -> Strings:
        """The names of the tasks in the list of a fan-out."""
        if node is None or depth > _MAX_DEPTH:
            return Strings(open=True)
        match node:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return _union(self._item_name(element, depth + 1) for element in elements)
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                return self._item_name(element, depth + 1)
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self.task_names(left, depth + 1) | self.task_names(right, depth + 1)
            case ast.IfExp(body=body, orelse=orelse):
                return self.task_names(body, depth + 1) | self.task_names(orelse, depth + 1)
            case ast.Name(id=name) if name in self._assigned:
                known = _union(self.task_names(value, depth + 1) for value in self._assigned[name])
                more = _union(self._item_name(value, depth + 1) for value in self._appended.get(name, ()))
                return known | more | Strings(open=name in self._changed)
        return Strings(open=True)

    def _item_name(self, node: ast.expr | None, depth: int) -> Strings:
        match node:
            case ast.Starred(value=inner):
                return self.task_names(inner, depth + 1)
            case ast.Dict(keys=keys, values=values):
                for wanted in ("task_type", "type"):
                    for key, value in zip(keys, values, strict=True):
                        if isinstance(key, ast.Constant) and key.value == wanted:
                            return self.strings(value, depth + 1)
            case ast.Call(func=ast.Name(id="dict"), keywords=keywords):
                for keyword in keywords:
                    if keyword.arg in ("task_type", "type"):
                        return self.strings(keyword.value, depth + 1)
            case ast.Name(id=name) if name in self._assigned and depth < _MAX_DEPTH:
                return _union(self._item_name(value, depth + 1) for value in self._assigned[name])
        return Strings(open=True)

    def _outer_value(self, node: ast.expr) -> Any:
        """The real value of a global, of a closure's name, or of a constant of a class, an Enum or a module."""
        match node:
            case ast.Name(id=name) if name not in self._assigned:
                return self._outer.get(name, _UNKNOWN)
            case ast.Attribute(value=base, attr=attr):
                holder = self._outer_value(base)
                if isinstance(holder, ModuleType | type | enum.Enum):
                    return getattr(holder, attr, _UNKNOWN)
        return _UNKNOWN


def _union(parts: Iterable[Strings]) -> Strings:
    out = Strings()
    for part in parts:
        out |= part
    return out


def _tables(parts: Iterable[Table]) -> Table:
    out = Table()
    for part in parts:
        out |= part
    return out


def walk_calls(node: ast.AST) -> Iterator[ast.Call]:
    """Every call below a node, in the order of the text."""
    calls = [child for child in ast.walk(node) if isinstance(child, ast.Call)]
    yield from sorted(calls, key=lambda call: (call.lineno, call.col_offset))
