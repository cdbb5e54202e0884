"""One task whose name the job brings, and a handler that wants to leave."""

import sys

from avtomatika import Blueprint, RetryPolicy

rough = Blueprint("rough")


@rough.handler_for("start", is_start=True)
async def start(actions, task, params=None):
    once = RetryPolicy(max_attempts=1)
    actions.dispatch_task(task, params or {}, {"success": "end"}, retries=once)


@rough.handler_for("end", is_end=True)
async def end(state_history):
    return state_history


leaving = Blueprint("leaving")


@leaving.handler_for("start", is_start=True)
async def leave(actions, stays=False):
    if not stays:
        sys.exit("the handler wants to leave")
    actions.transition_to("end")


@leaving.handler_for("end", is_end=True)
def leaving_end():
    return None
