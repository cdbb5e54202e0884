"""What a handler takes and answers, said beside it; the OpenAPI document is made of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the API.

    Attributes:
        body: the model of its JSON body, or a JSON schema; None where it takes none.
        body_required: false where it may be left out.
        query: the model of its query values.
        headers: the model of its own headers, beside the token's.
        answers: status -> the type of the JSON answer (a model, or anything that pydantic makes a schema of); None: no body.
        media_types: status -> the media types of an answer that is not JSON.
        errors: the documented error codes of its own; those that every call shares are added.
        example: a body that works.
        operation_id: its name in the document; the handler's own without one.
        listed: false leaves it out of the document: parts of a page, say.
    """

    summary: str
    tag: str
    description: str = ""
    body: Any = None
    body_required: bool = True
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    media_types: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    example: Any = None
    operation_id: str = ""
    listed: bool = True


def describe(summary: str, tag: str, **fields: Any) -> Callable[[F], F]:
    """Puts an `Operation` on a handler."""

    def add(handler: F) -> F:
        handler.operation = Operation(summary, tag, **fields)  # type: ignore[attr-defined]
        return handler

    return add


def operation_of(handler: Any) -> Operation | None:
    found: Operation | None = getattr(handler, "operation", None)
    return found
