"""Offers that are to be had, and instances that are rented."""

from __future__ import annotations

from pydantic import Field

from avtomatika.operations.base import Params
from avtomatika.operations.context import OperationContext
from avtomatika.operations.vast.base import base_url_of, family, opened, pick
from avtomatika.results import JSON

#: What is asked of every offer: that it can be rented now, on a machine that Vast.ai has checked.
RENTABLE: JSON = {"verified": {"eq": True}, "external": {"eq": False}, "rentable": {"eq": True}, "rented": {"eq": False}}
OFFER = (
    "id", "machine_id", "gpu_name", "num_gpus", "gpu_ram", "cpu_cores_effective", "cpu_ram", "disk_space", "dph_total", "score",
    "reliability2", "cuda_max_good", "inet_down", "inet_up", "geolocation", "duration",
)  # fmt: skip
INSTANCE = (
    "id", "label", "actual_status", "intended_status", "cur_state", "status_msg", "machine_id", "gpu_name", "num_gpus",
    "gpu_util", "dph_total", "disk_space", "image_uuid", "public_ipaddr", "ssh_host", "ssh_port", "geolocation", "start_date",
    "end_date",
)  # fmt: skip


class Search(Params):
    """Looks for offers.

    Args:
        gpu_name: such as ``RTX 4090``.
        min_gpu_ram: of one GPU, in GB.
        max_price_per_hour: in US dollars, with the disk.
        disk_space: in GB, at least.
        order: fields of an offer, each with ``-`` behind it for the highest first.
    """

    gpu_name: str | None = Field(None, pattern=r"^[A-Za-z0-9 ._-]{1,100}$")
    min_gpu_count: int = Field(1, ge=1, le=64)
    max_gpu_count: int | None = Field(None, ge=1, le=64)
    min_gpu_ram: float | None = Field(None, gt=0, le=10_000)
    max_price_per_hour: float | None = Field(None, gt=0, le=10_000)
    disk_space: float | None = Field(None, gt=0, le=1_000_000)
    order: str = Field("score-", pattern=r"^[a-z0-9_]+[+-]?(,[a-z0-9_]+[+-]?){0,9}$")
    limit: int = Field(20, ge=1, le=64)
    credential: str = "vast"


@family.operation("vast_search", timeout_seconds=60, guard=lambda params, permit: base_url_of(permit, params.credential))
async def vast_search(params: Search, op: OperationContext) -> JSON:
    """Looks for offers: those that the policy's ceiling of costs allows."""
    async with opened(op, params.credential) as api:
        offers = await api.offers(query_of(params, op.permit.option("max_price_per_hour")))
    op.log(f"{len(offers)} offers")
    return {"offers": [pick(offer, *OFFER) for offer in offers[: params.limit]], "count": len(offers[: params.limit])}


def query_of(params: Search, ceiling: float | None) -> JSON:
    """The question, as the API takes it; memory of GPUs is in MB there."""
    query: JSON = {**RENTABLE, "num_gpus": {"gte": params.min_gpu_count}}
    if params.max_gpu_count is not None:
        query["num_gpus"]["lte"] = params.max_gpu_count
    if params.gpu_name is not None:
        query["gpu_name"] = {"eq": params.gpu_name.replace("_", " ")}
    if params.min_gpu_ram is not None:
        query["gpu_ram"] = {"gte": params.min_gpu_ram * 1000}
    if params.disk_space is not None:
        query["disk_space"] = {"gte": params.disk_space}
    prices = [price for price in (params.max_price_per_hour, ceiling) if price is not None]
    if prices:
        query["dph_total"] = {"lte": min(prices)}
    order = [[name.rstrip("+-"), "desc" if name.endswith("-") else "asc"] for name in params.order.split(",")]
    return {**query, "order": order, "type": "on-demand", "limit": params.limit, "allocated_storage": params.disk_space or 10}


class Instances(Params):
    """Lists instances.

    Args:
        show_all: those that are stopped, too.
    """

    show_all: bool = False
    credential: str = "vast"


@family.operation("vast_list", timeout_seconds=120, guard=lambda params, permit: base_url_of(permit, params.credential))
async def vast_list(params: Instances, op: OperationContext) -> JSON:
    """Lists the instances of the account, and what they cost in an hour."""
    async with opened(op, params.credential) as api:
        found = await api.instances(checkpoint=op.checkpoint)
    shown = [pick(one, *INSTANCE) for one in found if params.show_all or one.get("intended_status") == "running"]
    cost = sum(float(one["dph_total"] or 0) for one in shown)
    return {"instances": shown, "count": len(shown), "cost_per_hour": round(cost, 6)}
