"""Jobs of mixed shapes over the facades, with the people who answer and cancel some of them."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.support.processes import Facade

#: Weights of the shapes.
SHAPES = {"single": 44, "flaky": 8, "fan": 14, "family": 10, "picky": 10, "asks": 7, "long": 7}
#: Asked for again for so long: a fault ends some time.
PATIENCE_SECONDS = 120.0
_NOT_YET = (502, 503, 504)


class Load:
    """
    Attributes:
        accepted: ids of jobs, each with its shape, as answered with 202.
        made: how many jobs of each shape.
    """

    def __init__(self, facades: list[Facade], chance: random.Random) -> None:
        self._facades = facades
        self._chance = chance
        self._session = aiohttp.ClientSession(
            headers={"X-Client-Token": facades[0].token}, timeout=aiohttp.ClientTimeout(total=15)
        )
        self._people: set[asyncio.Task[None]] = set()
        self.accepted: dict[str, str] = {}
        self.made: Counter[str] = Counter()

    async def close(self) -> None:
        await self._session.close()

    async def run(self, may_go_on: Callable[[], bool], has_room: Callable[[], bool], at_once: int = 8) -> None:
        """Creates jobs, so many at once, while there is room for more."""

        async def one_after_the_other() -> None:
            while may_go_on():
                if has_room():
                    await self.create()
                else:
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))

    async def create(self) -> str:
        [shape] = self._chance.choices(list(SHAPES), list(SHAPES.values()))
        blueprint, data = self._order(shape)
        body = {"blueprint": blueprint, "initial_data": data}
        answer = await self._until("/api/v1/jobs", body, {"Idempotency-Key": str(uuid.uuid4())})
        job_id = str(answer["job_id"])
        self.accepted[job_id] = shape
        self.made[shape] += 1
        if shape == "asks":
            self._later(self._decide(job_id))
        elif shape == "long":
            self._later(self._cancel(job_id))
        return job_id

    async def people_are_done(self) -> None:
        while self._people:
            await asyncio.wait(self._people)

    def _later(self, coro: Any) -> None:
        task = asyncio.ensure_future(coro)
        self._people.add(task)
        task.add_done_callback(self._people.discard)

    def _order(self, shape: str) -> tuple[str, dict[str, Any]]:
        seconds = self._chance.uniform(0, 0.05) if self._chance.random() < 0.8 else self._chance.uniform(0.2, 1.5)
        params = {"seconds": round(seconds, 3)}
        match shape:
            case "flaky":
                return "single", {"params": {**params, "failures": 1}}
            case "fan":
                return "fan", {"params": params, "count": self._chance.randint(2, 5)}
            case "long":
                return "single", {"params": {"seconds": 60}}
            case _:
                return shape, {"params": params}

    async def _decide(self, job_id: str) -> None:
        await asyncio.sleep(self._chance.uniform(0, 1))
        await self._until(f"/api/v1/jobs/{job_id}/decide", {"decision": self._chance.choice(["yes", "no"])}, fits=(200, 409))
        # 409: it does not ask yet, or an earlier answer of ours was taken and its answer lost.
        while (await self._status(job_id)) in ("pending", "running", "waiting_for_human"):
            await asyncio.sleep(0.5)
            await self._until(f"/api/v1/jobs/{job_id}/decide", {"decision": "yes"}, fits=(200, 409))

    async def _cancel(self, job_id: str) -> None:
        await asyncio.sleep(self._chance.uniform(0, 2))
        await self._until(f"/api/v1/jobs/{job_id}/cancel", {}, fits=(200, 202, 409))

    async def _status(self, job_id: str) -> str:
        answer = await self._until(f"/api/v1/jobs/{job_id}")
        return str(answer["status"])

    async def _until(
        self, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None, fits: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """Asks facade after facade until one has answered."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        while True:
            facade = self._chance.choice(self._facades)
            try:
                method = "GET" if body is None else "POST"
                async with self._session.request(method, facade.url + path, json=body, headers=headers) as response:
                    if response.status in _NOT_YET:
                        raise ConnectionError(f"{response.status}")
                    answer: dict[str, Any] = await response.json()
                    if response.status not in (fits or (200, 202)):
                        raise RuntimeError(f"{path} was answered {response.status}: {answer}")
                    return answer
            except (aiohttp.ClientError, OSError, TimeoutError):
                if loop.time() > until:
                    raise
                await asyncio.sleep(0.1)
