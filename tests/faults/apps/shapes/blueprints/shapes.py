"""Jobs of every shape. Each step has a token of its own, under which its effect is noted."""

from __future__ import annotations

from typing import Any

from avtomatika import Blueprint, RetryPolicy
from tests.faults.apps.shapes.limits import LIMITS

LIMITED = {"limits": LIMITS}

single = Blueprint("single")


@single.handler_for("start", is_start=True)
async def start(actions: Any, job_id: str, params: dict[str, Any], options: dict[str, Any] | None = None) -> None:
    given = {"token": f"{job_id}:start", **params}
    to = {"success": "second", "failure": "failed", "cancelled": "cleanup"}
    actions.dispatch_task(params.get("task", "work"), given, to, **(options or {}))


@single.handler_for("second")
async def second(actions: Any, job_id: str) -> None:
    actions.dispatch_task("work", {"token": f"{job_id}:second"}, {"success": "end", "failure": "failed", "cancelled": "cleanup"})


@single.handler_for("cleanup")
async def cleanup(actions: Any, job_id: str) -> None:
    actions.dispatch_task("work", {"token": f"{job_id}:cleanup"}, {"success": "cancelled", "cancelled": "cancelled"})


@single.handler_for("end", is_end=True)
async def end() -> str:
    return "done"


@single.handler_for("failed", is_end=True)
async def failed() -> None: ...


@single.handler_for("cancelled", is_end=True)
async def cancelled() -> None: ...


fan = Blueprint("fan")


@fan.handler_for("start", is_start=True)
async def fan_out(actions: Any, job_id: str, count: int, params: dict[str, Any]) -> None:
    tasks = [
        {
            "task_type": "work" if n % 3 else "limited",
            "params": {"token": f"{job_id}:{n}", **params},
            **({} if n % 3 else LIMITED),
        }
        for n in range(count)
    ]
    actions.dispatch_parallel(tasks, "join")


@fan.aggregator_for("join")
async def join(actions: Any, aggregation_results: dict[str, Any], state_history: dict[str, Any]) -> None:
    state_history["joined"] = sorted(result["status"] for result in aggregation_results.values())
    actions.transition_to("end")


@fan.handler_for("end", is_end=True)
async def fan_end(joined: list[str]) -> list[str]:
    return joined


family = Blueprint("family")


@family.handler_for("start", is_start=True)
async def run_child(actions: Any, params: dict[str, Any]) -> None:
    to = {"success": "end", "failure": "failed", "cancelled": "cancelled"}
    actions.run_blueprint("single", {"params": params}, to)


@family.handler_for("end", is_end=True)
async def family_end() -> None: ...


@family.handler_for("failed", is_end=True)
async def family_failed() -> None: ...


@family.handler_for("cancelled", is_end=True)
async def family_cancelled() -> None: ...


asks = Blueprint("asks")


@asks.handler_for("start", is_start=True)
async def ask(actions: Any) -> None:
    actions.await_human_approval("log", "shall it go on?", {"yes": "work", "no": "end", "cancelled": "end"})


@asks.handler_for("work")
async def work(actions: Any, job_id: str) -> None:
    actions.dispatch_task("work", {"token": f"{job_id}:asked"}, {"success": "end", "cancelled": "end"})


@asks.handler_for("end", is_end=True)
async def asked_end(approval: dict[str, Any] | None = None) -> Any:
    return (approval or {}).get("decision")


picky = Blueprint("picky")


@picky.handler_for("start", is_start=True)
async def pick(actions: Any, job_id: str, params: dict[str, Any]) -> None:
    actions.dispatch_task(
        "draw", {"token": f"{job_id}:drawn", **params}, {"success": "end"}, dispatch_strategy="least_connections",
        retries=RetryPolicy(max_attempts=10),
    )  # fmt: skip


@picky.handler_for("end", is_end=True)
async def picky_end() -> None: ...
