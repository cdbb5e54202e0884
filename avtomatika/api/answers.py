"""JSON answers."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), default=str).encode


def dumps(value: Any) -> bytes:
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of a file that is no UTF-8
        return _encode_ascii(value).encode()


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=dumps(value), status=status, content_type="application/json", charset="utf-8")
