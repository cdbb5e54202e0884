"""Jobs of blueprints that are listed by themselves, jobs that are forgotten early, and new jobs that are held back."""

from __future__ import annotations

from dataclasses import replace

from avtomatika.jobs import Client, JobStatus
from avtomatika.state.base import Hold
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, a_message, an_event, change, creation

OPERATION = "operation"


def _ids(jobs: object) -> list[str]:
    return [job.id for job in jobs]  # type: ignore[attr-defined]


async def _create(
    kit: Kit, job_id: str, at: float = 0.0, client: str = "acme", *, plain: bool = True, **fields: object
) -> object:
    """Created by the short way, with one event and one message, or by the general one."""
    job = a_job(**{"id": job_id, "blueprint_name": OPERATION, "client": Client(client), "created_at": NOW + at, **fields})
    more = {"events": (an_event(job),), "messages": (a_message(f"step:{job_id}"),)} if plain else {}
    assert (await kit.store.commit(creation(job, **more))).applied
    return job


async def test_they_are_found_newest_first_and_no_others_with_them(kit: Kit) -> None:
    for number in range(4):
        await _create(kit, f"j{number}", number, "acme" if number % 2 else "other", plain=number < 2)
    await kit.created(id="another", created_at=NOW + 9)
    store = kit.store

    assert _ids(await store.listed(OPERATION)) == ["j3", "j2", "j1", "j0"]
    assert _ids(await store.listed(OPERATION, limit=2)) == ["j3", "j2"]
    assert _ids(await store.listed(OPERATION, limit=2, before=(NOW + 2, "j2"))) == ["j1", "j0"]
    assert _ids(await store.listed(OPERATION, client="acme")) == ["j3", "j1"]
    assert _ids(await store.listed("b")) == []
    assert await store.count_listed(OPERATION) == 4
    assert await store.count_listed(OPERATION, client="other") == 2
    assert await store.count_listed("b") == 0


async def test_what_happened_to_some_of_them(kit: Kit) -> None:
    first, second = await _create(kit, "a"), await _create(kit, "b", 1)

    found = await kit.store.events_of(["a", "b", "gone"])

    assert {job_id: list(events) for job_id, events in found.items()} == {
        "a": [an_event(first)],  # type: ignore[arg-type]
        "b": [an_event(second)],  # type: ignore[arg-type]
        "gone": [],
    }
    assert await kit.store.events_of([]) == {}


async def test_pages_part_jobs_of_one_time_by_their_ids(kit: Kit) -> None:
    for name in "abcde":
        await _create(kit, name)

    first = await kit.store.listed(OPERATION, limit=2)
    assert _ids(first) == ["e", "d"]
    assert _ids(await kit.store.listed(OPERATION, limit=9, before=(NOW, "d"))) == ["c", "b", "a"]


async def test_live_ones_stand_by_priority_and_then_by_age(kit: Kit) -> None:
    await _create(kit, "old", 0)
    await _create(kit, "new", 1)
    first = await _create(kit, "urgent", 2, priority=7.0, plain=False)
    await _create(kit, "paused", 3, "other", status=JobStatus.PAUSED, plain=False)
    store = kit.store

    assert _ids(await store.listed_live(OPERATION)) == ["urgent", "old", "new", "paused"]
    assert _ids(await store.listed_live(OPERATION, limit=2)) == ["urgent", "old"]
    assert _ids(await store.listed_live(OPERATION, client="other")) == ["paused"]
    assert await store.live_ids(OPERATION) == ["urgent", "old", "new", "paused"]
    assert await store.live_ids("b") == []
    assert [await store.live_rank(OPERATION, job_id) for job_id in ("urgent", "new", "gone")] == [0, 2, None]

    ended = await kit.committed(change(first, status=JobStatus.QUARANTINED))  # type: ignore[arg-type]
    assert _ids(await store.listed_live(OPERATION)) == ["old", "new", "paused"]
    assert await store.live_rank(OPERATION, "urgent") is None
    assert await store.count_listed(OPERATION, live=True) == 3
    assert await store.count_listed(OPERATION, client="acme", live=True) == 2
    assert await store.count_listed(OPERATION) == 4

    await kit.committed(change(ended, status=JobStatus.RUNNING))
    assert _ids(await store.listed_live(OPERATION, client="acme")) == ["urgent", "old", "new"]


async def test_an_ended_job_is_forgotten_with_everything_of_it(kit: Kit) -> None:
    before = await kit.everything()
    job = await _create(kit, "j", plain=False)
    assert not await kit.store.forget_job("j")  # it lives
    await kit.committed(change(job, status=JobStatus.QUARANTINED))  # type: ignore[arg-type]
    await kit.store.append_log("j", [(NOW, "said")], 10)

    assert await kit.store.forget_job("j")

    assert await kit.store.load("j") is None
    assert await kit.store.job_log("j") == []
    assert await kit.store.in_status(JobStatus.QUARANTINED) == []
    assert await kit.store.count_listed(OPERATION) == 0
    assert not await kit.store.forget_job("j")
    if kit.redis is not None:  # the one in memory keeps lists of what it was told, for tests
        left = {key: value for key, value in (await kit.everything()).items() if key not in before}
        assert {key.rpartition(":")[2] for key in left} <= {"events", "step"}, left
    assert await kit.store.forget_expired(NOW + 1e6) == 0


async def test_one_whose_days_have_passed_is_listed_no_longer(kit: Kit) -> None:
    job = await _create(kit, "j")
    await kit.committed(change(job, status=JobStatus.FINISHED))  # type: ignore[arg-type]

    assert await kit.store.forget_expired(NOW + 1e6) == 1

    assert await kit.store.listed(OPERATION) == []
    assert await kit.store.count_listed(OPERATION, client="acme") == 0


async def test_new_jobs_are_held_back_until_that_is_taken_back(kit: Kit) -> None:
    assert await kit.store.held(OPERATION) is None
    await kit.store.hold(OPERATION, Hold(NOW, "ada"))
    assert await kit.store.held(OPERATION) == Hold(NOW, "ada")
    assert await kit.store.held("other") is None
    await kit.store.hold(OPERATION, None)
    assert await kit.store.held(OPERATION) is None


async def test_a_change_may_depend_on_the_hold(kit: Kit) -> None:
    job = await _create(kit, "j")
    assert job is not None
    held, other = Hold(NOW, "ada"), Hold(NOW + 1, "ada")
    paused = replace(change(job, status=JobStatus.PAUSED), hold=held)

    assert not (await kit.store.commit(paused)).applied  # nothing is held
    await kit.store.hold(OPERATION, other)
    assert not (await kit.store.commit(paused)).applied
    await kit.store.hold(OPERATION, held)
    assert not (await kit.store.commit(replace(paused, expected_version=7))).applied
    assert await kit.store.load("j") == job
    assert (await kit.store.commit(paused)).applied
    await kit.store.hold(OPERATION, None)
    assert (await kit.store.commit(paused)).applied  # the same one, whose answer was lost

    new = replace(creation(a_job(blueprint_name=OPERATION, status=JobStatus.PAUSED)), hold=held)
    assert not (await kit.store.commit(new)).applied
    assert await kit.store.load(new.job.id) is None

    resumed = replace(change(paused.job, status=JobStatus.RUNNING), unheld=True)
    await kit.store.hold(OPERATION, other)
    assert not (await kit.store.commit(resumed)).applied
    await kit.store.hold(OPERATION, None)
    assert (await kit.store.commit(resumed)).applied
