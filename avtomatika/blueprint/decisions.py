"""What a handler's source says that it can decide: its calls on `actions`, with their literal targets."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from avtomatika.blueprint.actions import ActionFactory
from avtomatika.blueprint.options import APPROVAL_CHECKS, CHECKS, FAN_OUT_CHECKS, failure_policy
from avtomatika.blueprint.sites import Problem
from avtomatika.blueprint.source import FunctionNode, Scope, Strings, Table, Target, walk_calls
from avtomatika.errors import HandlerError

_METHODS = {
    name: tuple(p for p in inspect.signature(getattr(ActionFactory, name)).parameters if p != "self")
    for name in ("transition_to", "dispatch_task", "dispatch_parallel", "run_blueprint", "await_human_approval")
}
_KINDS = {
    "transition_to": "transition",
    "dispatch_task": "task",
    "dispatch_parallel": "parallel",
    "run_blueprint": "blueprint",
    "await_human_approval": "approval",
}
_OPTIONS: dict[str, Mapping[str, Callable[[str, Any], Any]]] = {
    "dispatch_task": CHECKS,
    # How many branches there will be is not written down.
    "dispatch_parallel": {**FAN_OUT_CHECKS, "on_failure": lambda _, value: failure_policy(value, sys.maxsize)},
    "await_human_approval": APPROVAL_CHECKS,
}
_ATTRIBUTES = frozenset(name for name in dir(ActionFactory) if not name.startswith("_"))
#: The status that leads a fan-out to its failure_state; its other targets, with aggregators, have none.
FAN_OUT_FAILED = "failure"
#: The status that leads a question to its on_timeout.
NOBODY_DECIDED = "timeout"

# What may be handed `context` or `actions` without being able to decide anything with it.
_HARMLESS = frozenset({"print", "repr", "str", "len", "type", "isinstance", "id", "bool"})
_LOGGING = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})


@dataclass(frozen=True, slots=True)
class Decision:
    """One call on `actions` that a handler's source holds.

    Attributes:
        kind: transition, task, parallel, blueprint, approval; or unknown: `actions` was handed on to other code.
        names: the tasks, the child blueprint, or the integration, as far as they are literal.
        is_open: whether there can be other names.
        targets: where it can lead; a state of None is any state.
        is_plain: whether it names a queue, so that the task is a plain Celery one, which no worker of ours declares.
    """

    kind: str
    line: int
    names: tuple[str, ...] = ()
    is_open: bool = False
    targets: tuple[Target, ...] = ()
    is_plain: bool = False


class FactoryUse:
    """Recognises `actions` in a handler's source, under its own name, as `context.actions`, or under a local alias."""

    def __init__(self, node: FunctionNode, scope: Scope) -> None:
        self._names = {"actions"}
        for child in ast.walk(node):
            match child:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if self.is_factory(value):
                    self._names.add(name)
        # A name that is sometimes something else cannot be followed.
        self._names -= {
            name
            for name in self._names
            if name != "actions" and any(value is None or not self.is_factory(value) for value in scope.assigned(name) or ())
        }

    def is_factory(self, node: ast.AST) -> bool:
        """Whether an expression is the action factory."""
        match node:
            case ast.Name(id=name):
                return name in self._names
            case ast.Attribute(value=ast.Name(id="context"), attr="actions"):
                return True
        return False

    def is_action(self, node: ast.AST) -> bool:
        """Whether an expression is a call that decides an action."""
        match node:
            case ast.Call(func=ast.Attribute(value=base, attr=method)):
                return method in _METHODS and self.is_factory(base)
        return False

    def hands_on(self, node: ast.AST) -> bool:
        """Whether an expression gives other code something to decide with: the factory, the context, a bound method."""
        match node:
            case ast.Attribute(value=base, attr=attr) if self.is_factory(base):
                return attr in _METHODS
            case ast.Name(id="context"):
                return True
        return self.is_factory(node)

    def only_looks(self, node: ast.AST) -> bool:
        """Whether an expression only reads of the context or the factory: context.job_id, actions.action, f"{context}"."""
        match node:
            case ast.Attribute(value=base) if self.is_factory(base) or self.hands_on(base):
                return not self.hands_on(node)
            case ast.FormattedValue(value=value):
                return self.hands_on(value)
        return False

    def arguments(self, call: ast.Call) -> list[ast.expr]:
        """The arguments of a call that matter: print and logging may be given anything."""
        match call.func:
            case ast.Name(id=name):
                harmless = name in _HARMLESS
            case ast.Attribute(attr=method):
                harmless = method in _LOGGING
            case _:
                harmless = False
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        return [argument for argument in arguments if not (harmless and self.hands_on(argument))]

    def may_decide(self, node: ast.AST) -> bool:
        """Whether running a piece of code may decide an action."""
        if self.is_action(node):
            return True
        if self.only_looks(node):
            return False
        if self.hands_on(node):
            return True
        if isinstance(node, ast.Call):
            return any(map(self.may_decide, (node.func, *self.arguments(node))))
        return any(map(self.may_decide, ast.iter_child_nodes(node)))


def find_decisions(node: FunctionNode, scope: Scope, use: FactoryUse) -> list[Decision]:
    """Every action that a handler's source can decide, in the order of the text."""
    return [_decision(call, scope) for call in walk_calls(node) if use.is_action(call)]


