"""The OpenAPI document and the interactive page. The viewer's files come from a package and nothing from elsewhere."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from aiohttp import web

from avtomatika.api.answers import dumps
from avtomatika.api.describe import describe
from avtomatika.api.middleware import RequestError
from avtomatika.api.openapi import document
from avtomatika.errors import ConfigurationError

DOCUMENT: web.AppKey[dict[str, bytes]] = web.AppKey("openapi", dict)
_OURS = Path(__file__).with_name("ui")
_VIEWER = "flask_swagger_ui"
_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304
}


@describe("This document", "public", answers={200: dict[str, object]})
async def openapi(request: web.Request) -> web.StreamResponse:
    body, tag = _made(request.app)
    answer = web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-cache"})
    answer.etag = tag
    known = request.if_none_match
    if known and any(item.value in (tag, "*") for item in known):
        answer = web.Response(status=304)
        answer.etag = tag
    return answer


@describe("Every call, to read and to try out", "public", media_types={200: ("text/html",)}, operation_id="docs")
async def page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(_OURS / "docs.html", headers=_HEADERS)


@describe("A file of the interactive page", "public", listed=False)
async def page_file(request: web.Request) -> web.StreamResponse:
    name = request.match_info["file"]
    if name == "docs.js":
        return web.FileResponse(_OURS / name, headers=_HEADERS)
    if name not in _FILES:
        raise RequestError(404, f"nothing is served at {request.path}")
    return web.FileResponse(_viewer() / name, headers=_HEADERS)


def _made(app: web.Application) -> tuple[bytes, str]:
    """The document and its tag, made once: the routes do not change while the application serves."""
    kept = app[DOCUMENT]
    if not kept:
        body = dumps(document(app))
        kept[hashlib.sha256(body).hexdigest()[:32]] = body
    ((tag, body),) = kept.items()
    return body, tag


@cache
def _viewer() -> Path:
    """The folder of the viewer's files. The package is not imported: it would load a framework that nothing here uses."""
    spec = find_spec(_VIEWER)
    if spec is None or spec.origin is None:
        raise ConfigurationError("the package flask-swagger-ui, whose files the interactive page shows, is not installed")
    return Path(spec.origin).with_name("dist")
