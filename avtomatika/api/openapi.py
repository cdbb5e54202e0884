"""The OpenAPI 3.1 document: made of the application's routes and of what `describe` has put on their handlers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from avtomatika import __version__
from avtomatika.api.describe import Operation, operation_of
from avtomatika.api.models import Error
from avtomatika.jobs import JSON

_REF = "#/components/schemas/{model}"
_TAGS = {
    "jobs": "Creating jobs, looking at them, steering them.",
    "approvals": "Answering what a job asks a person, without a client's token.",
    "blueprints": "The processes that there are; each with an endpoint of its own creates jobs there.",
    "schedules": "What makes jobs by the clock; for an admin's token alone.",
    "queue": "Remote work as tasks: pushing, watching, steering them. See docs/queue.md.",
    "workers": "Who runs the tasks.",
    "workers over HTTP": "What workers call that are no Celery workers.",
    "admin": "For an admin's token alone.",
    "public": "Calls without a token.",
    "debug": "Only with DEBUG=true.",
}
_SECURITY: dict[str, list[JSON]] = {
    "/api/": [{"clientToken": []}, {"bearer": []}],
    "/_public/debug/": [{"clientToken": []}, {"bearer": []}],
    "/_worker/": [{"workerToken": []}],
}
_SCHEMES = {
    "clientToken": {"type": "apiKey", "in": "header", "name": "X-Avtomatika-Token"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same token."},
    "workerToken": {"type": "apiKey", "in": "header", "name": "X-Worker-Token"},
}
_ERRORS = {
    400: "The body is not JSON, or not an object, or a name that must be there is missing.",
    401: "No token, or one that is not known.",
    403: "This token may not do that.",
    404: "There is no such thing, or it is not yours.",
    408: "The body did not arrive within BODY_TIMEOUT_SECONDS.",
    409: "It is not in a state in which this can be done.",
    413: "The body is larger than BODY_LIMIT_MB.",
    415: "The body is packed in a way that is not known here.",
    422: "A value does not fit.",
    429: "Too many requests, or too many jobs this month.",
    501: "This machine lacks what it takes; the message says what.",
    503: "The state store or the broker does not answer; nothing was changed.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}
_WITH_RETRY_AFTER = (429, 503)


@dataclass(frozen=True, slots=True)
class Route:
    """One described route of an application."""

    method: str
    path: str
    operation: Operation
    name: str

    @property
    def parameters(self) -> list[str]:
        """The names in its path."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def security(self) -> list[JSON] | None:
        return next((schemes for prefix, schemes in _SECURITY.items() if self.path.startswith(prefix)), None)

    @property
    def errors(self) -> list[int]:
        """Its own error codes and those that follow from what it is; an answer of its own comes first."""
        codes = set(self.operation.errors)
        if self.security is not None:
            codes |= {401, 429, 503}
        if self.path.startswith("/_worker/"):
            codes.add(403)
        if self.operation.body is not None:
            codes |= {400, 408, 413, 415, 422}
        if self.operation.query is not None:
            codes.add(422)
        if self.parameters:
            codes.add(404)
        return sorted(codes - set(self.operation.answers) - set(self.operation.media_types))


def routes(app: web.Application) -> Iterator[Route]:
    """The described routes of an application, in their order."""
    taken: set[str] = set()
    for route in app.router.routes():
        operation = operation_of(route.handler)
        if operation is None or not operation.listed or route.resource is None or route.method == "HEAD":
            continue
        name = operation.operation_id or getattr(route.handler, "__name__", "")
        found = Route(route.method.lower(), route.resource.canonical, operation, name)
        if name in taken:  # a handler that serves several paths
            found = replace(found, name="_".join((name, found.method, *found.parameters)))
        taken.add(found.name)
        yield found


def document(app: web.Application) -> JSON:
    """The whole document."""
    found = list(routes(app))
    schemas = _Schemas(found)
    paths: dict[str, JSON] = {}
    for route in found:
        paths.setdefault(route.path, {})[route.method] = _operation(route, schemas)
    used = dict.fromkeys(route.operation.tag for route in found)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "avtomatika",
            "version": __version__,
            "summary": "Jobs, blueprints and workers of this installation.",
            "description": 'Every error is `{"error": "<what is wrong and what to do>"}`.',
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag, **({"description": _TAGS[tag]} if tag in _TAGS else {})} for tag in used],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "responses": {f"Error{code}": _error(code, schemas) for code in sorted({c for r in found for c in r.errors})},
            "securitySchemes": {name: _SCHEMES[name] for name in _used_schemes(found)},
        },
    }


