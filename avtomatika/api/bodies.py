"""Bodies and query values: read, checked, and refused in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from avtomatika.api.middleware import RequestError
from avtomatika.jobs import JSON

M = TypeVar("M", bound=BaseModel)
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NewJob(BaseModel):
    """The body of ``POST /api/v1/jobs``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    blueprint: Word
    initial_data: dict[str, Any] = Field(default_factory=dict)
    priority: float = Field(0.0, ge=0, le=10, allow_inf_nan=False)
    tags: list[Word] = Field(default_factory=list, max_length=50)


class Decision(BaseModel):
    """The body of ``POST /api/v1/jobs/{id}/decide``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: Word
    comment: str | None = None


async def read_object(request: web.Request) -> JSON:
    """The body as a JSON object; 400 where it is none, 413 where it is too large."""
    raw = await request.read()
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise RequestError(
            400, f"the body is not JSON: {reason}" if raw.strip() else "the body is empty: send a JSON object"
        ) from None
    if not isinstance(value, dict):
        raise RequestError(400, f"the body must be a JSON object, not {_kind(value)}")
    return value


def parse(model: type[M], value: JSON, required: str) -> M:
    """The body as a model: 400 where the required name is missing, 422 for any other misfit."""
    if value.get(required) in (None, ""):
        raise RequestError(400, f"{required!r} is missing")
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        words = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False, include_input=False)
        )
        known = ", ".join(model.model_fields)
        raise RequestError(422, f"the body does not fit: {words} (known fields: {known})") from None


def whole_number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise RequestError(422, f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def moment(text: str, name: str) -> float:
    """A time as seconds since the epoch, from those or from ISO 8601 (UTC where it names no zone)."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            422, f"{name} must be seconds since the epoch or a time like 2026-01-31T12:00:00Z, not {text!r}"
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
