"""A job that stops where it is told to, until a file appears: `handler` and `task` are the places."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from avtomatika import Blueprint

held = Blueprint("held")


@held.handler_for("start", is_start=True)
async def start(actions: Any) -> None:
    actions.transition_to("hold")


@held.handler_for("hold")
async def hold(actions: Any, directory: str, at: str) -> None:
    place = Path(directory)
    with (place / "handler").open("a") as file:
        file.write("run\n")
    while at == "handler" and not (place / "go").exists():
        await asyncio.sleep(0.02)
    params = {"directory": directory, "at": at}
    actions.dispatch_task("hold", params, {"success": "many", "failure": "end"})


@held.handler_for("many")
async def many(actions: Any, directory: str) -> None:
    params = {"directory": directory, "at": "nowhere"}
    actions.dispatch_parallel([{"task_type": "hold", "params": params} for _ in range(2)], "end")


@held.aggregator_for("end")
async def join(aggregation_results: dict[str, Any]) -> list[str]:
    return [result["status"] for result in aggregation_results.values()]


@held.handler_for("end", is_end=True)
async def end() -> None: ...
