"""A job without a task, one of one and one of three, with tasks that do nothing."""

from avtomatika import Blueprint

none = Blueprint("no_step")


@none.handler_for("first", is_start=True)
async def first_of_none(actions):
    actions.transition_to("end")


@none.handler_for("end", is_end=True)
async def end_of_none(): ...


one = Blueprint("one_step")


@one.handler_for("first", is_start=True)
async def first(actions):
    actions.dispatch_task("nothing", {"n": 1}, {"success": "end"})


@one.handler_for("end", is_end=True)
async def end(n):
    return n


three = Blueprint("three_steps")


@three.handler_for("first", is_start=True)
async def first_of_three(actions):
    actions.dispatch_task("nothing", {"n": 1}, {"success": "second"})


@three.handler_for("second")
async def second(actions, n):
    actions.dispatch_task("nothing", {"n": n + 1}, {"success": "third"})


@three.handler_for("third")
async def third(actions, n):
    actions.dispatch_task("nothing", {"n": n + 1}, {"success": "end"})


@three.handler_for("end", is_end=True)
async def end_of_three(n):
    return n
