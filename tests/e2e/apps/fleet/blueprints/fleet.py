"""One task with whatever options the test asks for, and a fan-out with whatever policy."""

from __future__ import annotations

from typing import Any

from avtomatika import Blueprint

one = Blueprint("one")


@one.handler_for("ask", is_start=True)
async def ask(actions: Any, params: dict[str, Any], options: dict[str, Any] | None = None, task: str = "draw") -> None:
    actions.dispatch_task(task, params, {"success": "done"}, **(options or {}))


@one.handler_for("done", is_end=True)
async def done(worker: str) -> str:
    return worker


many = Blueprint("many")


@many.handler_for("spread", is_start=True)
async def spread(actions: Any, branches: list[dict[str, Any]], policy: dict[str, Any] | None = None) -> None:
    tasks = [{"task_type": "draw", "params": params, "timeout_seconds": 120} for params in branches]
    actions.dispatch_parallel(tasks, "joined", **(policy or {}))


@many.aggregator_for("joined")
async def join(succeeded: dict[str, Any], failed: dict[str, Any], missing: list[str]) -> list[int]:
    return [len(succeeded), len(failed), len(missing)]


@many.handler_for("joined", is_end=True)
async def joined() -> None: ...
