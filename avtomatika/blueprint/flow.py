"""How many actions each path through a handler decides: none and two are errors where the path is certain.

A path is followed through if, match, try, with, loops, return and raise. Paths that depend on two conditions at once, or on how
often a loop runs, may be impossible: what is found only on those is a warning. A handler that hands `actions` on to other code
may decide there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from avtomatika.blueprint.decisions import FactoryUse
from avtomatika.blueprint.source import FunctionNode

_MAX_PATHS = 400
_MAX_STEPS = 50_000
_NEVER_RETURN = frozenset({"assert_never", "exit", "fail", "abort", "_exit"})


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the code so far.

    Attributes:
        actions: how many were decided, 2 at most.
        unknown: other code had `actions` in hand, so that nothing is certain any more.
        skipped: how many branches were passed by in which an action would have been decided.
        where: the line of the last one of those.
        first: line and column of the first action; `branches`: the branches in which it lies.
    """

    actions: int = 0
    unknown: bool = False
    skipped: int = 0
    where: int = 0
    first: tuple[int, int] = (0, 0)
    branches: tuple[int, ...] = ()


Paths = frozenset[Path]
_Run = Callable[[Paths], Paths]
_START: Paths = frozenset({Path()})
_NONE: Paths = frozenset()


@dataclass(slots=True)
class FlowResult:
    """What the paths through a handler show; each finding is a line.

    Attributes:
        missing: paths that surely end without an action; `maybe_missing`: those that perhaps exist.
        double: (line of the second action, line of the first) on one certain path.
        repeated: actions that a loop runs again.
        raises: whether some path ends in an exception of the handler's own.
        hands_on: whether other code may decide.
        completes: whether some path ends without an exception.
    """

    missing: set[int] = field(default_factory=set)
    maybe_missing: set[int] = field(default_factory=set)
    double: set[tuple[int, int]] = field(default_factory=set)
    repeated: set[int] = field(default_factory=set)
    raises: bool = False
    hands_on: bool = False
    completes: bool = False


class _TooManyPaths(Exception):
    """The code branches too much to follow every path."""


def analyze_flow(node: FunctionNode, use: FactoryUse) -> FlowResult:
    """Follows every path through a handler."""
    flow = _Flow(node, use)
    try:
        if isinstance(node, ast.Lambda):
            flow.end(flow.effects(node.body, _START), 0)
        else:
            flow.end(flow.block(node.body, _START), 0)
    except (_TooManyPaths, RecursionError):
        return FlowResult(raises=True, hands_on=True, completes=True)
    return flow.finish()


