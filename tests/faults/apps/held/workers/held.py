"""The task that notes each of its runs, and stays where it is told to until a file appears."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from avtomatika import Worker

worker = Worker(max_concurrent_tasks=20)


@worker.task("hold", task_type="cpu")
async def hold(params: dict[str, Any], attempt: int) -> dict[str, int]:
    place = Path(params["directory"])
    with (place / "task").open("a") as file:
        file.write(f"{attempt}\n")
    while params["at"] == "task" and not (place / "go").exists():
        await asyncio.sleep(0.02)
    return {"attempt": attempt}
