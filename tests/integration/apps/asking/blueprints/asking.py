"""A process that asks, and an integration that passes questions on as lines of a file."""

import os

from avtomatika import Blueprint, integration

bp = Blueprint("asking", api_version="v1", api_endpoint="/asking")


@integration("paper")
async def write_down(request):
    with open(os.environ["PAPER"], "a", encoding="utf-8") as file:
        file.write(f"{request.job_id} {request.token}\n")


@bp.handler_for("start", is_start=True)
async def start(actions, initial_data):
    if "integration" not in initial_data:
        actions.transition_to("yes")
        return
    name, seconds = initial_data["integration"], initial_data.get("seconds")
    late = "late" if seconds else None
    actions.await_human_approval(name, "Shall we?", {"approved": "yes", "rejected": "no"}, seconds, late)


@bp.handler_for("yes", is_end=True)
async def yes():
    return {"answer": "yes"}


@bp.handler_for("no", is_end=True)
async def no():
    return {"answer": "no"}


@bp.handler_for("late", is_end=True)
async def late():
    return {"answer": "none"}
