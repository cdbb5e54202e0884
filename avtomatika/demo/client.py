"""The demo's few calls to the REST API, as any program would make them."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import aiohttp

from avtomatika.demo.machine import DemoError

JSON = dict[str, Any]


class Client:
    """Talks to one facade with one token."""

    def __init__(self, url: str, token: str) -> None:
        self._session = aiohttp.ClientSession(url, headers={"X-Avtomatika-Token": token}, timeout=aiohttp.ClientTimeout(total=30))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def submit(self, endpoint: str, initial_data: JSON) -> str:
        """Starts a job and answers its id."""
        answer: JSON = await self._call("POST", f"/api/v1{endpoint}", initial_data)
        return str(answer["job_id"])

    async def job(self, job_id: str) -> JSON:
        answer: JSON = await self._call("GET", f"/api/v1/jobs/{job_id}")
        return answer

    async def history(self, job_id: str) -> list[JSON]:
        answer: list[JSON] = await self._call("GET", f"/api/v1/jobs/{job_id}/history")
        return answer

    async def _call(self, method: str, path: str, body: JSON | None = None) -> Any:
        async with self._session.request(method, path, json=body) as response:
            if response.status >= 400:
                raise DemoError(f"{method} {path} was answered {response.status}: {(await response.text())[:500]}")
            return await response.json()
