"""Steps on a Celery fleet that was there before."""

import os

from avtomatika import Blueprint, RetryPolicy

FLEET = os.environ.get("FLEET_QUEUE", "fleet")
ONCE = RetryPolicy(max_attempts=1)

values = Blueprint("values")


@values.handler_for("add", is_start=True)
async def add(actions, x, y):
    actions.dispatch_task("plainapp.add", {"x": x, "y": y}, {"success": "describe"}, queue=FLEET)


@values.handler_for("describe")
async def describe(actions, result):
    actions.dispatch_task("plainapp.describe", {"name": f"sum {result}"}, {"success": "look"}, queue=FLEET)


@values.handler_for("look")
async def look(actions):
    actions.dispatch_task("plainapp.modules_of", {"package": "avtomatika"}, {"success": "done"}, queue=FLEET)


@values.handler_for("done", is_end=True)
async def done(state_history):
    return {key: state_history[key] for key in ("name", "length", "result")}


several = Blueprint("several")


@several.handler_for("spread", is_start=True)
async def spread(actions):
    tasks = [{"task_type": "plainapp.add", "params": {"x": n, "y": 1}, "queue": FLEET} for n in range(3)]
    tasks.append({"task_type": "plainapp.explode", "params": {"message": "one of four"}, "queue": FLEET, "retries": ONCE})
    actions.dispatch_parallel(tasks, aggregate_into="joined")


@several.aggregator_for("joined")
async def joined(actions, aggregation_results, state_history):
    state_history["statuses"] = [result["status"] for result in aggregation_results.values()]
    state_history["sums"] = [result["data"]["result"] for result in aggregation_results.values() if result["status"] == "success"]
    actions.transition_to("end")


@several.handler_for("end", is_end=True)
async def end(state_history):
    return {"sums": state_history["sums"], "statuses": state_history["statuses"]}


failing = Blueprint("failing")


@failing.handler_for("explode", is_start=True)
async def explode(actions, message):
    actions.dispatch_task("plainapp.explode", {"message": message}, {"success": "never"}, queue=FLEET, retries=ONCE)


@failing.handler_for("never", is_end=True)
async def never():
    return None


mending = Blueprint("mending")


@mending.handler_for("explode", is_start=True)
async def explode_softly(actions, message):
    actions.dispatch_task(
        "plainapp.explode",
        {"message": message},
        {"success": "mended", "failure": "mended"},
        queue=FLEET,
        retries=RetryPolicy(max_attempts=1, then="failure"),
    )


@mending.handler_for("mended", is_end=True)
async def mended():
    return "mended"


noting = Blueprint("noting")


@noting.handler_for("note", is_start=True)
async def note(actions, path, seconds, line):
    actions.dispatch_task("plainapp.note", {"path": path, "seconds": seconds, "line": line}, {"success": "noted"}, queue=FLEET)


@noting.handler_for("noted", is_end=True)
async def noted(): ...
