"""A blueprint's own endpoint as the document shows it: the body is free; the start state's handlers say what they read."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from avtomatika.api.bodies import CreationHeaders
from avtomatika.api.describe import Operation
from avtomatika.api.models import Accepted
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import JSON

_SAMPLES: dict[Any, Any] = {str: "text", int: 1, float: 1.0, bool: True, list: [], dict: {}}


def endpoint_operation(blueprint: Blueprint) -> Operation:
    """What `POST /api/{version}{endpoint}` takes and answers."""
    read: JSON = {}
    docs: list[str] = []
    for handler in blueprint.start_handlers:
        read.update({name: _sample(handler.func, name) for name, _ in handler.plan.data if name not in read})
        docs += [inspect.getdoc(handler.func) or ""]
    reads = f"Its first step reads {', '.join(f'`{name}`' for name in read)}." if read else ""
    return Operation(
        f"Create a {blueprint.name} job",
        "blueprints",
        description="\n\n".join(dict.fromkeys(filter(None, [*docs, reads]))),
        body={"type": "object", "description": "The job's initial data.", "additionalProperties": True},
        headers=CreationHeaders,
        answers={202: Accepted},
        errors=(409,),
        example=read,
        operation_id=f"create_job_of_{blueprint.name}",
    )


def _sample(func: Callable[..., Any], name: str) -> Any:
    """A value for an example: the default, else one of the annotated type."""
    try:
        parameter = inspect.signature(func, eval_str=True).parameters[name]
    except (NameError, SyntaxError, TypeError, AttributeError):  # an annotation that names nothing at run time
        parameter = inspect.signature(func).parameters[name]
    if parameter.default is not inspect.Parameter.empty:
        try:
            json.dumps(parameter.default, allow_nan=False)
        except (TypeError, ValueError):
            return None
        return parameter.default
    kind = getattr(parameter.annotation, "__origin__", parameter.annotation)
    return next((sample for known, sample in _SAMPLES.items() if kind is known), "text")
