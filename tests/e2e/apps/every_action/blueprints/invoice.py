"""The child of an order."""

from avtomatika import Blueprint

invoice = Blueprint("invoice")


@invoice.handler_for("price", is_start=True)
async def price(actions, initial_data):
    actions.dispatch_task("price", {"grams": initial_data["grams"]}, {"success": "written"})


@invoice.handler_for("written", is_end=True)
async def written(state_history):
    return {"cents": state_history["cents"]}
