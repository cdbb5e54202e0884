"""What operations say for a job: the latest lines, until the job is forgotten."""

from __future__ import annotations

from avtomatika.jobs import JobStatus
from tests.contract.conftest import Kit
from tests.support.records import NOW, change


async def test_lines_are_kept_in_their_order_and_the_latest_only(kit: Kit) -> None:
    job = await kit.created()
    assert await kit.store.job_log(job.id) == []

    await kit.store.append_log(job.id, [(NOW, "one"), (NOW + 1, "two, ü")], 3)
    await kit.store.append_log(job.id, [], 3)
    await kit.store.append_log(job.id, [(NOW + 2, "three"), (NOW + 3, "four")], 3)

    assert [(line.at, line.text) for line in await kit.store.job_log(job.id)] == [
        (NOW + 1, "two, ü"),
        (NOW + 2, "three"),
        (NOW + 3, "four"),
    ]
    assert [line.text for line in await kit.store.job_log(job.id, 1)] == ["four"]


async def test_a_line_that_is_no_unicode_is_kept_as_far_as_it_is(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.append_log(job.id, [(NOW, "caf\udce9")], 10)
    assert (await kit.store.job_log(job.id))[0].text.startswith("caf")


async def test_a_log_is_forgotten_with_its_job(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.append_log(job.id, [(NOW, "one")], 10)
    await kit.committed(change(job, status=JobStatus.FINISHED))

    assert await kit.store.forget_expired(NOW + 365 * 24 * 3600) == 1
    assert await kit.store.job_log(job.id) == []
    if kit.redis is not None:
        assert not await kit.redis.exists(f"{kit.namespace}:job:{job.id}:log")


async def test_what_is_said_after_that_does_not_stay_for_ever(kit: Kit) -> None:
    await kit.store.append_log("gone", [(NOW, "late")], 10)
    if kit.redis is not None:
        assert await kit.redis.ttl(f"{kit.namespace}:job:gone:log") > 0
