"""How often and how much clients ask, in Redis: one script call a question, so that any number of facades count together."""

from __future__ import annotations

from avtomatika.jobs import new_id
from avtomatika.state.redis_base import RedisBase
from avtomatika.state.values import microseconds


class RedisQuotas(RedisBase):
    async def take_requests(self, key: str, rate: float, burst: int, now: float, count: int = 1) -> tuple[int, float]:
        script, words = self._script("take_requests"), [*microseconds(rate, burst, now), count]
        go, wait = await self._ask(script(keys=[self._keys.requests(key)], args=words))
        return int(go), int(wait) / 1e6

    async def take_attempt(self, client: str, period: str, most: int, ttl: float) -> bool:
        keys = [self._keys.attempts(client, period), self._keys.call(new_id())]
        return int(await self._ask(self._script("take_attempt")(keys=keys, args=[most, int(ttl * 1000)]))) == 1

    async def return_attempt(self, client: str, period: str) -> None:
        await self._ask(self._script("return_attempt")(keys=[self._keys.attempts(client, period), self._keys.call(new_id())]))
