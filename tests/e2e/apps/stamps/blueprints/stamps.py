"""Two steps, each of which leaves a file, so that a test can count them."""

from avtomatika import Blueprint

stamps = Blueprint("stamps", api_version="v1", api_endpoint="/stamps")


@stamps.handler_for("first", is_start=True)
async def first(actions, folder):
    actions.dispatch_task("stamp", {"folder": folder, "step": "first"}, {"success": "second"})


@stamps.handler_for("second")
async def second(actions, folder):
    actions.dispatch_task("stamp", {"folder": folder, "step": "second"}, {"success": "done"})


@stamps.handler_for("done", is_end=True)
async def done(state_history):
    return {"steps": [state_history["first"], state_history["second"]]}
