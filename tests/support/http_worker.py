"""A worker that speaks the worker API, under the control of a test: nothing of it happens by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.polling import eventually_async


class HttpWorker:
    def __init__(self, session: aiohttp.ClientSession, url: str, worker_id: str) -> None:
        self._session = session
        self.url = url
        self.id = worker_id

    async def register(self, tasks: tuple[str, ...] = ("draw",), capability: str = "gpu", **fields: Any) -> None:
        body = {"worker_id": self.id, "supported_tasks": list(tasks), "capabilities": {capability: list(tasks)}, **fields}
        async with self._session.post(f"{self.url}/_worker/workers/register", json=body) as response:
            assert response.status == 200, await response.text()

    async def heartbeat(self) -> int:
        async with self._session.patch(f"{self.url}/_worker/workers/{self.id}") as response:
            return response.status

    async def poll(self) -> dict[str, Any] | None:
        """One long poll."""
        async with self._session.get(f"{self.url}/_worker/workers/{self.id}/tasks/next") as response:
            assert response.status in (200, 204), await response.text()
            return await response.json() if response.status == 200 else None

    async def next(self, deadline: float = 60.0) -> dict[str, Any]:
        """Polls until a task comes."""
        task = await eventually_async(
            self.poll, deadline=deadline, interval=0.01, retry=(AssertionError, aiohttp.ClientError, OSError)
        )
        assert task is not None
        return task

    async def report(self, task: dict[str, Any], **result: Any) -> str:
        """Posts a result, success by default; the answer's status."""
        ids = {"job_id": task["job_id"], "task_id": task["task_id"], "worker_id": self.id}
        result = {"status": "success", "data": {"worker": self.id}, **result}
        async with self._session.post(f"{self.url}/_worker/tasks/result", json={**ids, "result": result}) as response:
            assert response.status == 200, await response.text()
            status: str = (await response.json())["status"]
            return status

    async def work(self) -> None:
        """Polls and reports for ever, whatever the facade does. What it has in its hands it reports until that is taken."""
        task = None
        while True:
            try:
                task = task or await self.poll()
                if task is not None:
                    await self.report(task)
                    task = None
            except (aiohttp.ClientError, OSError, AssertionError):
                await asyncio.sleep(0.1)

    def socket(self, path: str | None = None) -> Any:
        return self._session.ws_connect(f"{self.url}{path or f'/_worker/ws/{self.id}'}")


@asynccontextmanager
async def http_workers(url: str, token: str, *names: str) -> AsyncIterator[list[HttpWorker]]:
    """Workers of these names; none of them is registered yet."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(headers={"X-Worker-Token": token}, connector=connector, timeout=timeout) as session:
        yield [HttpWorker(session, url, name) for name in names]
