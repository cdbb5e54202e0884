"""Workers and orchestrators that die while tasks are picked, limited and watched: nothing is lost, doubled, or let through."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from avtomatika.engine.watcher import LOCK, LOCK_SECONDS
from avtomatika.jobs import JobStatus
from avtomatika.state.base import Reputation
from tests.support.engine import Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet, registered
from tests.support.polling import eventually_async
from tests.support.processes import Orchestrator, Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)


async def test_a_killed_workers_direct_queue_is_given_to_others(broker: Broker, processes: Processes, tmp_path: Path) -> None:
    # Only its death gives its tasks to others: nobody waits that long for a claim.
    fleet = make_fleet(broker, processes, tmp_path, CLAIM_GRACE_SECONDS="60", WORKER_HEALTH_CHECK_INTERVAL_SECONDS="5")
    fleet.orchestrator(wait=False)
    doomed = fleet.worker("doomed", {"FLEET_LIMIT": "20", "WORKER_COST_PER_SECOND": "1"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        boot = (await registered(engine, doomed.node)).boot_id
        doomed.signal(signal.SIGSTOP)
        data: dict[str, Any] = {"options": {"dispatch_strategy": "cheapest"}}
        jobs = [await engine.create("one", {**data, "params": {"n": n}}) for n in range(20)]

        async def all_assigned() -> bool:
            return len(await engine.service.store.assigned(boot)) == 20

        await eventually_async(all_assigned)
        fleet.worker("heir", {"FLEET_LIMIT": "5", "WORKER_COST_PER_SECOND": "2"})
        doomed.kill()

        ended = [await engine.ended(job.id) for job in jobs]
    assert {(job.status, job.result) for job in ended} == {(JobStatus.FINISHED, f"heir@{broker.namespace}")}
    assert sorted(line["n"] for line in fleet.lines("begin")) == list(range(20))


async def test_a_limit_holds_over_orchestrators_and_a_killed_worker(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path)
    for number in (1, 2, 3):
        fleet.orchestrator(number, wait=False)
    doomed = fleet.worker("doomed", {"FLEET_LIMIT": "8"}, wait=False)
    fleet.worker("other", {"FLEET_LIMIT": "8"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        jobs = []
        for n in range(120):
            strategy = ("default", "round_robin")[n % 2]
            options = {"limits": {"openai": 5}, "dispatch_strategy": strategy}
            jobs.append(await engine.create("one", {"params": {"n": n, "seconds": 0.1}, "options": options}))

        async def is_stopped_in_mid_task() -> bool:
            """With tasks that have begun, and none that has ended and is not reported: that one would rightly run again."""
            if len(fleet.lines("end")) < 20:
                return False
            doomed.signal(signal.SIGSTOP)
            ended = [jobs[line["n"]].id for line in fleet.lines("end") if line["worker"] == doomed.node]
            for _ in range(20 if _open_runs(fleet, doomed.node) else 0):
                left = [await engine.service.store.load(job_id) for job_id in ended[-5:]]
                if all(job is not None and job.status is JobStatus.FINISHED for job in left):
                    return True
                await asyncio.sleep(0.05)
            doomed.signal(signal.SIGCONT)
            return False

        await eventually_async(is_stopped_in_mid_task)
        doomed.kill()
        for job in jobs:
            assert (await engine.ended(job.id)).status is JobStatus.FINISHED
        with redis_broker.redis.client() as client:
            assert client.exists(f"{redis_broker.namespace}:lease:openai") == 0, "a slot of the limit was not given back"
    assert len({line["n"] for line in fleet.lines("end")}) == 120
    assert len(fleet.lines("end")) == 120
    assert fleet.most_at_once() == 5


def _open_runs(fleet: Fleet, node: str) -> list[int]:
    """Runs of a worker that have begun and not ended."""
    begun = [line["n"] for line in fleet.lines("begin") if line["worker"] == node]
    ended = {line["n"] for line in fleet.lines("end")}
    return [n for n in begun if n not in ended]


async def _leader(engine: Engine, broker: Broker, orchestrators: dict[str, Orchestrator]) -> str:
    """The node that holds the housekeeping's lock."""
    boots = {record.boot_id: record.id for record in await engine.service.store.workers(time.time())}
    with broker.redis.client() as client:
        holder = client.get(f"{broker.namespace}:lock:{LOCK}")
    return boots.get(str(holder), "")


