"""The worker of the smallest process."""

from __future__ import annotations

from typing import Any

from avtomatika import Worker

worker = Worker(worker_type="greeter", max_concurrent_tasks=4)


@worker.task("greet")
async def greet(params: dict[str, Any]) -> dict[str, Any]:
    return {"greeting": f"Hello, {params['name']}!"}
