"""A job that brings its worker to a halt."""

from __future__ import annotations

from typing import Any

from avtomatika import Blueprint

stuck = Blueprint("stuck")


@stuck.handler_for("start", is_start=True)
async def start(actions: Any, what: str) -> None:
    actions.dispatch_task("halt", {"what": what}, {"success": "end"})


@stuck.handler_for("end", is_end=True)
async def end(halted: str) -> str:
    return halted
