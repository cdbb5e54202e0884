"""How often and how much clients ask, in memory."""

from __future__ import annotations

from avtomatika.state.values import microseconds


class MemoryQuotas:
    def __init__(self) -> None:
        self._paid: dict[str, int] = {}
        self._attempts: dict[tuple[str, str], int] = {}

    async def take_requests(self, key: str, rate: float, burst: int, now: float, count: int = 1) -> tuple[int, float]:
        at, one, whole = microseconds(rate, burst, now)
        paid = max(self._paid.get(key, 0), at)
        go = min(count, (at + whole - paid) // one)
        if go < 1:
            return 0, (paid + one - at - whole) / 1e6
        self._paid[key] = paid + go * one
        return go, 0.0

    async def take_attempt(self, client: str, period: str, most: int, ttl: float) -> bool:
        taken = self._attempts.get((client, period), 0)
        if taken >= most:
            return False
        self._attempts[client, period] = taken + 1
        return True

    async def return_attempt(self, client: str, period: str) -> None:
        self._attempts[client, period] = max(0, self._attempts.get((client, period), 0) - 1)
