"""Fan-outs of which some branches fail, over real processes: each policy has its verdict, and the rest is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika.jobs import JobStatus
from tests.support.engine import Engine, opened_engine
from tests.support.fleet import Fleet, make_fleet
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(300)

FAILING = {7, 11, 23, 42, 57, 77, 99}

POLICIES: list[tuple[Any, JobStatus, list[int] | None]] = [
    ("collect", JobStatus.FINISHED, [93, 7, 0]),
    ("fail_fast", JobStatus.FAILED, None),
    ({"at_least": 90}, JobStatus.FINISHED, None),
    ({"at_least": 94}, JobStatus.FAILED, None),
    ({"tolerate": 0.1}, JobStatus.FINISHED, [93, 7, 0]),
    ({"tolerate": 0.05}, JobStatus.FAILED, None),
]


async def test_each_policy_has_its_verdict(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path)
    fleet.orchestrator(wait=False)
    fleet.worker("painter", {"FLEET_LIMIT": "10"}, wait=False)
    processes.wait_ready()
    branches = [{"n": n, "fails": n in FAILING} for n in range(100)]
    async with opened_engine(fleet.env) as engine:
        for on_failure, status, counts in POLICIES:
            job = await engine.run("many", {"branches": branches, "policy": {"on_failure": on_failure}})
            assert job.status is status, (on_failure, job.error_message)
            if counts is not None:
                assert job.result == counts, on_failure
            elif status is JobStatus.FINISHED:
                good, bad, missing = job.result
                assert good >= 90, on_failure
                assert good + bad + missing == 100, on_failure
            else:
                assert "of 100 branches failed" in (job.error_message or ""), on_failure


async def _stopped_after(engine: Engine, fleet: Fleet) -> float:
    """Seconds from the failure of one of 100 branches to the end of the last one that ran."""
    fleet.log.unlink(missing_ok=True)
    branches = [{"n": n, "seconds": 100} for n in range(99)]
    branches.insert(5, {"n": 99, "seconds": 1, "fails": True})
    job = await engine.run("many", {"branches": branches, "policy": {"on_failure": "fail_fast"}})
    assert job.status is JobStatus.FAILED
    assert "1 of 100 branches failed" in (job.error_message or "")

    async def all_stopped() -> bool:
        return len(fleet.lines("begin")) == len(fleet.lines("stopped")) + 1

    await eventually_async(all_stopped)
    assert 2 <= len(fleet.lines("begin")) <= 20  # those that waited were never started
    failed = next(event for event in await engine.service.store.events(job.id) if event.event_type == "branch_finished")
    return float(max(line["at"] for line in fleet.lines("stopped")) - failed.timestamp)


async def test_fail_fast_stops_the_rest_within_a_second(broker: Broker, processes: Processes, tmp_path: Path) -> None:
    fleet = make_fleet(broker, processes, tmp_path)
    fleet.orchestrator(wait=False)
    fleet.worker("painter", {"FLEET_LIMIT": "10"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        took = [await _stopped_after(engine, fleet)]
        while min(took) >= 1.0 and len(took) < 3:  # a machine that stands still for a moment is slow, once
            took.append(await _stopped_after(engine, fleet))
        assert min(took) < 1.0, "the others ran on"
        # Its slots are free again.
        again = await engine.run("one", {"params": {"n": 1000}})
        assert again.status is JobStatus.FINISHED


async def test_max_concurrency_and_a_deadline(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    fleet = make_fleet(redis_broker, processes, tmp_path)
    fleet.orchestrator(wait=False)
    fleet.worker("painter", {"FLEET_LIMIT": "10"}, wait=False)
    processes.wait_ready()
    async with opened_engine(fleet.env) as engine:
        branches = [{"n": n, "seconds": 0.05, "run": 1} for n in range(40)]
        job = await engine.run("many", {"branches": branches, "policy": {"max_concurrency": 3}})
        assert job.result == [40, 0, 0]
        assert fleet.most_at_once(run=1) == 3

        branches = [{"n": n, "seconds": 0.05 if n < 5 else 100, "run": 2} for n in range(8)]
        job = await engine.run("many", {"branches": branches, "policy": {"deadline_seconds": 3}})
        assert job.result == [5, 0, 3]
