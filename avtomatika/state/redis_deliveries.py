"""Deliveries in Redis: each in a hash, those that are not over in an index of their receiver by due time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from avtomatika.deliveries import Delivery
from avtomatika.state.redis_base import Command, RedisBase, dumps, loads, text


class RedisDeliveries(RedisBase):
    def _delivery_commands(self, delivery: Delivery) -> list[Command]:
        key = self._keys.delivery(delivery.id)
        kept: list[Command] = [("HSET", key, "v", delivery.version, "d", dumps(delivery.to_dict()))]
        if delivery.is_over:
            return [*kept, ("@due", delivery.receiver, delivery.id, ""), ("EXPIRE", key, self._retention)]
        return [*kept, ("@due", delivery.receiver, delivery.id, delivery.due)]

    async def delivery(self, delivery_id: str) -> Delivery | None:
        body = await self._ask(self._client.hget(self._keys.delivery(delivery_id), "d"))
        return Delivery.from_dict(loads(body)) if body is not None else None

    async def due_receivers(self, now: float, limit: int = 1000) -> Sequence[str]:
        return await self._due(self._keys.receivers, now, limit)

    async def due_deliveries(self, receiver: str, now: float, limit: int = 1000) -> Sequence[str]:
        return await self._due(self._keys.deliveries_to(receiver), now, limit)

    async def _due(self, index: str, now: float, limit: int) -> list[str]:
        members: Any = await self._ask(self._client.zrange(index, "-inf", now, byscore=True, offset=0, num=limit))
        return [text(member) for member in members]

    async def replace_delivery(self, delivery: Delivery) -> bool:
        guard = (self._keys.delivery(delivery.id), "v", delivery.version - 1)
        return (await self._apply([guard], self._delivery_commands(delivery))).applied

    async def forget_delivery(self, receiver: str, delivery_id: str) -> None:
        await self._apply([(self._keys.delivery(delivery_id), "v", "")], [("@due", receiver, delivery_id, "")])

    async def secret(self, name: str) -> str:
        key = self._keys.secret(name)
        await self._ask(self._client.set(key, secrets.token_hex(32), nx=True))
        return text(await self._ask(self._client.get(key)))
