"""Which worker gets a task, and when: over real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avtomatika.engine.views import job_view
from avtomatika.jobs import Client, Job, JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet, registered
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(300)


async def _drawn(engine: Engine, number: int, **fields: Any) -> list[Job]:
    jobs = [await engine.create("one", {"params": {"n": n, **fields}}) for n in range(number)]
    return [await engine.ended(job.id) for job in jobs]


async def _warm(engine: Engine, fleet: Fleet, worker_id: str) -> None:
    """Lets one worker load the model of the skill, as its first task would."""
    record = await registered(engine, worker_id)
    job = await engine.run(
        "one", {"task": "load", "params": {"models": ["brush"]}, "options": {"resource_requirements": {"host": worker_id}}}
    )
    assert job.result == worker_id, record

    async def look() -> bool:
        return "draw" in (await registered(engine, worker_id)).hot_skills

    await eventually_async(look)


async def test_the_worker_that_holds_the_model_gets_the_tasks_of_its_skill(
    broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    fleet = make_fleet(broker, processes, tmp_path, FLEET_SKILLS="1")
    fleet.orchestrator(wait=False)
    hot = fleet.worker("hot", {"WORKER_RESOURCES": json.dumps({"host": f"hot@{fleet.env['NAMESPACE']}"})}, wait=False)
    cold = fleet.worker("cold", wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        await registered(engine, cold.node)
        await _warm(engine, fleet, hot.node)

        # In batches: none may wait for longer than the grace, however slow the machine is.
        jobs = [job for _ in range(10) for job in await _drawn(engine, 10)]
        assert {job.result for job in jobs} == {hot.node}
        assert all(job.status is JobStatus.FINISHED for job in jobs)

        # Busy for longer than the grace (5 s where no load time is known): the other one helps.
        first = await engine.create("one", {"params": {"n": -1, "seconds": 20}})
        await eventually_async(_began(fleet, -1))
        second = await engine.ended((await engine.create("one", {"params": {"n": -2}})).id)
        assert second.result == cold.node
        assert not [line for line in fleet.lines("end") if line["n"] == -1], "the hot one was free again before the other helped"
        assert (await engine.ended(first.id)).result == hot.node


def _began(fleet: Fleet, number: int) -> Any:
    async def look() -> bool:
        return any(line["n"] == number for line in fleet.lines("begin"))

    return look


async def test_a_job_that_no_worker_suits_says_why_and_starts_with_one_that_does(
    broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    # With a minute between repairs, it is the dispatcher's own look, twice a second, that finds the new worker.
    fleet = make_fleet(broker, processes, tmp_path, WATCHER_INTERVAL_SECONDS="60", CLAIM_GRACE_SECONDS="60")
    fleet.orchestrator(wait=False)
    for name, vram in (("a", 8), ("b", 24), ("c", 24)):
        gpu = json.dumps({"gpu_info": {"model": "RTX", "vram_gb": vram}})
        fleet.worker(name, {"WORKER_RESOURCES": gpu, "WORKER_COST_PER_SECOND": "0.5"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        options = {"resource_requirements": {"gpu_info": {"vram_gb": 24}}, "max_cost": 0.01}
        job = await engine.create("one", {"params": {"n": 0}, "options": options})

        async def why() -> str | None:
            found = await engine.service.store.load(job.id)
            view = await job_view(found, engine.service) if found is not None else {}
            return (view.get("current_task") or {}).get("why")

        async def told() -> bool:
            return "0 are within max_cost 0.01" in (await why() or "")

        await eventually_async(told)
        assert (await why() or "").startswith("3 workers know draw, 2 have 24 GB VRAM, 0 are within max_cost 0.01")

        suits = fleet.worker("d", {"WORKER_RESOURCES": '{"gpu_info": {"model": "RTX", "vram_gb": 48}}'}, wait=False)
        record = await registered(engine, suits.node, 60)
        ended = await engine.ended(job.id)
    assert ended.result == suits.node
    began = next(line["at"] for line in fleet.lines("begin"))
    assert began - record.registered_at < 15, "it did not start with the registration"


async def test_a_client_with_few_jobs_is_not_starved_by_one_with_many(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path)
    fleet.orchestrator()
    async with opened_engine(fleet.env) as engine:
        await engine.service.store.pin_tasks({"draw": "gpu"})

        async def queue(client: str, count: int) -> list[Job]:
            who, data = Client(client), {"params": {"n": client, "seconds": 0.005}}
            return [await engine.service.create("one", data, client=who) for _ in range(count)]

        jobs = [*await queue("many", 1000), *await queue("few", 10)]

        async def all_wait() -> bool:
            counts = await engine.service.store.count_by_status()
            return counts[JobStatus.WAITING_FOR_WORKER] == len(jobs)

        await eventually_async(all_wait, deadline=120)
        fleet.worker("only")

        async def few_ended() -> bool:
            return sum(line["n"] == "few" for line in fleet.lines("end")) == 10

        await eventually_async(few_ended, deadline=120)
        order = [line["n"] for line in fleet.lines("end")]
        last = max(place for place, name in enumerate(order) if name == "few")
        assert last < 40, f"the last of the ten was number {last + 1}"
        for job in jobs[-10:]:
            assert (await engine.ended(job.id)).status is JobStatus.FINISHED


async def test_strategies_choose_among_real_workers(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path)
    for number in (1, 2):
        fleet.orchestrator(number, wait=False)
    nodes = [fleet.worker(name, {"WORKER_COST_PER_SECOND": cost, "FLEET_LIMIT": "4"}, wait=False).node for name, cost in (
        ("a", "3"), ("b", "1"), ("c", "2")
    )]  # fmt: skip
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:

        async def chosen(strategy: str, count: int) -> list[str]:
            found = []
            for n in range(count):
                data = {"params": {"n": n}, "options": {"dispatch_strategy": strategy}}
                found.append((await engine.run("one", data)).result)
            return found

        assert set(await chosen("cheapest", 6)) == {nodes[1]}
        turns = await chosen("round_robin", 9)
        assert sorted(turns[:3]) == sorted(turns[3:6]) == sorted(turns[6:]) == sorted(nodes)
        events = [
            event for job in await engine.service.store.list_jobs(limit=1) for event in await engine.service.store.events(job.id)
        ]
        decision = next(event for event in events if event.event_type == "task_assigned").details["decision"]
        assert (decision["strategy"], decision["known"], decision["chosen"]) == ("round_robin", 3, turns[-1])


async def test_a_backlog_in_the_plain_queue_does_not_starve_a_picked_task(
    broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    fleet = make_fleet(broker, processes, tmp_path)
    fleet.orchestrator(wait=False)
    fleet.worker("only", wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        backlog = [await engine.create("one", {"params": {"n": n, "seconds": 0.05}}) for n in range(200)]
        await eventually_async(_began(fleet, 0))
        picked = await engine.run("one", {"params": {"n": -1}, "options": {"dispatch_strategy": "cheapest"}})
        assert picked.status is JobStatus.FINISHED
        still_waiting = len(backlog) - len(fleet.lines("end"))
        assert still_waiting > 20, "it ran when the backlog was nearly done"
        for job in backlog:
            assert (await engine.ended(job.id)).status is JobStatus.FINISHED
