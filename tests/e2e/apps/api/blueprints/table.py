"""A blueprint for each state that the API's table needs a job in."""

from __future__ import annotations

from typing import Any

from avtomatika import Blueprint

echo = Blueprint("echo", api_version="v1", api_endpoint="/echo")


@echo.handler_for("start", is_start=True, is_end=True)
async def start(initial_data: Any) -> Any:
    return initial_data


work = Blueprint("work", api_version="v2", api_endpoint="/work")


@work.handler_for("begin", is_start=True)
async def begin(actions: Any) -> None:
    actions.dispatch_task("draw", {"n": 1}, {"success": "done", "cancelled": "tidy"})


@work.handler_for("tidy")
async def tidy(actions: Any) -> None:
    actions.transition_to("tidied")


@work.handler_for("tidied", is_end=True)
async def tidied() -> str:
    return "tidied"


@work.handler_for("done", is_end=True)
async def done(state_history: Any) -> Any:
    return state_history


ask = Blueprint("ask")


@ask.handler_for("question", is_start=True)
async def question(actions: Any) -> None:
    actions.await_human_approval("log", "Really?", {"approved": "yes", "rejected": "no"})


@ask.handler_for("yes", is_end=True)
async def yes(approval: Any) -> Any:
    return approval


@ask.handler_for("no", is_end=True)
async def no() -> None: ...
