"""The smallest process: one task, one end."""

from __future__ import annotations

from typing import Any

from avtomatika import ActionFactory, Blueprint

hello = Blueprint("hello", api_version="v1", api_endpoint="/hello")


@hello.handler_for("greet", is_start=True)
async def greet(actions: ActionFactory, name: str = "world") -> None:
    actions.dispatch_task("greet", {"name": name}, transitions={"success": "finished"})


@hello.handler_for("finished", is_end=True)
async def finished(greeting: str) -> dict[str, Any]:
    return {"greeting": greeting}
