"""Deliveries in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from avtomatika.deliveries import Delivery
from avtomatika.jobs import Message
from avtomatika.state.memory_base import MemoryBase


class MemoryDeliveries(MemoryBase):
    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        super().__init__(push)
        self._secrets: dict[str, str] = {}

    async def delivery(self, delivery_id: str) -> Delivery | None:
        return self._deliveries.get(delivery_id)

    async def due_receivers(self, now: float, limit: int = 1000) -> Sequence[str]:
        return list(dict.fromkeys(delivery.receiver for delivery in self._due(now)))[:limit]

    async def due_deliveries(self, receiver: str, now: float, limit: int = 1000) -> Sequence[str]:
        return [delivery.id for delivery in self._due(now) if delivery.receiver == receiver][:limit]

    def _due(self, now: float) -> list[Delivery]:
        due = (delivery for delivery in self._deliveries.values() if not delivery.is_over and delivery.due <= now)
        return sorted(due, key=lambda delivery: (delivery.due, delivery.id))

    async def replace_delivery(self, delivery: Delivery) -> bool:
        stored = self._deliveries.get(delivery.id)
        if stored is None or stored.version != delivery.version - 1:
            return False
        self._deliveries[delivery.id] = delivery
        return True

    async def forget_delivery(self, receiver: str, delivery_id: str) -> None: ...  # there is no index beside the records

    async def secret(self, name: str) -> str:
        return self._secrets.setdefault(name, secrets.token_hex(32))
