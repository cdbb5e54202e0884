"""A step on a GPU, and a step on a CPU."""

from avtomatika import Blueprint

render = Blueprint("render")


@render.handler_for("draw", is_start=True)
async def draw(actions, picture):
    actions.dispatch_task("draw", {"picture": picture}, {"success": "drawn"})


@render.handler_for("drawn", is_end=True)
async def drawn(state_history):
    return state_history["where"]


shrink = Blueprint("shrink")


@shrink.handler_for("start", is_start=True)
async def start(actions, picture):
    actions.dispatch_task("shrink", {"picture": picture}, {"success": "done"})


@shrink.handler_for("done", is_end=True)
async def done(state_history):
    return state_history["where"]
