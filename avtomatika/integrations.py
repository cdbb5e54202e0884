"""Integrations: how people come to hear of a question. The built-in ones' names, and those that a blueprint's file adds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from avtomatika.errors import ConfigurationError

LOG, WEBHOOK = "log", "webhook"
BUILT_IN = (LOG, WEBHOOK)


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A question to a person.

    Attributes:
        decisions: what may be answered.
        token: answers this question, once. It is a secret: whoever has it decides.
        links: ``decide`` takes POST of ``{"decision", "token"}``; ``job`` is the job in the client API.
        expires_at: seconds since the epoch; None for a question that waits as long as it takes.
        client: the name of the client whose job it is.
        id: names the question; a repeated request has the same one.
        integration: the one that is to pass it on.
        options: what the handler gave as `options`.
    """

    job_id: str
    blueprint_name: str
    message: str
    decisions: tuple[str, ...]
    token: str = field(repr=False)
    links: dict[str, str]
    expires_at: float | None = None
    client: str = ""
    id: str = ""
    integration: str = ""
    options: dict[str, Any] = field(default_factory=dict)


Ask = Callable[[ApprovalRequest], Awaitable[object]]
A = TypeVar("A", bound=Ask)

_known: dict[str, Ask] = {}


def integration(name: str) -> Callable[[A], A]:
    """Makes an async function an integration that `await_human_approval` can name. Every orchestrator has to load it.

    It passes the request on, and returns once that is done; one that raises is called again later, with the same request.
    """

    def register(ask: A) -> A:
        register_integration(name, ask)
        return ask

    return register


def register_integration(name: str, ask: Ask) -> None:
    """The same without a decorator.

    Raises:
        ConfigurationError: the name is empty or taken, or this is no async function.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"an integration needs a name: write @integration('mail'), not @integration({name!r})")
    if not (inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(getattr(ask, "__call__", None))):  # noqa: B004
        raise ConfigurationError(f"integration {name!r} must be an async function of one request, not {ask!r}")
    taken = _known.get(name)
    if name in BUILT_IN or (taken is not None and _origin(taken) != _origin(ask)):
        raise ConfigurationError(f"there is an integration {name!r} already: give this one another name")
    _known[name] = ask


def _origin(ask: Any) -> tuple[object, ...]:
    """Where a function stands: a file that is loaded once more brings the same ones again."""
    code = getattr(ask, "__code__", None)
    return (ask,) if code is None else (code.co_filename, code.co_firstlineno, code.co_qualname)


def known() -> tuple[str, ...]:
    """The names that `await_human_approval` can be given."""
    return tuple(sorted((*BUILT_IN, *_known)))


def find(name: str) -> Ask | None:
    """An integration that was added; the built-in ones are the engine's."""
    return _known.get(name)
