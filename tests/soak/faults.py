"""One random fault after the other, out of a seed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import uuid
from collections import Counter
from contextlib import suppress

import redis

from tests.soak.installation import KEPT, Installation

#: Weights of the faults.
FAULTS = {"kill": 20, "terminate": 12, "freeze process": 14, "cut": 14, "freeze connections": 12, "half-open": 6, "refuse": 6,
          "repeat messages": 10, "kill redis": 4, "restart redis": 2}  # fmt: skip


class Faults:
    """
    Attributes:
        done: how many of each kind.
        log: a line each.
    """

    def __init__(self, installation: Installation, chance: random.Random) -> None:
        self._town = installation
        self._chance = chance
        self._healing: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()
        self.done: Counter[str] = Counter()
        self.log: list[str] = []

    async def run(self, interval: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(interval)
            self.one()

    def one(self) -> None:
        [kind] = self._chance.choices(list(FAULTS), list(FAULTS.values()))
        seconds = self._chance.choice([0.2, 1, 3, 8, 12])
        match kind:
            case "kill" | "terminate":
                name = self._victim(kept=False)
                heal = self._killed(name) if kind == "kill" else self._terminated(name)
            case "freeze process":
                name = self._victim()
                heal = self._stopped(name, seconds)
            case "cut" | "freeze connections" | "half-open" | "refuse":
                name = self._victim(proxied=True)
                heal = self._network(kind, name, seconds)
            case "repeat messages":
                name, heal = "orchestrator queue", self._repeated()
            case _:
                name, heal = "redis", self._redis(kill=kind == "kill redis")
        if name == "" or name in self._busy:
            heal.close()
            return
        self.done[kind] += 1
        self.log.append(f"{kind} {name} {seconds:g}")
        self._busy.add(name)
        task = asyncio.ensure_future(heal)
        self._healing.add(task)

        def healed(ended: asyncio.Task[None]) -> None:
            self._healing.discard(ended)
            self._busy.discard(name)
            if not ended.cancelled() and ended.exception() is not None:
                self.log.append(f"a fault failed: {ended.exception()!r}")

        task.add_done_callback(healed)

    async def healed(self) -> None:
        """All is well again: what was stopped goes on, what was killed runs."""
        while self._healing:
            await asyncio.wait(self._healing)
        for member in self._town.members.values():
            if not member.running:
                member.start()

    def _victim(self, *, kept: bool = True, proxied: bool = False) -> str:
        names = [
            name for name in self._town.members if (kept or name not in KEPT) and (not proxied or name in self._town.proxies)
        ]
        return self._chance.choice(names)

    async def _killed(self, name: str) -> None:
        self._town.kill(name)
        await asyncio.sleep(self._chance.uniform(0, 3))
        self._town.members[name].start()

    async def _terminated(self, name: str) -> None:
        member = self._town.members[name]
        member.signal(signal.SIGTERM)
        for _ in range(200):
            if not member.running:
                break
            await asyncio.sleep(0.1)
        else:
            self.log.append(f"{name} did not end within 20 s of SIGTERM")
            self._town.kill(name)
        member.start()

    async def _stopped(self, name: str, seconds: float) -> None:
        member = self._town.members[name]
        member.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        member.signal(signal.SIGCONT)

    async def _network(self, kind: str, name: str, seconds: float) -> None:
        proxy = self._town.proxies[name]
        match kind:
            case "cut":
                proxy.cut()
            case "half-open":
                proxy.half_open()
            case "refuse":
                proxy.refuse()
                await asyncio.sleep(seconds)
                proxy.accept()
            case _:
                proxy.freeze()
                await asyncio.sleep(seconds)
                proxy.thaw()

    async def _redis(self, *, kill: bool) -> None:
        server = self._town.redis
        server.signal(signal.SIGKILL if kill else signal.SIGTERM)
        while server.running:
            await asyncio.sleep(0.02)
        await asyncio.sleep(self._chance.uniform(0, 2))
        server.start()

    async def _repeated(self) -> None:
        """What lies in the orchestrators' queue, and what they have in their hands, comes once more."""
        with suppress(redis.RedisError), self._town.client() as client:
            rows: list[str] = list(client.lrange("orchestrator", 0, 50))  # type: ignore[arg-type]
            for _, body in client.hscan_iter("unacked", count=50):
                message, _, queue = json.loads(body)
                if queue == "orchestrator":
                    rows.append(json.dumps(message))
            self._chance.shuffle(rows)
            for row in rows[:50]:
                copy = json.loads(row)
                copy["properties"]["delivery_tag"] = str(uuid.uuid4())
                client.lpush("orchestrator", json.dumps(copy))
