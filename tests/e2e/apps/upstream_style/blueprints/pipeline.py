"""Handlers as they are written for the original Avtomatika 1.0 API, with its own import lines."""

from typing import Any

from avtomatika import StateMachineBlueprint
from avtomatika.context import ActionFactory

prices = {"apple": 3, "pear": 4}

pipeline = StateMachineBlueprint(
    name="basket_flow",
    api_version="v1",
    api_endpoint="jobs/basket_flow",
    data_stores={"prices": prices},
)


@pipeline.handler_for("start", is_start=True)
async def start_handler(context, actions):
    context.state_history["seen_by"] = context.job_id
    actions.transition_to("look_up")


@pipeline.handler_for("look_up")
async def look_up_handler(initial_data: dict[str, Any], data_stores: Any, state_history: dict[str, Any], actions: ActionFactory):
    state_history["price"] = await data_stores.prices.get(initial_data["fruit"])
    actions.transition_to("decide")


@pipeline.handler_for("decide").when("context.initial_data.count > 10")
async def large_handler(context, actions):
    actions.dispatch_parallel(
        tasks=[
            {"type": "multiply", "params": {"left": context.state_history["price"], "right": count}}
            for count in (10, context.initial_data["count"] - 10)
        ],
        aggregate_into="sum_up",
    )


@pipeline.handler_for("decide")
async def small_handler(job_id: str, price: int, count: int, actions: ActionFactory):
    actions.dispatch_task(
        task_type="multiply",
        params={"left": price, "right": count, "job": job_id},
        transitions={"success": "finished", "failure": "failed"},
    )


@pipeline.aggregator_for("sum_up")
async def sum_up_handler(context, actions):
    results = context.aggregation_results.values()
    context.state_history["product"] = sum(result["data"]["product"] for result in results)
    actions.transition_to("finished")


@pipeline.handler_for("finished", is_end=True)
async def finished_handler(context, actions):
    return {"total": context.state_history["product"]}


@pipeline.handler_for("failed", is_end=True)
async def failed_handler(context, actions):
    return None
