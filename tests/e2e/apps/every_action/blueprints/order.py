"""An order, with each kind of action: transition, branch, task, fan-out, child blueprint, human decision."""

from avtomatika import Blueprint

order = Blueprint("order", api_version="v1", api_endpoint="/orders")


@order.handler_for("received", is_start=True)
async def received(actions, state_history, initial_data):
    state_history["count"] = len(initial_data["items"])
    actions.transition_to("route")


@order.handler_for("route").when("context.initial_data.delivery.kind == 'express' and context.state_history.count > 1")
async def express(actions, items):
    actions.dispatch_task("weigh", {"items": items}, {"success": "pack", "failure": "refused"})


@order.handler_for("route")
async def ordinary(actions):
    actions.transition_to("refused")


@order.handler_for("pack")
async def pack(actions, items):
    parcels = [{"task_type": "pack", "params": {"item": item}} for item in items]
    actions.dispatch_parallel(parcels, aggregate_into="packed")


@order.aggregator_for("packed")
async def packed(actions, aggregation_results, state_history):
    state_history["parcels"] = sorted(result["data"]["parcel"] for result in aggregation_results.values())
    actions.run_blueprint("invoice", {"grams": state_history["grams"]}, {"success": "approve", "failure": "refused"})


@order.handler_for("approve")
async def approve(actions, job_id):
    actions.await_human_approval("log", f"Ship {job_id}?", {"approved": "shipped", "rejected": "refused"})


@order.handler_for("shipped", is_end=True)
def shipped(state_history):
    return {"parcels": state_history["parcels"], "grams": state_history["grams"]}


@order.handler_for("refused", is_end=True)
async def refused():
    return {"parcels": []}
