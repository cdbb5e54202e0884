"""A request to a URL: to the internet only, unless a policy names the URL."""

from __future__ import annotations

import json
import posixpath
import re
import time
from fnmatch import fnmatchcase
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from avtomatika.addresses import UrlRefusedError, check_url
from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.custom.family import family
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.outgoing import Answer, SendError, send
from avtomatika.results import JSON

#: The policy's option with the URLs that may lead inside, and that credentials may be sent to.
OPTION = "webhook_urls"
_MOST_BODY = 64 * 1024
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105 - a header's name is what RFC 9110 calls a token
#: What would be a secret in a header's value.
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token"})
#: What the connection is about; not the task's to say.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})


class CustomWebhook(Params):
    """
    Attributes:
        json: sent as JSON; or `body`, sent as it is.
        credential: whose token is sent, as ``Authorization: Bearer``; only to URLs of the policy's ``webhook_urls``.
        expected_status: else anything from 200 to 299.
        timeout: seconds.
    """

    url: str = Field(min_length=1, max_length=2000)
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict, max_length=50)
    json_: Any = Field(None, alias="json")
    body: str | None = Field(None, max_length=1024 * 1024)
    credential: str | None = None
    expected_status: list[int] = Field(default_factory=list, max_length=20)
    timeout: float = Field(30, gt=0, le=300)

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(_TOKEN, name) or any(char in text for char in "\r\n\0") or len(text) > 8000:
                raise ValueError(f"the header {name!r} cannot be sent as it is")
            if name.lower() in _SECRET_HEADERS:
                raise ValueError(f"the header {name!r} would hold a secret: name a credential instead")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the header {name!r} is not for a task to set")
        return value

    @model_validator(mode="after")
    def _one_body(self) -> CustomWebhook:
        if self.body is not None and "json_" in self.model_fields_set:
            raise ValueError("give json or body, not both")
        return self

    def content(self) -> tuple[bytes | None, dict[str, str]]:
        """What is sent, and the headers that say so."""
        if "json_" in self.model_fields_set:
            return json.dumps(self.json_).encode(), {"Content-Type": "application/json"}
        return (None if self.body is None else self.body.encode()), {}


def url_matches(pattern: str, url: str) -> bool:
    """Whether a pattern such as ``https://*.example.com/hooks/*`` allows a URL: part by part, so that ``*`` leaves no part.

    Scheme and port must be equal, host and path match as file names do; a path that climbs matches nothing.
    """
    try:
        wanted, given = urlsplit(pattern), urlsplit(url)
        ports = (wanted.port, given.port)
    except ValueError:
        return False
    default = {"http": 80, "https": 443}.get(given.scheme)
    path = unquote(given.path) or "/"
    if ".." in path.split("/") or "\\" in path or (given.scheme, ports[1] or default) != (wanted.scheme, ports[0] or default):
        return False
    return fnmatchcase(given.hostname or "", wanted.hostname or "") and fnmatchcase(posixpath.normpath(path), wanted.path or "/*")


def _is_named(url: str, permit: Permit) -> bool:
    patterns = permit.option(OPTION, ())
    return any(url_matches(pattern, url) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def _guard(params: CustomWebhook, permit: Permit) -> None:
    named = _is_named(params.url, permit)
    where = f"{OPTION} of [policy.{permit.entry.name}.options]"
    try:
        check_url(params.url, allow_private=True)
    except UrlRefusedError as exc:
        raise OperationError(TaskErrorCode.CUSTOM_VALIDATION_FAILED, str(exc), kind=ErrorCode.INVALID_INPUT) from None
    try:
        check_url(params.url, allow_private=named)
    except UrlRefusedError:
        raise permit.refusal("a URL that leads inside", f"add a pattern for it to {where}") from None
    permit.credential(params.credential)
    if params.credential is not None and not named:
        raise permit.refusal("a credential for this URL", f"add a pattern for it to {where}")


@family.operation("custom_webhook", timeout_seconds=120, guard=_guard)
async def custom_webhook(params: CustomWebhook, op: OperationContext) -> JSON:
    """Sends a request to a URL, and keeps the beginning of the answer."""
    body, headers = params.content()
    headers |= params.headers
    # The same for every attempt: whoever gets it can see that it is no second order.
    headers.setdefault("Idempotency-Key", op.key)
    if params.credential is not None:
        token = op.credential(params.credential).token
        if token is None:
            raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"the credential {params.credential!r} has no token")
        headers["Authorization"] = f"Bearer {token}"
    op.progress(0.1, f"{params.method} {urlsplit(params.url).netloc}")
    began = time.monotonic()
    try:
        answer = await send(
            params.method,
            params.url,
            body,
            headers,
            timeout_seconds=op.seconds_left(params.timeout) or 0.001,
            allow_private=_is_named(params.url, op.permit),
            most_bytes=_MOST_BODY,
        )
    except UrlRefusedError:
        raise op.permit.refusal(
            "a URL whose name leads inside", f"add a pattern for it to {OPTION} of [policy.{op.permit.entry.name}.options]"
        ) from None
    except SendError as exc:
        kind = ErrorCode.PERMANENT if exc.distrusted else ErrorCode.TRANSIENT
        raise OperationError(TaskErrorCode.CUSTOM_WEBHOOK_FAILED, str(exc), kind=kind) from exc
    op.log(f"{params.method} {urlsplit(params.url).netloc}: {answer.status}")
    return _result(answer, params, time.monotonic() - began)


def _result(answer: Answer, params: CustomWebhook, seconds: float) -> JSON:
    result = {
        "status": answer.status,
        "content_type": answer.headers.get("Content-Type"),
        "body": answer.body.decode(errors="backslashreplace"),
        "json": _json_of(answer),
        "truncated": answer.truncated,
        "duration": round(seconds, 3),
    }
    wanted = answer.status in params.expected_status if params.expected_status else 200 <= answer.status < 300
    if wanted:
        return result
    again = answer.status >= 500 or answer.status in (408, 425, 429)
    raise OperationError(
        TaskErrorCode.CUSTOM_WEBHOOK_FAILED,
        f"the answer's status is {answer.status}",
        details={**result, "retry_after": answer.headers.get("Retry-After")},
        kind=ErrorCode.TRANSIENT if again else ErrorCode.PERMANENT,
    )


def _json_of(answer: Answer) -> Any:
    if "json" not in (answer.headers.get("Content-Type") or "") or answer.truncated:
        return None
    try:
        return json.loads(answer.body)
    except ValueError:
        return None
