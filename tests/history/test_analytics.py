"""Counts, success rates, percentiles and cost."""

from __future__ import annotations

import math

from avtomatika.history import Archive
from avtomatika.history.analytics import By, Group
from avtomatika.jobs import Client, Job, JobStatus
from tests.support.history import Place, write_all
from tests.support.records import NOW, a_worker


async def _attempt(place: Place, job: Job, kind: str = "task_finished", **fields: object) -> Job:
    ms, worker, task = fields.get("ms"), fields.get("worker"), fields.get("task", "work")
    details = {"type": task, **({"status": fields["status"]} if "status" in fields else {})}
    return await place.change(job, kind, JobStatus.RUNNING, duration_ms=ms, worker_id=worker, task_id="t", details=details)


async def _end(place: Place, job: Job, after: float, status: JobStatus = JobStatus.FINISHED) -> None:
    began, place.now = place.now, place.now + after
    await place.change(job, f"job_{status.value}", status)
    place.now = began


async def test_percentiles_are_those_of_the_nearest_rank(place: Place, archive: Archive) -> None:
    durations = [float((number * 37) % 101) for number in range(101)]  # 0 to 100, in another order
    job = await place.job()
    for ms in durations:
        job = await _attempt(place, job, ms=ms, worker="w1", status="success")
    for _ in range(3):  # without a duration they are counted, and move no percentile
        job = await _attempt(place, job, "task_lost", worker="w1")
    await write_all(place.historian(archive))

    [group] = await archive.analyse(By.TASK, NOW - 1, NOW + 1)

    rank = {share: sorted(durations)[math.ceil(share / 100 * 101) - 1] for share in (50, 90, 99)}
    assert group == Group("work", 104, 101, {"success": 101, "lost": 3}, rank[50], rank[90], rank[99], None)
    assert group.success_rate == 101 / 104


async def test_by_task_and_worker(place: Place, archive: Archive) -> None:
    await place.store.register(a_worker("cheap", "b1", cost_per_second=0.5), NOW, 1e9)
    await place.store.register(a_worker("dear", "b2", cost_per_second=1.0, cost_per_skill={"draw": 4.0}), NOW, 1e9)
    job = await place.job()
    for worker, task, ms, status in [
        ("cheap", "draw", 2000, "success"),
        ("cheap", "draw", 4000, "needs_review"),
        ("dear", "draw", 1000, "failure"),
        ("dear", "cut", 3000, "success"),
        ("unknown", "cut", 10_000, "timeout"),
    ]:
        job = await _attempt(place, job, ms=ms, worker=worker, task=task, status=status)
    await place.change(job, "transition", duration_ms=99.0)  # no attempt
    await write_all(place.historian(archive))

    by_task = {group.key: group for group in await archive.analyse(By.TASK, NOW, NOW + 1)}
    by_worker = {group.key: group for group in await archive.analyse(By.WORKER, NOW, NOW + 1)}

    assert by_task == {
        "draw": Group("draw", 3, 2, {"success": 1, "needs_review": 1, "failure": 1}, 2000, 4000, 4000, 0.5 * 6 + 4.0),
        "cut": Group("cut", 2, 1, {"success": 1, "timeout": 1}, 3000, 10_000, 10_000, 3.0),
    }
    assert by_worker["dear"] == Group("dear", 2, 1, {"failure": 1, "success": 1}, 1000, 3000, 3000, 7.0)
    assert (by_worker["cheap"].cost, by_worker["unknown"].cost) == (3.0, None)


async def test_what_a_worker_cost_is_known_once_it_has_gone(place: Place, archive: Archive) -> None:
    await place.store.register(a_worker("w", "b1", cost_per_second=2.0), NOW, 10)
    await write_all(place.historian(archive))
    place.now += 100
    job = await place.job()
    await _attempt(place, job, ms=1500, worker="w", status="success")
    await write_all(place.historian(archive))

    [group] = await archive.analyse(By.WORKER, NOW, NOW + 1000)

    assert group.cost == 3.0


async def test_by_blueprint_in_a_time_and_for_a_client(place: Place, archive: Archive) -> None:
    await place.store.register(a_worker("w", cost_per_second=1.0), NOW, 1e9)
    me, you = Client("me"), Client("you")
    for blueprint, client, seconds, status in [
        ("a", me, 1, JobStatus.FINISHED),
        ("a", me, 3, JobStatus.FAILED),
        ("a", you, 5, JobStatus.FINISHED),
        ("b", you, 7, JobStatus.QUARANTINED),
        ("b", you, 1000, JobStatus.FINISHED),
    ]:
        job = await place.job(blueprint_name=blueprint, client=client)
        job = await _attempt(place, job, ms=500, worker="w", status="success")
        await _end(place, job, seconds, status)
    await place.job(blueprint_name="b", client=me)  # has not ended
    await write_all(place.historian(archive))

    everybody = await archive.analyse(By.BLUEPRINT, NOW, NOW + 100)
    mine = await archive.analyse(By.BLUEPRINT, NOW, NOW + 100, "me")

    assert everybody == [
        Group("a", 3, 2, {"finished": 2, "failed": 1}, 3000, 5000, 5000, 1.5),
        Group("b", 1, 0, {"quarantined": 1}, 7000, 7000, 7000, 0.5),
    ]
    assert mine == [Group("a", 2, 1, {"finished": 1, "failed": 1}, 1000, 3000, 3000, 1.0)]
    assert await archive.analyse(By.TASK, NOW, NOW + 100, "me") == [Group("work", 2, 2, {"success": 2}, 500, 500, 500, 1.0)]
    assert await archive.analyse(By.BLUEPRINT, NOW + 5000, NOW + 6000) == []
