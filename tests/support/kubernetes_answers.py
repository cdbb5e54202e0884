"""How a Kubernetes API server chooses objects, and explains what it refuses."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.support.http_fake import answer

JSON = dict[str, Any]


def chosen(item: JSON, request: web.Request) -> bool:
    """Whether selectors (of equality, in a row) choose an object."""
    metadata = item["metadata"]
    for part in filter(None, request.query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        if key == "metadata.name" and metadata["name"] != value:
            return False
    for part in filter(None, request.query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if (metadata.get("labels") or {}).get(key) != value:
            return False
    return True


def plural_of(path: str) -> str:
    return path.rpartition("/")[2]


def missing(request: web.Request) -> web.Response:
    name, plural = request.match_info["name"], request.path.split("/" + request.match_info["name"])[0].rpartition("/")[2]
    return status(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)


def status(code: int, reason: str, message: str, **details: Any) -> web.Response:
    """A Status, as the API server explains a failure."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return answer({**body, "message": message, "reason": reason, "details": details, "code": code}, status=code)
