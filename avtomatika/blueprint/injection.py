"""How a handler gets its arguments: by name, from the job's context, then state_history, then initial_data.

The context's `succeeded`, `failed` and `missing` are there for aggregators only; elsewhere these are names as any others.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from avtomatika.blueprint.context import JobContext
from avtomatika.errors import HandlerError

AGGREGATION_FIELDS = ("succeeded", "failed", "missing")
CONTEXT_FIELDS = tuple(f.name for f in fields(JobContext) if f.name not in AGGREGATION_FIELDS)
_FIELD_SET = frozenset(CONTEXT_FIELDS)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a function asks for, found out once.

    Attributes:
        context: whether it asks for the whole object as `context`.
        fields: the fields of the JobContext that it asks for.
        data: other names, each with whether it has a default.
        rest: whether it takes `**kwargs`: all of initial_data and state_history that has no name of its own.
        is_async: whether it is a coroutine function; a plain one runs in a thread.
    """

    func: Callable[..., Any]
    context: str | None
    fields: tuple[str, ...]
    data: tuple[tuple[str, bool], ...]
    rest: bool
    is_async: bool

    async def call(self, context: JobContext, who: str) -> Any:
        """Calls the function with its arguments and returns what it returns."""
        arguments = self.arguments(context, who)
        if self.is_async:
            return await self.func(**arguments)
        result = await asyncio.to_thread(_run, self.func, arguments)
        return await result if inspect.isawaitable(result) else result

    def arguments(self, context: JobContext, who: str) -> dict[str, Any]:
        """The arguments by name; HandlerError for a name that is found nowhere and has no default."""
        out: dict[str, Any] = {}
        if self.context is not None:
            out[self.context] = context
        for name in self.fields:
            out[name] = getattr(context, name)
        history, initial = context.state_history, context.initial_data
        own = AGGREGATION_FIELDS if context.is_aggregation else ()
        for name, has_default in self.data:
            if name in own:
                out[name] = getattr(context, name)
            elif name in history:
                out[name] = history[name]
            elif name in initial:
                out[name] = initial[name]
            elif not has_default:
                raise HandlerError(_missing(name, who, context))
        if self.rest:
            for source in (history, initial):
                for name, value in source.items():
                    if name not in _FIELD_SET and name not in own and name != "context":
                        out.setdefault(name, value)
        return out


def plan(func: Callable[..., Any]) -> Plan:
    """Reads a function's signature; ValueError says what does not fit and how to mend it."""
    inner = func.func if isinstance(func, partial) else func
    if not (inspect.isfunction(inner) or inspect.ismethod(inner)):
        raise ValueError(f"a handler is a function, not {type(func).__name__}; write `async def` below the decorator")
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ValueError("a handler must not yield; return a value, or decide an action, instead")
    whole: str | None = None
    wanted: list[str] = []
    data: list[tuple[str, bool]] = []
    rest = False
    for name, parameter in inspect.signature(func).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise ValueError(f"arguments are injected by name, *{name} has none; name each argument")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ValueError(f"arguments are injected by name, {name} is positional only; remove the / from the signature")
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = True
        elif name == "context":
            whole = name
        elif name in _FIELD_SET:
            wanted.append(name)
        else:
            data.append((name, parameter.default is not parameter.empty))
    return Plan(func, whole, tuple(wanted), tuple(data), rest, inspect.iscoroutinefunction(inner))


def _run(func: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return func(**arguments)
    except StopIteration as exc:
        # A future cannot carry a StopIteration: whoever awaits it would wait for ever.
        raise RuntimeError("the handler let a StopIteration out") from exc


def _missing(name: str, who: str, context: JobContext) -> str:
    known = (*CONTEXT_FIELDS, *(AGGREGATION_FIELDS if context.is_aggregation else ()))

    def listed(values: Any) -> str:
        return ", ".join(sorted(map(str, values))) or "nothing"

    return (
        f"{who} asks for {name!r}, which is found nowhere; available are `context`, {', '.join(known)}; "
        f"from state_history: {listed(context.state_history)}; from initial_data: {listed(context.initial_data)}. "
        f"Give {name} a default, or let the job or an earlier step provide it"
    )
