"""Answers held against the OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

from jsonschema import Draft202012Validator


class Document:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._paths = [(re.compile("^" + re.sub(r"\{[^}]+\}", "[^/]+", path) + "$"), path) for path in document["paths"]]
        # What is written out goes before what has a variable.
        self._paths.sort(key=lambda pair: pair[1].count("{"))
        self.seen: set[tuple[str, str, str]] = set()

    def operations(self) -> set[tuple[str, str]]:
        return {(method, path) for path, item in self._document["paths"].items() for method in item}

    def check(self, method: str, path: str, status: int, media_type: str, body: Any) -> None:
        """Asserts that an answer is one that the document tells of, and fits its schema."""
        template = next(template for pattern, template in self._paths if pattern.match(path))
        operation = self._document["paths"][template][method.lower()]
        assert str(status) in operation["responses"], f"{method} {template} does not tell of {status}"
        told = operation["responses"][str(status)]
        if "$ref" in told:
            told = self._document["components"]["responses"][told["$ref"].rpartition("/")[2]]
        content = told.get("content", {})
        self.seen.add((method.lower(), template, str(status)))
        if not content:
            assert body in (None, "", b""), f"{method} {template} {status} tells of no body: {body!r}"
            return
        assert media_type in content, f"{method} {template} {status} tells of {list(content)}, not of {media_type}"
        schema = content[media_type].get("schema")
        if schema and media_type == "application/json":
            validator = Draft202012Validator({**schema, "components": self._document["components"]})
            errors = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(body)]
            assert not errors, (method, template, status, errors)