class _Flow:
    def __init__(self, node: FunctionNode, use: FactoryUse) -> None:
        self._node = node
        self._use = use
        self._result = FlowResult()
        self._branch: list[int] = []
        self._branches = 0
        self._steps = 0
        self._exits: list[tuple[Path, int]] = []
        self._breaks: list[set[Path]] = []
        self._continues: list[set[Path]] = []

    def end(self, paths: Paths, line: int) -> None:
        """Notes the paths that end here; a line of 0 is the end of the body."""
        self._exits.extend((path, line) for path in paths)

    def finish(self) -> FlowResult:
        result = self._result
        for path, line in self._exits:
            result.completes = True
            if path.actions == 0 and not path.unknown:
                where = line or path.where or self._node.lineno
                (result.missing if path.skipped <= 1 else result.maybe_missing).add(where)
        result.maybe_missing -= result.missing
        return result

    def block(self, body: Iterable[ast.stmt], paths: Paths) -> Paths:
        for statement in body:
            if not paths:
                break
            self._steps += 1
            paths = self.statement(statement, paths)
            if self._steps > _MAX_STEPS or len(paths) > _MAX_PATHS or len(self._exits) > 10 * _MAX_PATHS:
                raise _TooManyPaths
        return paths

    def statement(self, node: ast.stmt, paths: Paths) -> Paths:
        match node:
            case ast.Return(value=value):
                self.end(self.effects(value, paths), node.lineno)
                return _NONE
            case ast.Raise():
                self._result.raises = True
                return _NONE
            case ast.Assert(test=test):
                self._result.raises = True
                return _NONE if _constant(test) is False else self.effects(test, paths)
            case ast.Break() | ast.Continue():
                stack = self._breaks if isinstance(node, ast.Break) else self._continues
                stack[-1].update(paths)
                return _NONE
            case ast.If(test=test, body=body, orelse=orelse):
                return self.choose(node, self.effects(test, paths), [body, orelse], _constant(test))
            case ast.Match(subject=subject, cases=cases):
                bodies: list[list[ast.stmt]] = [case.body for case in cases]
                if not any(_irrefutable(case) for case in cases):
                    bodies.append([])
                return self.choose(node, self.effects(subject, paths), bodies, None)
            case ast.For() | ast.AsyncFor() | ast.While():
                return self.loop(node, paths)
            case ast.Try() | ast.TryStar():
                return self.attempt(node, paths)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                for item in items:
                    paths = self.effects(item.context_expr, paths)
                return self.block(body, paths)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                return self.unknown(paths) if self._use.may_decide(node) else paths
            case ast.Assign(targets=[ast.Name()], value=value) if self._use.is_factory(value):
                return paths  # an alias
            case ast.Expr(value=ast.Call(func=func)) if _name(func) in _NEVER_RETURN:
                self._result.raises = True
                return _NONE
        for child in ast.iter_child_nodes(node):
            paths = self.effects(child, paths)
        return paths

    def choose(self, node: ast.stmt | ast.expr, paths: Paths, bodies: list[list[ast.stmt]], constant: bool | None) -> Paths:
        """Exactly one of several bodies runs."""
        runs: list[_Run] = [partial(self.block, body) for body in bodies]
        if constant is not None:
            return runs[0 if constant else 1](paths)
        acts = any(self._use.may_decide(statement) for body in bodies for statement in body)
        return self.branches(node.lineno, paths, runs, acts)

    def branches(self, line: int, paths: Paths, runs: list[_Run], acts: bool) -> Paths:
        out: set[Path] = set()
        for run in runs:
            for path in paths:
                before = len(self._exits)
                with _Branch(self):
                    after = run(frozenset({path}))
                if acts:
                    after = frozenset(_passed(old=path, new=new, line=line) for new in after)
                    self._exits[before:] = [(_passed(path, new, line), at) for new, at in self._exits[before:]]
                out |= after
        return frozenset(out)

    def loop(self, node: ast.For | ast.AsyncFor | ast.While, paths: Paths) -> Paths:
        endless = isinstance(node, ast.While) and _constant(node.test) is True
        paths = self.effects(node.test if isinstance(node, ast.While) else node.iter, paths)
        acts = any(self._use.may_decide(statement) for statement in node.body)
        self._breaks.append(set())
        self._continues.append(set())
        rounds: set[Path] = set()
        current = paths
        for _ in range(2):  # the second round shows what a loop does twice
            with _Branch(self):
                current = self.block(node.body, current) | frozenset(self._continues[-1])
            self._continues[-1].clear()
            rounds |= current
        broken = frozenset(self._breaks.pop())
        self._continues.pop()
        after: Paths = _NONE
        if not endless:
            # How often a loop runs is not to be seen, so that passing an action by in it proves nothing.
            around = frozenset(rounds) | paths
            after = frozenset(
                replace(p, skipped=p.skipped + 2, where=node.lineno) if acts and not p.actions else p for p in around
            )
            after = self.block(node.orelse, after)
        return after | broken

    def attempt(self, node: ast.Try | ast.TryStar, paths: Paths) -> Paths:
        before = len(self._exits)
        raises = self._result.raises
        out = self.block(node.orelse, self.block(node.body, paths))
        if node.handlers:
            self._result.raises = raises  # what the body raises may be caught
        for handler in node.handlers:
            # An exception comes before the action that the body would have decided, or there would be two.
            with _Branch(self):
                out |= self.block(handler.body, paths)
        if any(self._use.may_decide(statement) for statement in node.finalbody):
            self._exits[before:] = [(replace(path, unknown=True), line) for path, line in self._exits[before:]]
        return self.block(node.finalbody, out)

    def effects(self, node: ast.AST | None, paths: Paths) -> Paths:
        """Evaluates an expression: the actions in it, and what hands `actions` on."""
        if node is None or not paths:
            return paths
        match node:
            case ast.IfExp(test=test, body=body, orelse=orelse):
                runs: list[_Run] = [partial(self.effects, part) for part in (body, orelse)]
                return self.branches(node.lineno, self.effects(test, paths), runs, self._use.may_decide(node))
            case ast.BoolOp(values=[first, *others]):
                paths = self.effects(first, paths)
                for other in others:
                    runs = [partial(self.effects, other), _nothing]
                    paths = self.branches(node.lineno, paths, runs, self._use.may_decide(other))
                return paths
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return self.unknown(paths) if self._use.may_decide(node) else paths
            case ast.Call():
                return self.call(node, paths)
        if self._use.only_looks(node):
            return paths
        if self._use.hands_on(node):
            return self.unknown(paths)
        for child in ast.iter_child_nodes(node):
            paths = self.effects(child, paths)
        return paths

    def call(self, node: ast.Call, paths: Paths) -> Paths:
        acts = self._use.is_action(node)
        if not acts:
            paths = self.effects(node.func, paths)
        for child in self._use.arguments(node):
            paths = self.effects(child, paths)
        return self.act(node, paths) if acts else paths

    def act(self, node: ast.Call, paths: Paths) -> Paths:
        here = tuple(self._branch)
        place = (node.lineno, node.col_offset)
        out: set[Path] = set()
        for path in paths:
            if path.unknown:
                out.add(path)
            elif path.actions == 0:
                out.add(replace(path, actions=1, first=place, branches=here))
            else:
                if path.first == place:
                    self._result.repeated.add(node.lineno)
                elif path.branches[: len(here)] == here:
                    # Whoever decided the first comes by here for certain.
                    self._result.double.add((node.lineno, path.first[0]))
                out.add(replace(path, actions=2))
        return frozenset(out)

    def unknown(self, paths: Paths) -> Paths:
        self._result.hands_on = True
        return frozenset(replace(path, unknown=True) for path in paths)


class _Branch:
    """The code inside runs only on some condition; each gets a number of its own."""

    def __init__(self, flow: _Flow) -> None:
        self._flow = flow

    def __enter__(self) -> None:
        self._flow._branches += 1
        self._flow._branch.append(self._flow._branches)

    def __exit__(self, *exc: object) -> None:
        self._flow._branch.pop()


def _nothing(paths: Paths) -> Paths:
    return paths


def _passed(old: Path, new: Path, line: int) -> Path:
    """Counts a branch that was passed by although another one of the same choice decides."""
    if new.actions == old.actions == 0 and new.skipped == old.skipped:
        return replace(new, skipped=new.skipped + 1, where=line)
    return new


def _constant(test: ast.expr) -> bool | None:
    return bool(test.value) if isinstance(test, ast.Constant) else None


def _irrefutable(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def _name(func: ast.expr) -> str:
    match func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""
