"""What the operations on Vast.ai share: the family, its REST API, and what its answers mean.

Offers and rentals are of version 0 of the API, lists of instances of version 1; see https://docs.vast.ai/api-reference.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Family
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.transport import judge_transport, retry_after, safe_url
from avtomatika.results import JSON

if TYPE_CHECKING:
    from avtomatika.operations.policy import Permit

BASE_URL = "https://console.vast.ai"
#: Seconds for one request.
_TIMEOUT = 30.0
#: Instances on a page, and pages that are read at most.
_PAGE, _PAGES = 25, 200
_MAX_ANSWER = 32 << 20


def _judge(exc: BaseException) -> OperationError | None:
    return judge_transport(exc, "Vast.ai")


family = Family("vast", judge=_judge)


class Api:
    """The API for one operation."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def call(self, method: str, path: str, *, body: JSON | None = None, query: Mapping[str, Any] | None = None) -> JSON:
        """What the API answers. Raises OperationError for anything but success, httpx.TransportError without an answer."""
        params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (query or {}).items()}
        async with self._client.stream(method, path, json=body, params=params) as response:
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MAX_ANSWER:
                    raise OperationError(TaskErrorCode.VAST_API_ERROR, f"Vast.ai answers more than {_MAX_ANSWER} bytes")
        try:
            said = json.loads(content)
        except ValueError:
            said = None
        answer: JSON = said if isinstance(said, dict) else {}
        if not response.is_success:
            raise of_status(response.status_code, response.headers, answer)
        if not isinstance(said, dict):
            raise OperationError(TaskErrorCode.VAST_API_ERROR, "Vast.ai answers something that is no JSON object")
        return answer

    async def offers(self, query: JSON) -> list[JSON]:
        found = (await self.call("POST", "/api/v0/bundles/", body=query)).get("offers")
        return found if isinstance(found, list) else []

    async def instances(self, filters: JSON | None = None, checkpoint: Callable[[], None] = lambda: None) -> list[JSON]:
        """All instances of the account, page by page; `checkpoint` is called before each page."""
        found: list[JSON] = []
        query: JSON = {"select_filters": filters or {}, "order_by": [{"col": "id", "dir": "asc"}], "limit": _PAGE}
        for _ in range(_PAGES):
            checkpoint()
            answer = await self.call("GET", "/api/v1/instances/", query=query)
            found += answer.get("instances") or []
            if not answer.get("next_token"):
                break
            query["after_token"] = answer["next_token"]
        return found

    async def labelled(self, label: str) -> JSON | None:
        """The instance with a label."""
        found = await self.instances({"label": {"eq": label}})
        return next((instance for instance in found if instance.get("label") == label), None)

    async def has(self, instance_id: int) -> bool:
        return any(found.get("id") == instance_id for found in await self.instances({"id": {"eq": instance_id}}))


def of_status(status: int, headers: Mapping[str, str], answer: JSON) -> OperationError:
    """The failure that an answer stands for: by its HTTP status and its `error`, which is a code; never by its `msg`."""
    error = str(answer.get("error") or "")[:100]
    details: JSON = {"status": status, "error": error, "message": str(answer.get("msg") or answer.get("message") or "")[:500]}
    if status == 402 or error == "insufficient_credit":
        return OperationError(TaskErrorCode.VAST_PAYMENT_REQUIRED, "the account at Vast.ai lacks credit", details=details)
    if status in (401, 403):
        message = "Vast.ai refuses the API key" if status == 401 else "Vast.ai: the API key does not allow this"
        return OperationError(TaskErrorCode.VAST_AUTHENTICATION_FAILED, message, details=details)
    if status == 429 and error == "search_quota_exceeded":  # of a day
        return OperationError(TaskErrorCode.VAST_QUOTA_EXCEEDED, "Vast.ai answers no more searches today", details=details)
    if status == 429:
        details["retry_after"] = retry_after(headers)
        return OperationError(TaskErrorCode.VAST_API_ERROR, "Vast.ai takes no more requests now", details=details)
    kind = ErrorCode.TRANSIENT if status >= 500 or status == 408 else ErrorCode.PERMANENT
    return OperationError(TaskErrorCode.VAST_API_ERROR, f"Vast.ai answers with status {status}", details=details, kind=kind)


def base_url_of(permit: Permit, credential: str) -> str:
    """Where the API is: Vast.ai's own, unless the credential's ``service`` names a ``base_url``."""
    entry = permit.credential(credential)
    service = entry.service if entry is not None else {}
    return safe_url(service.get("base_url") or BASE_URL, f"credential {credential!r}: base_url")


@asynccontextmanager
async def opened(op: OperationContext, credential: str) -> AsyncIterator[Api]:
    url = base_url_of(op.permit, credential)
    found = await asyncio.to_thread(op.credential, credential)  # it may be asked for over the network
    key = found.token or found.password
    if key is None:
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR, f"credential {credential!r} has no API key: set token_env or token_file"
        )
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT) as client:
        yield Api(client)


def pick(record: JSON, *names: str) -> JSON:
    """Of what is told of an offer or an instance, what may be told further: there are tokens in the rest."""
    return {name: record.get(name) for name in names}
