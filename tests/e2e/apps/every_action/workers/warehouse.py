"""Who weighs, packs and prices: one task a way to write it."""

from dataclasses import dataclass

from pydantic import BaseModel

from avtomatika import Worker

worker = Worker("warehouse", max_concurrent_tasks=4, task_type_limits={"cpu": 3})


class Parcel(BaseModel):
    item: str


@dataclass
class Price:
    grams: int


@worker.task("weigh", task_type="cpu")
async def weigh(params, **kwargs):
    return {"grams": sum(len(item) for item in params["items"])}


@worker.task("pack", task_type="cpu")
def pack(params: Parcel, task_id):
    assert task_id
    return {"status": "success", "data": {"parcel": f"box of {params.item}"}}


@worker.task("price")
async def price(params: Price):
    return {"cents": 7 * params.grams}
