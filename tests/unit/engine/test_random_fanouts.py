"""Whatever happens to messages and processes: a fan-out comes to the verdict that its policy says, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.options import failure_policy
from avtomatika.engine.fanout import bounds
from avtomatika.jobs import Job, JobStatus, TaskState
from tests.unit.engine.test_random_delivery import Chaos

TURNS = 80
WORKERS = ("worker", "other")
BROKEN = {"status": "failure", "error": {"code": "BROKEN", "message": "for good"}}


class FanOuts(Chaos):
    """Chaos over one job that fans out, in a way that the seed picks."""

    def __init__(self, seed: int, push: bool) -> None:
        super().__init__(seed, push)
        self.total = self.random.randint(1, 7)
        self.broken = {n for n in range(self.total) if self.random.random() < 0.3}
        share, enough = self.random.choice([0.0, 0.2, 0.5]), self.random.randint(1, self.total)
        self.policy: Any = self.random.choice(["collect", "fail_fast", {"at_least": enough}, {"tolerate": share}])
        self.at_once = self.random.choice([None, 1, 2, 3])
        self.inputs: list[Any] = []
        self.machine.registry._by_name["fan"] = self._blueprint()
        self.machine.workers["work"] = self._work_or_not

    def _work_or_not(self, n: int) -> Any:
        return BROKEN if n in self.broken else self._work(n)

    def _blueprint(self) -> Blueprint:
        blueprint = Blueprint("fan")

        @blueprint.handler_for("start", is_start=True)
        async def start(actions: Any) -> None:
            tasks = [{"task_type": "work", "params": {"n": n}} for n in range(self.total)]
            actions.dispatch_parallel(tasks, "merge", self.at_once, self.policy, failure_state="bad")

        @blueprint.aggregator_for("merge")
        async def merge(actions: Any, state_history: Any, succeeded: Any, failed: Any, missing: Any) -> None:
            self.inputs.append((succeeded, failed, missing))
            if self.random.random() < 0.5:
                raise RuntimeError("by chance")
            state_history["ns"] = sorted(result["data"]["n"] for result in succeeded.values())
            state_history["counts"] = [len(succeeded), len(failed), len(missing)]
            actions.transition_to("end")

        for state in ("end", "bad"):

            @blueprint.handler_for(state, is_end=True)
            async def over(state_history: Any) -> Any:
                return state_history

        return blueprint

    async def run(self) -> None:
        machine = await self.machine.start()
        for worker_id in WORKERS:
            await self._start_worker(worker_id)
        job_id = await machine.create("fan")
        for _ in range(TURNS):
            await self.turns()
            await self.check()
            running = [record for record in machine.store._tasks.values() if record.state is TaskState.CLAIMED]
            assert len(running) <= (self.at_once or self.total)
        for _ in range(60):  # from here on nothing goes wrong any more
            await machine.drive()
            await machine.repair(11)
            for worker_id in WORKERS:
                await self._say(worker_id)
        self._as_its_policy_says(await machine.job(job_id))
        assert machine.store._tasks == {}
        assert await machine.store.branches(job_id) == {}
        assert await machine.store.ledger(machine.now) == []
        assert await machine.store.outbox(machine.now) == []
        assert machine.timers() == []
        events = Counter(event.event_type for event in await machine.events(job_id))
        assert events["aggregated"] + events["fan_out_failed"] == events["job_finished"] == 1
        assert events["fan_out_settled"] <= events["aggregated"]

    def _as_its_policy_says(self, job: Job) -> None:
        need, may_fail = bounds(failure_policy(self.policy, self.total), self.total)
        good = self.total - len(self.broken)
        is_good = (need is None or good >= need) and (may_fail is None or len(self.broken) <= may_fail)
        assert (job.status, job.current_state) == (JobStatus.FINISHED, "end" if is_good else "bad"), job
        if not is_good:
            counts = job.state_history["fan_out"]
            assert sum(counts.values()) == self.total
            assert len(self.broken) >= counts["failed"] > (may_fail or 0)
            return
        assert all(inputs == self.inputs[0] for inputs in self.inputs)
        succeeded, failed, missing = job.state_history["counts"]
        assert succeeded + failed + missing == self.total
        assert len(job.state_history["ns"]) == succeeded
        assert set(job.state_history["ns"]) <= set(range(self.total)) - self.broken
        if need is None:
            assert (succeeded, failed, missing) == (good, len(self.broken), 0)
        else:
            assert need <= succeeded <= good


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), push=st.booleans())
def test_a_fan_out_comes_to_its_verdict_whatever_happens(seed: int, push: bool) -> None:
    asyncio.run(FanOuts(seed, push).run())
