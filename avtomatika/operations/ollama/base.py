"""What the operations on Ollama share: the family, what a failure means, and a client of the server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Family, Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.transport import is_loopback, judge_transport
from avtomatika.results import JSON

if TYPE_CHECKING:
    from ollama import AsyncClient

PORT = 11434
#: Seconds without a byte from the server: it loads models, and checks what it has pulled, without a word.
_SILENCE = 600.0
_MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}$"


def judge(exc: BaseException) -> OperationError | None:
    """What the library and httpx raise for any request; what a status means depends on the request: see `of_status`."""
    if isinstance(exc, httpx.TransportError):
        known = judge_transport(exc, "the Ollama server")
        if known is not None and known.code is not TaskErrorCode.NETWORK_CONNECTION_FAILED:
            return known
    if isinstance(exc, (ConnectionError, httpx.TransportError)):
        return OperationError(TaskErrorCode.OLLAMA_SERVICE_UNAVAILABLE, "the Ollama server cannot be reached, or it broke off")
    if (status := status_of(exc)) is not None:
        return of_status(exc, status, TaskErrorCode.OLLAMA_SERVICE_UNAVAILABLE)
    if isinstance(exc, ValueError):  # no JSON, or other JSON than Ollama's
        return OperationError(TaskErrorCode.EXTERNAL_SERVICE_ERROR, "what answers there is no Ollama server")
    return None


def status_of(exc: BaseException) -> int | None:
    """The HTTP status of the library's ResponseError; -1 where the error came within an answer that had begun well."""
    status = getattr(exc, "status_code", None)
    return status if type(exc).__name__ == "ResponseError" and isinstance(status, int) else None


def of_status(exc: BaseException, status: int, otherwise: TaskErrorCode, model: str = "") -> OperationError:
    """The failure that a status stands for; `otherwise` where it says no more than that something failed."""
    details: JSON = {"status": status, "message": str(getattr(exc, "error", ""))[:500], "model_name": model}
    if status == 404:
        return OperationError(
            TaskErrorCode.OLLAMA_MODEL_NOT_FOUND, f"the server has no model {model!r}: pull it first", details=details
        )
    if status in (401, 403):
        return OperationError(
            TaskErrorCode.OLLAMA_SERVICE_UNAVAILABLE,
            "the server refuses the credential",
            details=details,
            kind=ErrorCode.PERMANENT,
        )
    if status in (429, 502, 503, 504):
        return OperationError(TaskErrorCode.OLLAMA_SERVICE_UNAVAILABLE, "the server is busy or not ready", details=details)
    return OperationError(otherwise, f"the server failed with {model or 'this'}: {details['message']}", details=details)


family = Family("ollama", extra="ollama", modules=("ollama",), judge=judge)


class OllamaParams(Params):
    """
    Args:
        host: of the inventory; without it the server is the worker's own: OLLAMA_HOST, else the one on this machine.
        port: of the server on that host.
        credential: whose token a server behind a proxy wants.
    """

    host: str | None = Field(None, min_length=1, max_length=253)
    port: int = Field(PORT, ge=1, le=65535)
    credential: str | None = None


class ModelParams(OllamaParams):
    model_name: str = Field(pattern=_MODEL)


def guard(params: OllamaParams, permit: Permit) -> None:
    entry = None if params.host is None else permit.host(params.host)
    permit.credential(params.credential, entry)
    if isinstance(params, ModelParams):
        permit.matches("models", params.model_name)


class _Token(httpx.Auth):
    """The token of this operation, or none; never the worker's OLLAMA_API_KEY, which the library would send to any server."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.pop("Authorization", None)
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def address(params: OllamaParams, op: OperationContext) -> str:
    """The server's URL. OLLAMA_HOST may leave out all but the host, as Ollama's own programs allow."""
    if params.host is not None:
        found = op.host(params.host).address
        return f"http://[{found}]:{params.port}" if ":" in found else f"http://{found}:{params.port}"
    said = os.environ.get("OLLAMA_HOST") or "127.0.0.1"
    if "://" in said:
        return said
    parts = urlsplit(f"http://{said}")
    return f"http://{said}" if parts.port else f"http://{said.rstrip('/')}:{PORT}"


def is_here(url: str) -> bool:
    """Whether a server is this very machine's."""
    host = urlsplit(url).hostname or ""
    return is_loopback(host) or host in ("0.0.0.0", "::")  # noqa: S104 - as OLLAMA_HOST is often set for the server


async def http_options(params: OllamaParams, op: OperationContext) -> dict[str, Any]:
    """Of httpx: nothing is followed or proxied to a place that the policy does not know."""
    token = None
    if params.credential is not None:
        found = await asyncio.to_thread(op.credential, params.credential)  # it may be asked for over the network
        token = found.token or found.password
    timeout = httpx.Timeout(_SILENCE, connect=10.0)
    return {"auth": _Token(token), "follow_redirects": False, "trust_env": False, "timeout": timeout}


@asynccontextmanager
async def opened(params: OllamaParams, op: OperationContext) -> AsyncIterator[AsyncClient]:
    import ollama

    client = ollama.AsyncClient(host=address(params, op), **await http_options(params, op))
    try:
        yield client
    finally:
        await client.close()  # type: ignore[no-untyped-call]
