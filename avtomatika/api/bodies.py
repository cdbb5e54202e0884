"""Bodies and query values: read, checked, and refused in words."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema

from avtomatika.api.intake import read_body
from avtomatika.api.middleware import RequestError
from avtomatika.jobs import JSON, JobStatus

#: What is read here is written again elsewhere, deeper in the stack: well below what the interpreter can nest.
MAX_DEPTH = 100
#: The end of the year 9999, in seconds since the epoch.
LATEST = 253_402_300_799
_CURSOR = r"^[0-9]{1,15}(\.[0-9]{1,20})?(e[+-][0-9]{2})?~[A-Za-z0-9_.:-]{0,64}$"
M = TypeVar("M", bound=BaseModel)
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def moment(text: Any) -> float:
    """A time as seconds since the epoch, from those or from ISO 8601 (UTC where it names no zone)."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
            seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not 0 <= seconds <= LATEST:  # nor is "not a number"
        raise ValueError(
            f"write seconds since the epoch, or a time like 2026-01-31T12:00:00Z, not {text!r}; the years 1970 to 9999 will do"
        )
    return seconds


Since = Annotated[
    float,
    BeforeValidator(moment),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": LATEST}, {"type": "string", "format": "date-time"}]}),
]


class NewJob(BaseModel):
    """The body of ``POST /api/v1/jobs``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    blueprint: Word
    initial_data: dict[str, Any] = Field(default_factory=dict)
    priority: float = Field(0.0, ge=0, le=10, allow_inf_nan=False)
    tags: list[Word] = Field(default_factory=list, max_length=50)
    webhook_url: str | None = None


class CreationHeaders(BaseModel):
    """The headers of every call that creates a job."""

    key: str | None = Field(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]([ -~]*[!-~])?$",
        description="The same key and body give the same job, for a day; the same key with another body is refused.",
    )


class Decision(BaseModel):
    """The body of ``POST /api/v1/jobs/{id}/decide``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: Word
    comment: str | None = None


class TokenDecision(Decision):
    """The body of ``POST /_public/webhooks/approval/{job_id}``: a decision by whoever has the question's token."""

    token: Word


class JobsQuery(BaseModel):
    """The query of ``GET /api/v1/jobs``."""

    status: JobStatus | None = None
    blueprint: str | None = None
    tag: str | None = None
    since: Since | None = Field(None, description="Created at this time or later: seconds since the epoch, or ISO 8601.")
    limit: int = Field(50, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)
    cursor: str | None = Field(None, description="The `next_cursor` of the page before.", pattern=_CURSOR)


class QuarantineQuery(BaseModel):
    """The query of the lists of quarantined jobs."""

    limit: int = Field(1000, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)


class GraphQuery(BaseModel):
    """The query of ``GET /api/v1/blueprints/{name}/graph``."""

    format: Literal["dot", "svg", "mermaid", "json"] = "dot"


async def read_object(request: web.Request) -> JSON:
    """The body as a JSON object, unpacked; 400 where it is none, else as `read_body` refuses it."""
    return _object(await read_body(request))


async def read_optional_object(request: web.Request) -> JSON:
    """The body as a JSON object; an empty one where there is none."""
    raw = await read_body(request)
    return _object(raw) if raw.strip() else {}


def _object(raw: bytes) -> JSON:
    try:
        value = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise RecursionError
    except RecursionError:
        raise RequestError(400, f"the body is nested deeper than {MAX_DEPTH} levels; send it flatter") from None
    except ValueError as exc:
        raise RequestError(
            400, f"the body is not JSON: {exc}" if raw.strip() else "the body is empty: send a JSON object"
        ) from None
    if not isinstance(value, dict):
        raise RequestError(400, f"the body must be a JSON object, not {_kind(value)}")
    return value


def parse(model: type[M], value: JSON, required: str) -> M:
    """The body as a model: 400 where the required name is missing, 422 for any other misfit."""
    if value.get(required) in (None, ""):
        raise RequestError(400, f"{required!r} is missing")
    return parse_optional(model, value)


def parse_optional(model: type[M], value: JSON) -> M:
    """The body as a model none of whose names is required: 422 for any misfit."""
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        known = ", ".join(model.model_fields)
        raise RequestError(422, f"the body does not fit: {_misfits(exc)} (known fields: {known})") from None


def read_query(request: web.Request, model: type[M]) -> M:
    """The query's values as a model, an empty one as left out; 422 where one does not fit."""
    try:
        return model.model_validate({name: request.query[name] for name in model.model_fields if request.query.get(name)})
    except ValidationError as exc:
        raise RequestError(422, f"the query does not fit: {_misfits(exc)}") from None


def _misfits(exc: ValidationError) -> str:
    errors = exc.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _depth(value: Any) -> int:
    """How many objects and arrays lie in one another."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
