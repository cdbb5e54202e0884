"""A fan-out over tasks that wait for something far away."""

from __future__ import annotations

from typing import Any

from avtomatika import ActionFactory, Blueprint

waiting = Blueprint("waiting", api_version="v1", api_endpoint="/waiting")


@waiting.handler_for("start", is_start=True)
async def start(actions: ActionFactory, tasks: int, seconds: float) -> None:
    actions.dispatch_parallel(
        [{"task_type": "wait", "params": {"seconds": seconds}} for _ in range(tasks)], aggregate_into="joined"
    )


@waiting.aggregator_for("joined")
async def joined(actions: ActionFactory, aggregation_results: dict[str, Any], state_history: dict[str, Any]) -> None:
    state_history["done"] = len(aggregation_results)
    actions.transition_to("finished")


@waiting.handler_for("finished", is_end=True)
async def finished(done: int) -> dict[str, Any]:
    return {"done": done}
