"""Tasks of any kind in a random order of events: no limit is exceeded, nobody is forgotten, and nothing is left in the end."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from avtomatika.jobs import Limit, TaskInfo, TaskState
from avtomatika.state.base import ClaimOutcome
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW

LIMITS = [Limit("one", 1), Limit("three", 3), Limit("rate", 4, 20.0), Limit("rate", 2, 5.0), Limit("three", 2)]
#: What the scripts keep of lanes, limits and turns: gone once all tasks are over.
KEPT = re.compile(
    r".*:(lanes?|line|ready|seats|turns|served|queued|parked|specs|parkings|lease|leases|picking|unclaimed|claims)\b.*"
)


class Bustle:
    """Random events over one store. Times only grow; a worker's slots suffice for all."""

    def __init__(self, kit: Kit, line: Line, seed: int) -> None:
        self.kit = kit
        self.line = line
        self.random = random.Random(seed)
        self.now = 0.0
        self.open: dict[str, TaskInfo] = {}
        self.workers: set[str] = set()
        self.fickle = 0.2

    async def event(self) -> None:
        self.now += self.random.random()
        events = [self.new] * 6 + [self.place] * 3 + [self.claim] * 3 + [self.end] * 4 + [self.time] * 2 + [self.staff, self.undo]
        await self.random.choice(events)()

    async def new(self) -> None:
        names = dict.fromkeys(limit.key for limit in self.random.sample(LIMITS, self.random.choice([0, 0, 1, 1, 2])))
        limits = tuple(self.random.choice([limit for limit in LIMITS if limit.key == name]) for name in names)
        fields = {
            "type": self.random.choice(["work", "work", "rest"]),
            "limits": limits,
            "fairness_key": self.random.choice("abc"),
            "fairness_weight": self.random.choice([0.5, 1.0, 3.0]),
            "priority": self.random.choice([0.0, 0.0, 5.5]),
        }
        kind = self.random.choice(["pull", "pull", "pick", "plain", "warm"])
        if kind == "pick":
            info = await self.line.pick(self.now, self.random.choice(["s", "t"]), **fields)
        elif kind == "plain":
            info = await self.line.pull(self.now, queue="fleet", **fields)
        else:
            info = await self.line.pull(self.now, unless_warm=kind == "warm", **fields)
        self.open[info.id] = info

    async def staff(self) -> None:
        """A worker comes, goes, loads its model or lets it go."""
        name = self.random.choice(["w1", "w2"])
        if name in self.workers and self.random.random() < 0.5:
            self.workers.discard(name)
            held = [*(await self.kit.store.claims(f"boot-{name}"))[1], *await self.kit.store.assigned(f"boot-{name}")]
            await self.kit.store.unregister(name, f"boot-{name}", NOW + self.now)
            for task_id in held:  # as the housekeeping does
                await self.over(task_id)
            await self.kit.store.forget_boot(f"boot-{name}", NOW + self.now)
            return
        await self.come(name)

    async def come(self, name: str) -> None:
        self.workers.add(name)
        hot = ("model",) if self.random.random() < 0.5 else ()
        tasks = ("work", "rest") if name == "w1" else ("work",)
        fields = {"tasks": tasks, "supported_tasks": tasks, "hot_cache": hot, "skill_dependencies": {"work": ["model"]}}
        await self.line.worker(name, slots=1000, at=self.now, **fields)

    async def place(self) -> None:
        for task_type in await self.kit.store.picking():
            heads = await self.kit.store.heads(task_type, 4)
            workers = [w for w in await self.kit.store.workers(NOW + self.now) if task_type in w.tasks]
            if heads and workers:
                await self.line.assign(self.random.choice(heads).info, self.random.choice(workers), at=self.now)

    async def claim(self) -> None:
        for task_id in self.some():
            record = await self.kit.store.get_task(task_id)
            if record is not None and record.state is TaskState.DISPATCHED and not record.info.is_plain and self.workers:
                name = record.assigned_to or self.random.choice(sorted(self.workers))
                claim = await self.line.claim(task_id, at=self.now, name=name)
                assert claim.outcome in (ClaimOutcome.OK, ClaimOutcome.STALE)

    async def end(self) -> None:
        for task_id in self.some():
            record = await self.kit.store.get_task(task_id)
            if record is not None and record.state is TaskState.CLAIMED:
                await self.line.finish(task_id, at=self.now, name=record.worker_id or "")
            if record is None or record.state in (TaskState.CLAIMED, TaskState.DONE) or record.info.is_plain:
                await self.over(task_id)
            elif self.random.random() < self.fickle:
                await self.over(task_id)  # the job goes another way

    async def over(self, task_id: str) -> None:
        await self.line.drop(self.open.pop(task_id), at=self.now)

    async def undo(self) -> None:
        for task_id in self.some():
            record = await self.kit.store.get_task(task_id)
            if record is not None and record.state is TaskState.CLAIMED:
                assert await self.kit.store.release_task(task_id, record.boot_id or "", NOW + self.now)
            elif record is not None and record.assigned_to is not None:
                await self.kit.store.unassign(task_id, NOW + self.now, avoid=self.random.random() < 0.5)

    async def time(self) -> None:
        self.now += self.random.choice([0.5, 3.0])
        for timer in await self.kit.store.due(NOW + self.now):
            await self.kit.store.drop_timer(timer)
            if timer.kind == "limit":
                await self.kit.store.unpark(timer.key, NOW + self.now)

    def some(self) -> list[str]:
        return self.random.sample(sorted(self.open), min(4, len(self.open)))

    async def check(self) -> None:
        """No more hold a lease than any of them allows."""
        held: Counter[str] = Counter()
        most: dict[str, int] = {}
        for task_id in self.open:
            record = await self.kit.store.get_task(task_id)
            if record is not None and record.state in (TaskState.DISPATCHED, TaskState.CLAIMED):
                for limit in record.info.limits:
                    if limit.seconds is None:
                        held[limit.key] += 1
                        most[limit.key] = max(limit.count, most.get(limit.key, 0))
        assert all(held[key] <= most[key] for key in held), held


@pytest.mark.parametrize("seed", range(6))
async def test_nobody_is_forgotten_and_nothing_is_left(kit: Kit, line: Line, seed: int) -> None:
    bustle = Bustle(kit, line, seed)
    for n in range(250):
        await bustle.event()
        if n % 10 == 0:
            await bustle.check()

    bustle.fickle = 0
    for name in ("w1", "w2"):
        await bustle.come(name)
    for _ in range(400):
        if not bustle.open:
            break
        for step in (bustle.time, bustle.place, bustle.place, bustle.claim, bustle.end):
            await step()
    waiting = [(await line.record(info)) for info in bustle.open.values()]
    assert waiting == [], "they never go"
    if kit.redis is not None:
        await bustle.time()
        left = [key async for key in kit.redis.scan_iter(f"{kit.namespace}:*") if KEPT.fullmatch(key)]
        assert left == []
