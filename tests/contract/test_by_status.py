"""Jobs by their status, and forgetting everything."""

from __future__ import annotations

from avtomatika.jobs import Client, Job, JobStatus
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_message, a_task, a_worker, change, dispatched

QUARANTINED = JobStatus.QUARANTINED


async def _quarantined(kit: Kit, at: float, **fields: object) -> Job:
    job = await kit.created(**fields)
    return await kit.committed(change(Job(**{**_fields(job), "updated_at": at - 1}), status=QUARANTINED))


def _fields(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in job.__slots__}


async def test_jobs_in_a_status_the_latest_first(kit: Kit) -> None:
    late = await _quarantined(kit, NOW + 30, id="a", created_at=NOW)
    early = await _quarantined(kit, NOW + 10, id="b", created_at=NOW + 5)
    await kit.created(id="c")

    assert await kit.store.in_status(QUARANTINED) == [("a", NOW + 30), ("b", NOW + 10)]
    assert await kit.store.in_status(QUARANTINED, limit=1) == [("a", NOW + 30)]
    assert await kit.store.in_status(QUARANTINED, limit=5, offset=1) == [("b", NOW + 10)]
    assert await kit.store.in_status(QUARANTINED, offset=2) == []
    assert await kit.store.in_status(JobStatus.PAUSED) == []
    assert await kit.store.load_many(["b", "nope", "a"]) == [early, late]
    assert await kit.store.load_many([]) == []


async def test_jobs_in_a_status_of_one_client(kit: Kit) -> None:
    for name, client, at in (("a", "me", 1), ("b", "you", 2), ("c", "me", 3)):
        await _quarantined(kit, NOW + at, id=name, client=Client(client))
    await kit.created(id="d", client=Client("me"))

    assert await kit.store.in_status(QUARANTINED, client="me") == [("c", NOW + 3), ("a", NOW + 1)]
    assert await kit.store.in_status(QUARANTINED, client="me", limit=1, offset=1) == [("a", NOW + 1)]
    assert await kit.store.in_status(QUARANTINED, client="nobody") == []


async def test_a_job_is_in_one_status_since_it_came_there(kit: Kit) -> None:
    job = await _quarantined(kit, NOW + 10)
    job = await kit.committed(change(job, cancel_requested=True))
    assert await kit.store.in_status(QUARANTINED) == [(job.id, NOW + 10)]

    await kit.committed(change(job, status=JobStatus.PENDING))

    assert await kit.store.in_status(QUARANTINED) == []
    assert await kit.store.in_status(JobStatus.PENDING) == [(job.id, NOW + 12)]


async def test_an_expired_job_is_in_no_status_and_fills_no_page(kit: Kit) -> None:
    if kit.redis is None:
        return  # nothing expires there
    for number in range(1200):
        await kit.redis.zadd(f"{kit.namespace}:jobs:status:quarantined", {f"gone-{number}": NOW + number})
    job = await _quarantined(kit, NOW - 5, client=Client("me"))

    assert await kit.store.in_status(QUARANTINED, limit=1) == [(job.id, NOW - 5)]
    assert await kit.store.in_status(QUARANTINED, limit=1, client="me") == [(job.id, NOW - 5)]


async def test_flush_forgets_everything_of_the_namespace_alone(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job)
    await kit.committed(change(job, {"tasks": (dispatched(info),), "messages": (a_message("k"),)}, waiting=info))
    await kit.store.register(a_worker(), NOW, 60)
    if kit.redis is not None:
        await kit.redis.set(f"{kit.namespace}x:job", "another namespace")

    await kit.store.flush()

    assert await kit.store.load(job.id) is None
    assert await kit.store.get_task(info.id) is None
    assert await kit.store.workers(NOW) == []
    assert await kit.store.ledger_get("k") is None
    assert set((await kit.store.count_by_status()).values()) == {0}
    if kit.redis is not None:
        left = {key async for key in kit.redis.scan_iter(match=f"{kit.namespace}:*")}
        assert left == set()
        assert await kit.redis.get(f"{kit.namespace}x:job") == "another namespace"


async def test_a_job_that_was_shown_as_running_is_not_left_among_the_pending_ones(kit: Kit) -> None:
    job = await kit.created(id="a")
    await kit.store.claim_job("a", "boot", NOW, "step:a")
    shown = await kit.store.load("a")
    assert shown is not None
    assert (job.status, shown.status) == (JobStatus.PENDING, JobStatus.RUNNING)

    await kit.committed(change(shown, status=JobStatus.FAILED))

    counts = await kit.store.count_by_status()
    assert (counts[JobStatus.PENDING], counts[JobStatus.RUNNING], counts[JobStatus.FAILED]) == (0, 0, 1)
    assert await kit.store.in_status(JobStatus.PENDING) == []


async def test_a_claimed_job_that_another_changes_is_indexed_by_its_new_status_alone(kit: Kit) -> None:
    """Who loads it sees it as running, while it is stored as pending."""
    for after in (JobStatus.RUNNING, JobStatus.CANCELLED):
        job = await kit.created()
        await kit.store.claim_job(job.id, "boot", NOW, f"step:{job.id}:0")
        shown = await kit.store.load(job.id)
        assert shown is not None
        assert shown.status is JobStatus.RUNNING

        await kit.committed(change(shown, status=after))

        counts = await kit.store.count_by_status()
        assert counts[JobStatus.PENDING] == 0
        assert await kit.store.in_status(JobStatus.PENDING) == []
        assert (job.id, shown.updated_at + 1) in await kit.store.in_status(after)
