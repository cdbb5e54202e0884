"""What a live process says that it does not work on is given out again by the housekeeping, as an ended process's work is."""

from __future__ import annotations

from avtomatika.jobs import Result
from avtomatika.state.base import ClaimOutcome
from avtomatika.state.values import disowned_by, is_disowned
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_message, a_task, a_worker, change, dispatched


async def test_disowned_jobs_are_claims_of_an_ended_boot(kit: Kit) -> None:
    job, other = await kit.created(), await kit.created()
    await kit.store.register(a_worker("o", "boot"), NOW, 60)
    for one in (job, other):
        await kit.store.claim_job(one.id, "boot", NOW, f"step:{one.id}")

    await kit.store.disown("boot", {job.id: f"step:{job.id}"}, [], NOW)

    assert await kit.store.claims("boot") == ({other.id: f"step:{other.id}"}, [])
    assert await kit.store.ended_boots(NOW) == [disowned_by("boot")]
    assert await kit.store.claims(disowned_by("boot")) == ({job.id: f"step:{job.id}"}, [])
    assert not (await kit.store.release_job(job.id, "boot", a_message("no"), NOW)).applied
    assert (await kit.store.release_job(job.id, disowned_by("boot"), a_message("again"), NOW)).applied
    await kit.store.forget_boot(disowned_by("boot"), NOW)
    assert await kit.store.ended_boots(NOW) == []
    assert await kit.store.heartbeat("o", "boot", NOW, 60)


async def test_a_job_that_was_claimed_for_another_message_meanwhile_stays(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.register(a_worker("o", "boot"), NOW, 60)
    await kit.store.claim_job(job.id, "boot", NOW, "step:2")

    await kit.store.disown("boot", {job.id: "step:1"}, [], NOW)

    assert await kit.store.claims("boot") == ({job.id: "step:2"}, [])
    assert await kit.store.ended_boots(NOW) == []


async def test_disowned_attempts_free_their_slots_and_take_no_late_result(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job)
    await kit.store.register(a_worker("w1", "boot1", tasks=("work",), capabilities={"work": 1}), NOW, 60)
    await kit.committed(change(job, {"tasks": (dispatched(info),)}))
    await kit.store.claim_task(info.id, "w1", "boot1", NOW, 300, "work", call="one")

    await kit.store.disown("boot1", {}, [info.id, "unknown"], NOW)

    assert await kit.store.claims("boot1") == ({}, [])
    assert await kit.store.claims(disowned_by("boot1")) == ({}, [info.id])
    record = await kit.store.get_task(info.id)
    assert record is not None
    assert record.boot_id is not None
    assert is_disowned(record.boot_id)
    (candidate,) = await kit.store.knowing("work", NOW)
    assert candidate.free == 1
    assert not (await kit.store.finish_task(info.id, "boot1", Result.success(), a_message(), NOW)).applied
    assert (await kit.store.claim_task(info.id, "w1", "boot1", NOW, 300, call="one")).outcome is ClaimOutcome.BUSY


async def test_an_attempt_that_has_ended_meanwhile_is_left_alone(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job)
    await kit.store.register(a_worker("w1", "boot1"), NOW, 60)
    await kit.committed(change(job, {"tasks": (dispatched(info),)}))
    await kit.store.claim_task(info.id, "w1", "boot1", NOW, 300)
    await kit.store.finish_task(info.id, "boot1", Result.success(), a_message(), NOW)

    await kit.store.disown("boot1", {}, [info.id], NOW)

    assert await kit.store.ended_boots(NOW) == []
