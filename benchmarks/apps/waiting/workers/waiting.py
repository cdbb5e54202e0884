"""A task that waits, as one that calls a remote service does: it needs a slot of its worker, and no processor."""

from __future__ import annotations

import asyncio
from typing import Any

from avtomatika import Worker

worker = Worker(worker_type="waiting", max_concurrent_tasks=2)


@worker.task("wait", task_type="remote")
async def wait(params: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(params["seconds"])
    return {}