async def test_another_orchestrator_leads_when_the_leader_is_killed(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    fleet = make_fleet(
        redis_broker,
        processes,
        tmp_path,
        REPUTATION_INTERVAL_SECONDS="1",
        WORKER_HEALTH_CHECK_INTERVAL_SECONDS="60",
    )
    orchestrators = {o.node: o for o in (fleet.orchestrator(number, wait=False) for number in (1, 2))}
    worker = fleet.worker("painter", wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        found: list[str] = []

        async def somebody_leads() -> bool:
            found[:] = [await _leader(engine, redis_broker, orchestrators)]
            return found[0] in orchestrators

        await eventually_async(somebody_leads)
        first = found[0]
        assert (await engine.run("one", {"params": {"n": 0}})).status is JobStatus.FINISHED
        await eventually_async(lambda: _reputation(engine, worker.node))
        orchestrators[first].kill()
        killed_at = time.time()

        async def another_leads() -> bool:
            found[:] = [await _leader(engine, redis_broker, orchestrators)]
            return found[0] not in ("", first)

        await eventually_async(another_leads, deadline=LOCK_SECONDS + 20)

        async def reputation_goes_on() -> bool:
            known = await _reputation(engine, worker.node)
            return known is not None and (known.computed_at or 0) > killed_at

        await eventually_async(reputation_goes_on)
        held = await engine.create("one", {"task": "unknown", "params": {"n": 1}, "options": {"dispatch_timeout_seconds": 1}})
        assert (await engine.ended(held.id)).status is JobStatus.FAILED  # a timer: the watcher goes on
        orchestrators[first].start()  # the one that comes back does not lead beside it
        orchestrators[first].wait_ready()
        await asyncio.sleep(0.3)
        await eventually_async(another_leads)
    leads = sum(log.count("does the housekeeping now") for name, log in processes.logs() if name.startswith("orchestrator"))
    assert leads == 2


async def _reputation(engine: Engine, worker_id: str) -> Reputation | None:
    return (await engine.service.store.reputations([worker_id])).get(worker_id)


async def test_a_worker_that_stalls_loses_its_direct_queue_and_does_nothing_twice(
    broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    fleet = make_fleet(broker, processes, tmp_path, WORKER_HEALTH_CHECK_INTERVAL_SECONDS="60", CLAIM_GRACE_SECONDS="6")
    fleet.orchestrator(wait=False)
    stalled = fleet.worker("stalled", {"FLEET_LIMIT": "10", "WORKER_COST_PER_SECOND": "1"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        boot = (await registered(engine, stalled.node)).boot_id
        stalled.signal(signal.SIGSTOP)
        data: dict[str, Any] = {"options": {"dispatch_strategy": "cheapest"}}
        jobs = [await engine.create("one", {**data, "params": {"n": n}}) for n in range(10)]

        async def all_assigned() -> bool:
            return len(await engine.service.store.assigned(boot)) == 10

        await eventually_async(all_assigned)
        fleet.worker("heir", {"FLEET_LIMIT": "5", "WORKER_COST_PER_SECOND": "2"})

        ended = [await engine.ended(job.id) for job in jobs]
        assert {(job.status, job.result) for job in ended} == {(JobStatus.FINISHED, f"heir@{broker.namespace}")}
        stalled.signal(signal.SIGCONT)  # it finds the messages in its queue, of attempts that are over
        goes_on = time.time()

        async def heard_of() -> bool:
            return (await registered(engine, stalled.node)).seen_at > goes_on

        await eventually_async(heard_of)
        late = await engine.run("one", {**data, "params": {"n": 10}})
        assert late.status is JobStatus.FINISHED
        assert late.result == stalled.node  # its next heartbeat has put it back, and it is the cheapest
    assert sorted(line["n"] for line in fleet.lines("begin")) == list(range(11))
