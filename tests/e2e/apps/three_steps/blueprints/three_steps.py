"""Three tasks, one after the other."""

from avtomatika import Blueprint

three_steps = Blueprint("three_steps")


@three_steps.handler_for("one", is_start=True)
async def one(actions, number):
    actions.dispatch_task("add_one", {"number": number}, {"success": "two"})


@three_steps.handler_for("two")
async def two(actions, state_history):
    actions.dispatch_task("add_one", {"number": state_history["sum"]}, {"success": "three"})


@three_steps.handler_for("three")
async def three(actions, state_history):
    actions.dispatch_task("add_one", {"number": state_history["sum"]}, {"success": "done"})


@three_steps.handler_for("done", is_end=True)
async def done(state_history):
    return state_history["sum"]