class _Schemas:
    """The JSON schemas of everything that the routes name, made in one go so that two models of one name are told apart."""

    def __init__(self, found: Iterable[Route]) -> None:
        wanted: dict[tuple[str, JsonSchemaMode], TypeAdapter[Any]] = {}

        def want(kind: Any, mode: JsonSchemaMode) -> None:
            if kind is not None and not isinstance(kind, Mapping):
                wanted.setdefault((_name(kind), mode), TypeAdapter(kind))

        for route in found:
            for taken in (route.operation.body, route.operation.query, route.operation.headers):
                want(taken, "validation")
            for answer in route.operation.answers.values():
                want(answer, "serialization")
        want(Error, "serialization")
        inputs = [(name, mode, adapter) for (name, mode), adapter in wanted.items()]
        self._made, made = TypeAdapter.json_schemas(inputs, ref_template=_REF)
        self._definitions: JSON = made.get("$defs", {})
        self._unfolded: set[str] = set()

    @property
    def definitions(self) -> JSON:
        """Those that something refers to: a query's own model is shown as its parameters."""
        return {name: schema for name, schema in self._definitions.items() if name not in self._unfolded}

    def of(self, kind: Any, mode: JsonSchemaMode) -> JSON:
        return dict(kind) if isinstance(kind, Mapping) else self._made[_name(kind), mode]

    def parameters(self, model: type[BaseModel] | None, place: str) -> list[JSON]:
        """A model's fields as parameters in the query or the header."""
        if model is None:
            return []
        schema = self.of(model, "validation")
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            self._unfolded.add(name)
            schema = self._definitions[name]
        required = schema.get("required", ())
        return [_parameter(name, place, name in required, part) for name, part in schema["properties"].items()]


def _name(kind: Any) -> str:
    """Tells types apart, also those that no dict takes as a key."""
    return f"{getattr(kind, '__module__', '')}.{kind!r}"


def _parameter(name: str, place: str, required: bool, schema: JSON) -> JSON:
    """A field as a parameter: left out, where the model says null."""
    schema = {key: value for key, value in schema.items() if not (key == "default" and value is None) and key != "title"}
    choices = [choice for choice in schema.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        schema = {**choices[0], **schema}
    elif choices:
        schema["anyOf"] = choices
    description = schema.pop("description", None)
    said = {"description": description} if description else {}
    return {"name": name, "in": place, "required": required, **said, "schema": schema}


def _operation(route: Route, schemas: _Schemas) -> JSON:
    operation = route.operation
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in route.parameters
    ]
    parameters += schemas.parameters(operation.query, "query") + schemas.parameters(operation.headers, "header")
    out: JSON = {"operationId": route.name, "summary": operation.summary, "tags": [operation.tag]}
    if operation.description:
        out["description"] = operation.description
    if parameters:
        out["parameters"] = parameters
    if operation.body is not None:
        content: JSON = {"schema": schemas.of(operation.body, "validation")}
        if operation.example is not None:
            content["example"] = operation.example
        out["requestBody"] = {"required": operation.body_required, "content": {"application/json": content}}
    out["responses"] = _responses(route, schemas)
    out["security"] = route.security or []
    return out


def _responses(route: Route, schemas: _Schemas) -> JSON:
    operation = route.operation
    out: dict[str, JSON] = {}
    for status in sorted({*operation.answers, *operation.media_types}):
        answer: JSON = {"description": HTTPStatus(status).phrase}
        kind = operation.answers.get(status)
        content: JSON = {} if kind is None else {"application/json": {"schema": schemas.of(kind, "serialization")}}
        for media_type in operation.media_types.get(status, ()):
            content.setdefault(media_type, {"schema": {} if media_type == "application/json" else {"type": "string"}})
        if content:
            answer["content"] = content
        if status in _WITH_RETRY_AFTER:
            answer["headers"] = _RETRY_AFTER
        out[str(status)] = answer
    for status in route.errors:
        out[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    return out


def _error(status: int, schemas: _Schemas) -> JSON:
    schema = schemas.of(Error, "serialization")
    answer: JSON = {
        "description": _ERRORS.get(status, HTTPStatus(status).phrase),
        "content": {"application/json": {"schema": schema}},
    }
    if status in _WITH_RETRY_AFTER:
        answer["headers"] = _RETRY_AFTER
    return answer


def _used_schemes(found: Iterable[Route]) -> list[str]:
    named = {name for route in found for choice in route.security or () for name in choice}
    return [name for name in _SCHEMES if name in named]