def _decision(call: ast.Call, scope: Scope) -> Decision:
    assert isinstance(call.func, ast.Attribute)
    method = call.func.attr
    names = Strings()
    match method:
        case "transition_to":
            table = _goes(scope.strings(_argument(call, method, "state")), call)
        case "dispatch_parallel":
            names = scope.task_names(_argument(call, method, "tasks"))
            table = _goes(scope.strings(_argument(call, method, "aggregate_into")), call)
            table |= _leads(call, scope, method, "failure_state", FAN_OUT_FAILED)
        case _:
            names = scope.strings(_argument(call, method, _METHODS[method][0]))
            if _given(call, method, "transitions"):
                table = scope.table(_argument(call, method, "transitions"))
            else:
                table = Table(open=_is_variadic(call))
            if table.open:
                table |= Table((Target(None, None, call.lineno),))
            if method == "await_human_approval":
                table |= _leads(call, scope, method, "on_timeout", NOBODY_DECIDED)
    queue = next((keyword.value for keyword in call.keywords if keyword.arg == "queue"), None)
    is_plain = queue is not None and not (isinstance(queue, ast.Constant) and queue.value is None)
    return Decision(_KINDS[method], call.lineno, names.names, names.open, table.targets, is_plain)


def _goes(states: Strings, call: ast.Call) -> Table:
    rest = (Target(None, None, call.lineno),) if states.open else ()
    return Table((*(Target(None, state, line) for state, line in states.values), *rest))


def _leads(call: ast.Call, scope: Scope, method: str, name: str, status: str) -> Table:
    """Where an argument leads that names a state, or None for none: a fan-out's failure_state, a question's on_timeout."""
    node = _argument(call, method, name)
    if node is None:
        return Table((Target(status, None, call.lineno),) if _is_variadic(call) else ())
    if isinstance(node, ast.Constant) and node.value is None:
        return Table()
    states = scope.strings(node)
    rest = (Target(status, None, node.lineno),) if states.open else ()
    return Table((*(Target(status, state, line) for state, line in states.values), *rest))


def _given(call: ast.Call, method: str, name: str) -> bool:
    return _argument(call, method, name) is not None


def _is_variadic(call: ast.Call) -> bool:
    return any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords)


def _argument(call: ast.Call, method: str, name: str) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    index = _METHODS[method].index(name)
    if index < len(call.args) and not any(isinstance(arg, ast.Starred) for arg in call.args[: index + 1]):
        return call.args[index]
    return None


def find_misuse(node: FunctionNode, file: str, use: FactoryUse) -> list[Problem]:
    """Calls on `actions` that cannot work: an unknown method, unknown or missing arguments, an await."""
    problems: list[Problem] = []
    for child in ast.walk(node):
        match child:
            case ast.Await(value=value) if use.is_action(value):
                problems.append(
                    Problem(
                        file, child.lineno, "an action is awaited, but decides at once and returns nothing", "remove the await"
                    )
                )
            case ast.Attribute(value=base, attr=attr) if use.is_factory(base) and attr not in _ATTRIBUTES:
                near = get_close_matches(attr, _METHODS, 1)
                fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(_METHODS)}"
                problems.append(Problem(file, child.lineno, f"actions has no method {attr!r}", fix))
            case ast.Call(func=ast.Attribute(attr=method)) if use.is_action(child):
                problems.extend(_misfits(child, method, file))
    return problems


def _misfits(call: ast.Call, method: str, file: str) -> list[Problem]:
    known = _METHODS[method]
    problems = [
        Problem(file, keyword.value.lineno, f"{method} has no argument {keyword.arg!r}", _known_arguments(keyword.arg, known))
        for keyword in call.keywords
        if keyword.arg is not None and keyword.arg not in known
    ]
    if not _is_variadic(call) and not problems:
        parameters = inspect.signature(getattr(ActionFactory, method)).parameters
        missing = [n for n in known if parameters[n].default is inspect.Parameter.empty and not _given(call, method, n)]
        problems.extend(Problem(file, call.lineno, f"{method} is called without {name!r}", f"pass {name}=…") for name in missing)
    return [*problems, *_bad_options(call, method, file), *_endless(call, method, file)]


def _bad_options(call: ast.Call, method: str, file: str) -> Iterator[Problem]:
    """Options that are written down literally and do not fit; the others are looked at when the action is decided."""
    for name, check in _OPTIONS.get(method, {}).items():
        node = _argument(call, method, name)
        if node is None:
            continue
        try:
            check(name, ast.literal_eval(node))
        except HandlerError as exc:
            message, _, fix = str(exc).partition("; ")
            yield Problem(file, node.lineno, f"{method}: {message}", fix or "correct the value")
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass  # not a literal


def _endless(call: ast.Call, method: str, file: str) -> Iterator[Problem]:
    """A question that says where to go after a time, and no time."""
    if method != "await_human_approval" or _is_variadic(call) or _given(call, method, "timeout_seconds"):
        return
    node = _argument(call, method, "on_timeout")
    if node is not None and not (isinstance(node, ast.Constant) and node.value is None):
        yield Problem(file, node.lineno, "await_human_approval: on_timeout is given and no time", "give timeout_seconds, too")


def _known_arguments(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
