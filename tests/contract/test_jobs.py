"""Jobs: commits, claims, reading."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from avtomatika.jobs import Client, JobStatus, SubJob, TaskState, Timer, new_id
from avtomatika.state.base import ClaimOutcome, CommitResult
from tests.contract.conftest import Kit
from tests.support.records import (
    NOW,
    a_job,
    a_message,
    a_task,
    a_worker,
    an_event,
    change,
    creation,
    dispatched,
    fanned_out,
)

# --- Commits -------------------------------------------------------------------------------------------------------------------


async def test_a_new_job_is_stored_with_its_event_and_its_message(kit: Kit) -> None:
    job = a_job(initial_data={"ü": [1, None, 2.5]}, tags=("a", "b"), client=Client("me", admin=True))
    message = a_message("step:1")

    done = await kit.store.commit(creation(job, events=(an_event(job),), messages=(message,)))

    assert done == CommitResult(True)
    assert await kit.store.load(job.id) == job
    assert await kit.store.events(job.id) == [an_event(job)]
    assert await kit.pushed() == [message]
    assert await kit.store.ledger_get("step:1") == message


async def test_a_job_is_created_once(kit: Kit) -> None:
    job = await kit.created()

    again = await kit.store.commit(creation(replace(job, initial_data={"other": 1})))

    assert not again.applied
    assert await kit.store.load(job.id) == job


async def test_a_change_replaces_the_record(kit: Kit) -> None:
    job = await kit.created()

    after = await kit.committed(change(job, current_state="next", waiting=SubJob("c", "child", {"success": "s"})))

    assert await kit.store.load(job.id) == after
    assert after.version == 1


async def test_a_stale_version_changes_nothing_at_all(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job)
    current = await kit.committed(
        change(job, {"tasks": (dispatched(info),), "messages": (a_message("resume:x"),)}, status=JobStatus.WAITING_FOR_WORKER)
    )
    before = await kit.everything()
    child = a_job()
    everything = {
        "events": (an_event(job),),
        "messages": (a_message("step:2"),),
        "tasks": (dispatched(a_task(job)),),
        "drop_tasks": (info.id,),
        "drop_branches": True,
        "children": (creation(child),),
        "timers": (Timer("step", "k", NOW),),
        "drop_timers": ("timeout|x",),
        "settles": ("resume:x",),
        "boot_id": "boot",
    }

    for stored in (job, replace(current, version=5), replace(current, version=0)):
        done = await kit.store.commit(change(stored, everything, status=JobStatus.FAILED))
        assert done == CommitResult(False)

    assert await kit.everything() == before
    assert await kit.store.load(child.id) is None


async def test_a_stale_version_leaves_the_outbox_alone(kit: Kit) -> None:
    job = a_job()
    await kit.apart.commit(creation(job))

    done = await kit.apart.commit(change(replace(job, version=3), {"messages": (a_message("k"),)}))

    assert done == CommitResult(False)
    assert await kit.apart.outbox(NOW * 2) == []
    assert await kit.apart.ledger_get("k") is None


async def test_a_change_of_an_unknown_job_is_not_applied(kit: Kit) -> None:
    job = a_job()

    assert not (await kit.store.commit(change(job))).applied
    assert await kit.store.load(job.id) is None


async def test_a_commit_repeated_after_a_lost_answer_counts_as_applied_and_does_nothing(kit: Kit) -> None:
    job = await kit.created()
    commit = change(job, {"messages": (a_message("k"),), "events": (an_event(job),)}, current_state="next")
    await kit.committed(commit)
    before = await kit.everything()

    assert (await kit.store.commit(commit)).applied
    assert await kit.everything() == before


async def test_a_child_comes_into_being_with_its_parents_change(kit: Kit) -> None:
    job = await kit.created()
    child = a_job(parent_job_id=job.id)
    message = a_message("step:child")

    await kit.committed(change(job, {"children": (creation(child, events=(an_event(child),), messages=(message,)),)}))

    assert await kit.store.load(child.id) == child
    assert await kit.store.events(child.id) == [an_event(child)]
    assert await kit.pushed() == [message]
    assert (await kit.store.count_by_status())[JobStatus.PENDING] == 2


async def test_of_many_changes_of_one_version_exactly_one_wins(kit: Kit) -> None:
    job = await kit.created()
    commits = [change(job, {"messages": (a_message(body=str(n)),)}, current_state=f"s{n}") for n in range(20)]

    done = await asyncio.gather(*(kit.store.commit(commit) for commit in commits))

    winners = [n for n, result in enumerate(done) if result.applied]
    assert len(winners) == 1
    stored = await kit.store.load(job.id)
    assert stored is not None
    assert (stored.version, stored.current_state) == (1, f"s{winners[0]}")
    assert await kit.bodies() == [str(winners[0])]


async def test_of_many_creations_of_one_job_exactly_one_wins(kit: Kit) -> None:
    job = a_job()

    done = await asyncio.gather(*(kit.store.commit(creation(job, events=(an_event(job),))) for _ in range(10)))

    assert sum(result.applied for result in done) == 1
    assert len(await kit.store.events(job.id)) == 1


# --- Claims --------------------------------------------------------------------------------------------------------------------


async def test_a_claim_gives_the_job_and_shows_it_running(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.register(a_worker("o", "boot"), NOW, 60)

    claim = await kit.store.claim_job(job.id, "boot", NOW, "step:1", version=0)

    assert (claim.outcome, claim.job) == (ClaimOutcome.OK, job)
    shown = await kit.store.load(job.id)
    assert shown is not None
    assert shown.status is JobStatus.RUNNING
    assert await kit.store.claims("boot") == ({job.id: "step:1"}, [])
    assert (await kit.store.count_by_status())[JobStatus.PENDING] == 1


async def test_a_held_job_is_busy_for_others_and_for_the_holder(kit: Kit) -> None:
    job = await kit.created()
    for name in ("one", "two"):
        await kit.store.register(a_worker(name, f"boot-{name}"), NOW, 60)
    await kit.store.claim_job(job.id, "boot-one", NOW, "k")

    for boot in ("boot-one", "boot-two"):
        assert (await kit.store.claim_job(job.id, boot, NOW, "k2")).outcome is ClaimOutcome.BUSY
    assert await kit.store.claims("boot-two") == ({}, [])


async def test_another_version_a_terminal_job_and_an_unknown_one_are_stale(kit: Kit) -> None:
    job = await kit.created()
    ended = await kit.created()
    await kit.committed(change(ended, status=JobStatus.CANCELLED))

    assert (await kit.store.claim_job(job.id, "b", NOW, "k", version=1)).outcome is ClaimOutcome.STALE
    assert (await kit.store.claim_job(ended.id, "b", NOW, "k")).outcome is ClaimOutcome.STALE
    assert (await kit.store.claim_job(new_id(), "b", NOW, "k")).outcome is ClaimOutcome.STALE
    assert await kit.store.claims("b") == ({}, [])


async def test_a_job_is_taken_over_from_a_boot_that_has_ended(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.register(a_worker("o", "old"), NOW, 60)
    await kit.store.claim_job(job.id, "old", NOW, "k")

    assert (await kit.store.claim_job(job.id, "new", NOW + 59, "k")).outcome is ClaimOutcome.BUSY
    taken = await kit.store.claim_job(job.id, "new", NOW + 60, "k2")

    assert taken.outcome is ClaimOutcome.OK
    assert await kit.store.claims("old") == ({}, [])
    assert await kit.store.claims("new") == ({job.id: "k2"}, [])
    assert not (await kit.store.release_job(job.id, "old")).applied


async def test_a_commit_gives_the_claim_back_or_keeps_it(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.register(a_worker("o", "boot"), NOW, 60)
    await kit.store.claim_job(job.id, "boot", NOW, "k")

    kept = await kit.committed(change(job, {"boot_id": "boot", "keep_claim": True}, status=JobStatus.RUNNING))
    assert (await kit.store.claim_job(job.id, "boot", NOW, "k")).outcome is ClaimOutcome.BUSY
    await kit.committed(change(kept, {"boot_id": "boot"}))

    assert await kit.store.claims("boot") == ({}, [])
    assert (await kit.store.claim_job(job.id, "other", NOW, "k")).outcome is ClaimOutcome.OK


async def test_releasing_is_the_holders_right(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.register(a_worker("o", "boot"), NOW, 60)
    await kit.store.claim_job(job.id, "boot", NOW, "k")

    assert not (await kit.store.release_job(job.id, "other", a_message("no"), NOW)).applied
    assert (await kit.store.claim_job(job.id, "other", NOW, "k")).outcome is ClaimOutcome.BUSY
    assert (await kit.store.release_job(job.id, "boot", a_message("step:x"), NOW)).applied

    assert [message.key for message in await kit.pushed()] == ["step:x"]
    assert await kit.store.ledger_get("step:x") is not None
    assert await kit.store.ledger_get("no") is None
    assert await kit.store.claims("boot") == ({}, [])
    assert not (await kit.store.release_job(job.id, "boot")).applied


async def test_of_many_claims_exactly_one_wins(kit: Kit) -> None:
    job = await kit.created()
    for n in range(10):
        await kit.store.register(a_worker(f"o{n}", f"boot{n}"), NOW, 60)

    claims = await asyncio.gather(*(kit.store.claim_job(job.id, f"boot{n % 10}", NOW, "k", version=0) for n in range(30)))

    assert sorted(claim.outcome for claim in claims) == [ClaimOutcome.BUSY] * 29 + [ClaimOutcome.OK]


# --- Reading -------------------------------------------------------------------------------------------------------------------


async def test_jobs_are_listed_newest_first_by_status_client_and_page(kit: Kit) -> None:
    jobs = [await kit.created(created_at=NOW + n, client=Client(f"c{n % 2}")) for n in range(7)]
    failed = await kit.committed(change(jobs[3], status=JobStatus.FAILED))
    jobs[3] = failed

    async def ids(**asked: object) -> list[str]:
        return [job.id for job in await kit.store.list_jobs(**asked)]  # type: ignore[arg-type]

    newest = [job.id for job in reversed(jobs)]
    assert await ids() == newest
    assert await ids(limit=3) == newest[:3]
    assert await ids(limit=3, before=jobs[4].created_at) == newest[3:6]
    assert await ids(before=NOW) == []
    assert await ids(client="c1") == [jobs[5].id, jobs[3].id, jobs[1].id]
    assert await ids(status=JobStatus.FAILED) == [failed.id]
    assert await ids(status=JobStatus.FAILED, client="c0") == []
    assert await ids(client="nobody") == []


async def test_jobs_of_one_moment_have_one_order(kit: Kit) -> None:
    jobs = [await kit.created() for _ in range(5)]

    listed = [job.id for job in await kit.store.list_jobs()]

    assert listed == sorted((job.id for job in jobs), reverse=True)


async def test_jobs_are_counted_by_status(kit: Kit) -> None:
    assert set((await kit.store.count_by_status()).values()) == {0}
    jobs = [await kit.created() for _ in range(3)]
    running = await kit.committed(change(jobs[0], status=JobStatus.RUNNING))
    await kit.committed(change(running, status=JobStatus.FINISHED))

    counts = await kit.store.count_by_status()

    assert counts[JobStatus.PENDING] == 2
    assert counts[JobStatus.FINISHED] == 1
    assert sum(counts.values()) == 3


async def test_events_are_kept_in_their_order(kit: Kit) -> None:
    job = await kit.created()
    other = await kit.created()
    first = [an_event(job, n, event_type=f"e{n}", details={"n": n}) for n in range(3)]
    job = await kit.committed(change(job, {"events": tuple(first)}))
    later = an_event(job, 0, event_type="later")
    await kit.committed(change(job, {"events": (later,)}))

    assert await kit.store.events(job.id) == [*first, later]
    assert await kit.store.events(other.id) == []


async def test_the_first_request_with_an_idempotency_key_wins(kit: Kit) -> None:
    assert await kit.store.remember_request("me", "key", "digest", "job1", 60) == ("digest", "job1")
    assert await kit.store.remember_request("me", "key", "other", "job2", 60) == ("digest", "job1")
    assert await kit.store.remember_request("you", "key", "other", "job2", 60) == ("other", "job2")
    assert [await kit.store.remembered_job(client, "key") for client in ("me", "you", "them")] == ["job1", "job2", None]

    racing = [kit.store.remember_request("me", "race", f"d{n}", f"job{n}", 60) for n in range(10)]
    assert len(set(await asyncio.gather(*racing))) == 1


async def test_an_ended_job_is_kept_for_its_retention_and_then_forgotten(kit: Kit) -> None:
    alive = await kit.created(client=Client("me"), created_at=NOW - 0.5)
    job = await kit.created(client=Client("me"))
    ended = await kit.committed(change(job, {"events": (an_event(job),)}, status=JobStatus.FAILED))
    keys = [f"{kit.namespace}:job:{job.id}", f"{kit.namespace}:job:{job.id}:events"]
    if kit.redis is not None:
        assert [3590 <= await kit.redis.ttl(key) <= 3600 for key in keys] == [True, True]

    again = await kit.committed(change(ended, status=JobStatus.RUNNING))
    if kit.redis is not None:
        assert [await kit.redis.ttl(key) for key in keys] == [-1, -1]
    assert await kit.store.forget_expired(NOW * 2) == 0

    await kit.committed(change(again, status=JobStatus.FINISHED))
    assert await kit.store.forget_expired(NOW + 3 + 3599) == 0
    assert await kit.store.load(job.id) is not None
    if kit.redis is not None:
        await kit.redis.delete(keys[0])  # its expiry may come first
    assert await kit.store.forget_expired(NOW + 3 + 3600) == 1
    assert await kit.store.forget_expired(NOW * 2) == 0
    assert await kit.store.load(job.id) is None

    assert [job.id for job in await kit.store.list_jobs(client="me")] == [alive.id]
    assert sum((await kit.store.count_by_status()).values()) == 1
    await kit.store.trim_feed("", NOW * 2)
    if kit.redis is not None:
        assert job.id not in str(await kit.everything())


async def test_hundreds_of_ended_jobs_are_forgotten_some_at_a_time(kit: Kit) -> None:
    clients = [Client("me"), Client("some body")]
    for number in range(300):
        job = await kit.created(client=clients[number % 2], created_at=NOW + number, updated_at=NOW + number)
        await kit.committed(change(job, status=JobStatus.FINISHED))

    counts = [await kit.store.forget_expired(NOW + 3700, 40) for _ in range(4)]

    assert counts == [40, 40, 20, 0]  # those that ended more than 3600 s ago
    while await kit.store.forget_expired(NOW * 2, 200):
        pass
    assert await kit.store.list_jobs() == []
    if kit.redis is not None:
        assert set(await kit.everything()) <= {f"{kit.namespace}:events"}


async def test_a_name_that_is_no_utf8_is_kept(kit: Kit) -> None:
    job = await kit.created(initial_data={"file": "caf\udce9.png", "ok": "é🎈"})

    assert await kit.store.load(job.id) == job


async def test_a_fan_out_and_what_it_leaves(kit: Kit) -> None:
    job = await kit.created()
    commit, _, infos = fanned_out(job, 3)
    waiting = await kit.committed(commit)
    assert list(await kit.store.branches(job.id)) == [info.id for info in infos]

    await kit.committed(change(waiting, {"drop_branches": True, "drop_tasks": tuple(i.id for i in infos)}, waiting=None))

    assert await kit.store.branches(job.id) == {}
    assert [await kit.store.get_task(info.id) for info in infos] == [None] * 3
    assert await kit.store.unclaimed(NOW * 2) == []


async def test_a_dropped_task_leaves_no_timer_behind(kit: Kit) -> None:
    job = await kit.created()
    info = a_task(job, dispatch_timeout_seconds=5)
    waiting = await kit.committed(change(job, {"tasks": (dispatched(info),)}))
    assert [(t.kind, t.key) for t in await kit.store.due(NOW * 2)] == [("dispatch", info.id)]
    record = await kit.store.get_task(info.id)
    assert record is not None
    assert record.state is TaskState.DISPATCHED

    await kit.committed(change(waiting, {"drop_tasks": (info.id,)}))

    assert await kit.store.due(NOW * 2) == []
