"""Whatever order messages come in, whichever are lost or doubled, and whoever dies: each job ends once, as it should."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import Event, JobStatus
from tests.support.machine import Killed, Machine

ROUNDS = 150
CALLS = (
    "commit",
    "claim_job",
    "release_job",
    "load",
    "get_task",
    "claim_task",
    "finish_task",
    "branch_done",
    "branches",
    "claims",
    "publish",
    "heads",
    "candidates",
    "knowing",
    "assign",
    "unassign",
    "enter",
    "assigned",
)


def _blueprints() -> list[Blueprint]:
    whole, leaf = Blueprint("whole"), Blueprint("leaf")

    @whole.handler_for("start", is_start=True)
    async def start(actions: Any, state_history: dict[str, Any]) -> None:
        state_history["path"] = ["start"]
        actions.transition_to("one")

    @whole.handler_for("one")
    async def one(actions: Any, path: list[str], state_history: dict[str, Any]) -> None:
        state_history["path"] = [*path, "one"]
        actions.dispatch_task("work", {"n": 1}, {"success": "many"}, dispatch_strategy="round_robin", max_cost=1)

    @whole.handler_for("many")
    async def many(actions: Any, path: list[str], state_history: dict[str, Any]) -> None:
        state_history["path"] = [*path, "many"]
        picked = {"resource_requirements": {"cpu_cores": 2}}
        tasks = [{"task_type": "work", "params": {"n": n}, **(picked if n < 4 else {})} for n in (2, 3, 4)]
        actions.dispatch_parallel(tasks, "merge")

    @whole.aggregator_for("merge")
    async def merge(actions: Any, aggregation_results: Any, state_history: dict[str, Any], path: list[str]) -> None:
        state_history["path"] = [*path, "merge"]
        state_history["sum"] = sum(result["data"]["n"] for result in aggregation_results.values())
        actions.run_blueprint("leaf", {}, {"success": "end"})

    @whole.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    @leaf.handler_for("start", is_start=True)
    async def begin(actions: Any) -> None:
        actions.dispatch_task("work", {"n": 5}, {"success": "end"})

    @leaf.handler_for("end", is_end=True)
    async def leave(n: int) -> dict[str, int]:
        return {"leaf": n}

    return [whole, leaf]


class Chaos:
    """A machine on which what can go wrong between processes does, by a seed."""

    def __init__(self, seed: int, push: bool) -> None:
        self.random = random.Random(seed)
        self.versions: Counter[str] = Counter()
        self.deaths = 6
        # More deaths than these would count as a task that kills its workers.
        self.machine = Machine(*_blueprints(), workers={"work": self._work}, push=push, slots=2, job_max_retries=10)
        self.hot = {"skill_dependencies": {"work": ["m"]}, "hot_cache": ("m",)} if self.random.random() < 0.5 else {}
        for name in CALLS:
            setattr(self.machine.store, name, self._slowly(getattr(self.machine.store, name)))

    def _slowly(self, call: Any) -> Any:
        """Others get a turn before and after a call to the store, as they do where it is a server."""

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            for _ in range(self.random.randrange(4)):
                await asyncio.sleep(0)
            done = await call(*args, **kwargs)
            for _ in range(self.random.randrange(4)):
                await asyncio.sleep(0)
            return done

        return wrapped

    def _work(self, n: int) -> Any:
        if self.deaths and self.random.random() < 0.1:
            self.deaths -= 1
            raise Killed
        if self.random.random() < 0.1:
            return {"status": "failure", "error": {"code": "TRANSIENT_ERROR", "message": "by chance"}}
        return {"n": n}

    async def turns(self) -> None:
        """Some things at the same time: a process that counts as dead may still be at work."""
        await asyncio.gather(*(self._turn() for _ in range(self.random.randint(1, 5))))

    async def _turn(self) -> None:
        """Delivers, loses, doubles or delays one message, or lets time pass, or a process die."""
        machine, chance = self.machine, self.random.random()
        if machine.queue and chance < 0.75:
            message = machine.queue.pop(self.random.randrange(len(machine.queue)))
            fate = self.random.random()
            if fate < 0.15:
                return
            if fate < 0.35:
                machine.queue.append(message)
            await machine.deliver(message)
        elif chance < 0.78:
            await machine.restart_orchestrator()
        elif chance < 0.80 and self.deaths:
            self.deaths -= 1
            await self._start_worker(self.random.choice(["worker", "other"]))
        elif chance < 0.82:
            await self._say(self.random.choice(["worker", "other"]))
        elif chance < 0.9:
            await machine.tick(self.random.choice([0.0, 0.5, 3.0]))
        else:
            await machine.repair(self.random.choice([0.0, 11.0]))

    async def _start_worker(self, worker_id: str) -> None:
        """Starts a worker, or starts it again."""
        await self.machine.add_worker(worker_id, resources={"cpu_cores": 4}, **(self.hot if worker_id == "other" else {}))

    async def _say(self, worker_id: str) -> None:
        """A heartbeat, without which a worker that did not take a task gets none."""
        machine = self.machine
        record = machine.records[worker_id]
        await machine.store.heartbeat(worker_id, record.boot_id, machine.now, 1e9, record)

    async def check(self) -> None:
        """Versions only grow, and no worker has more in its hands than it has slots, but for one task put ahead."""
        for job in await self.machine.store.list_jobs(limit=100):
            assert job.version >= self.versions[job.id]
            self.versions[job.id] = job.version
        for candidate in await self.machine.store.knowing("work", self.machine.now):
            assert candidate.free >= -1 or not await self.machine.store.assigned(candidate.worker.boot_id)

    async def run(self) -> None:
        machine = await self.machine.start()
        for worker_id in ("worker", "other"):
            await self._start_worker(worker_id)
        ids = [await machine.create("whole") for _ in range(2)]
        for _ in range(ROUNDS):
            await self.turns()
            await self.check()
        for _ in range(60):  # from here on nothing goes wrong any more
            await machine.drive()
            await machine.repair(11)
            for worker_id in ("worker", "other"):
                await self._say(worker_id)
        for job_id in ids:
            await self._finished_once(job_id)
        assert await machine.store.ledger(machine.now) == []
        assert await machine.store.outbox(machine.now) == []
        assert machine.store._tasks == {}
        assert await machine.store.picking() == []
        for boot_id in machine.boots.values():
            assert (await machine.store.claims(boot_id), await machine.store.assigned(boot_id)) == (({}, []), [])
        assert machine.timers() == []

    async def _finished_once(self, job_id: str) -> None:
        job = await self.machine.job(job_id)
        assert job.status is JobStatus.FINISHED, job
        assert job.result == {"path": ["start", "one", "many", "merge"], "n": 1, "sum": 9, "leaf": 5}
        events = await self.machine.events(job_id)
        assert _count(events, "job_finished", "aggregated", "sub_job_started", "sub_job_finished") == [1, 1, 1, 1]
        assert _count(events, "tasks_dispatched", "task_dispatched", "branch_finished") == [1, 1, 3]
        assert len({event.id for event in events}) == len(events)
        assert [e.task_id for e in events if e.event_type == "task_finished" and e.details["status"] == "success"] != []
        (child_id,) = job.child_job_ids
        child = await self.machine.job(child_id)
        assert (child.status, child.result) == (JobStatus.FINISHED, {"leaf": 5})
        assert _count(await self.machine.events(child_id), "job_finished", "task_dispatched") == [1, 1]


def _count(events: list[Event], *types: str) -> list[int]:
    return [sum(event.event_type == kind for event in events) for kind in types]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), push=st.booleans())
def test_each_job_ends_once_whatever_happens_to_its_messages(seed: int, push: bool) -> None:
    asyncio.run(Chaos(seed, push).run())
