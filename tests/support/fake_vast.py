"""Vast.ai on a local port: offers, rentals and instances, as its REST API has them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.fakes import FakeService

KEY = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#: Instances on a page.
PAGE = 25


def offer(id_: int, price: float, **more: Any) -> dict[str, Any]:
    """As the API tells of one; `price` is without the disk."""
    return {
        "id": id_, "ask_contract_id": id_, "machine_id": id_ + 1000, "gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564,
        "cpu_cores_effective": 16, "cpu_ram": 64000, "disk_space": 500.0, "dph_base": price, "storage_cost": 0.1, "score": 100.0,
        "reliability2": 0.99, "cuda_max_good": 12.8, "inet_down": 900.0, "inet_up": 800.0, "geolocation": "Sweden, SE",
        "duration": 1e6, "verified": True, "external": False, "rentable": True, "rented": False, **more,
    }  # fmt: skip


@dataclass
class FakeVast(FakeService):
    """
    Attributes:
        slow: seconds that a rental takes.
    """

    offers: dict[int, dict[str, Any]] = field(default_factory=dict)
    instances: dict[int, dict[str, Any]] = field(default_factory=dict)
    slow: float = 0.0
    refuses: bool = False
    _next: int = 7_000_000

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/v0/bundles/", self._search),
            web.put("/api/v0/asks/{id}/", self._create),
            web.get("/api/v1/instances/", self._list),
            web.delete("/api/v0/instances/{id}/", self._destroy),
        ]

    def rent(self, label: str | None = None, status: str = "running") -> int:
        """An instance that is there already."""
        self._next += 1
        self.instances[self._next] = {
            "id": self._next, "label": label, "actual_status": status, "intended_status": status, "cur_state": status,
            "gpu_name": "RTX 4090", "num_gpus": 1, "dph_total": 0.4, "image_uuid": "pytorch/pytorch", "ssh_host": "ssh5.vast.ai",
            "ssh_port": 10600, "jupyter_token": "a-secret-of-the-instance", "extra_env": [["HF_TOKEN", "another-secret"]],
            "start_date": 1.7e9, "machine_id": 12,
        }  # fmt: skip
        return self._next

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Bearer {KEY}":
            return None
        return _error(401, "auth_error", "Invalid user key")

    async def _search(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        query = await request.json()
        storage = query.pop("allocated_storage", 5)
        order, limit, type_ = query.pop("order", []), query.pop("limit", 64), query.pop("type")
        assert type_ == "on-demand"
        found = [{**one, "dph_total": one["dph_base"] + one["storage_cost"] * storage / 730} for one in self.offers.values()]
        found = [one for one in found if all(_fits(one.get(name), tests) for name, tests in query.items())]
        for name, direction in reversed(order):
            found.sort(key=lambda one: one[name], reverse=direction == "desc")
        return web.json_response({"offers": found[: min(limit, 64)]})

    async def _create(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await request.json()
        found = self.offers.get(int(request.match_info["id"]))
        if found is None or found["rented"]:
            return _error(410, "no_such_ask", f"error 404/3603: no_such_ask {request.match_info['id']}")
        if self.refuses:
            return web.json_response({"success": False, "error": "invalid_args", "msg": "disk is too small"})
        found["rented"] = True
        id_ = self.rent(body.get("label"))
        self.instances[id_] |= {"image_uuid": body["image"], "disk_space": body["disk"]}
        await asyncio.sleep(self.slow)
        return web.json_response({"success": True, "new_contract": id_, "instance_api_key": "c" * 64})

    async def _list(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        filters = json.loads(request.query.get("select_filters", "{}"))
        after = int(request.query.get("after_token", 0))
        found = [one for one in self.instances.values() if all(_fits(one.get(name), tests) for name, tests in filters.items())]
        page = [one for one in found if one["id"] > after][:PAGE]
        more = bool(page) and page[-1]["id"] != found[-1]["id"]
        return web.json_response(
            {
                "success": True,
                "instances": page,
                "total_instances": len(found),
                "next_token": str(page[-1]["id"]) if more else None,
            }
        )

    async def _destroy(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if self.refuses:
            return web.json_response({"success": False, "msg": "not now"})
        if self.instances.pop(int(request.match_info["id"]), None) is None:
            return _error(404, "no_such_instance", "Instance not found")
        return web.json_response({"success": True})


def _error(status: int, error: str, message: str) -> web.Response:
    return web.json_response({"success": False, "error": error, "msg": message}, status=status)


def _fits(value: Any, tests: dict[str, Any]) -> bool:
    operators = {"eq": lambda a, b: a == b, "gte": lambda a, b: a >= b, "lte": lambda a, b: a <= b}
    return all(operators[name](value, wanted) for name, wanted in tests.items())
