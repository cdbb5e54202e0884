"""Logs of jobs in Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil

from avtomatika.state.joblogs import LogLine
from avtomatika.state.redis_base import RedisBase, dumps


class RedisJobLogs(RedisBase):
    async def append_log(self, job_id: str, lines: Sequence[tuple[float, str]], most: int) -> None:
        if not lines:
            return
        key = self._keys.job_log(job_id)
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.rpush(key, *(dumps([at, text.encode("utf-8", "replace").decode()]) for at, text in lines[-most:]))
            pipe.ltrim(key, -most, -1)
            # Forgotten with its job; this is for what is said after that.
            pipe.expire(key, ceil(self._retention) + 24 * 3600)
            await self._ask(pipe.execute())

    async def job_log(self, job_id: str, limit: int = 1000) -> Sequence[LogLine]:
        rows = await self._ask(self._client.lrange(self._keys.job_log(job_id), -limit, -1))
        return [LogLine(*json.loads(row)) for row in rows]
