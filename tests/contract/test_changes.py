"""Who has new events, events from an index on, and the progress of attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, suppress

import pytest

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import new_id
from avtomatika.state.base import ClaimOutcome, Progress
from avtomatika.state.redis import RedisStore, connect
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, a_task, an_event, change, creation, dispatched
from tests.support.servers import RedisServer


async def _until(changes: AsyncGenerator[Collection[str]], job_id: str) -> set[str]:
    """Every job that is named until this one is."""
    found: set[str] = set()
    async with asyncio.timeout(30):
        while job_id not in found:
            found |= set(await anext(changes))
    return found


async def test_events_from_an_index_on(kit: Kit) -> None:
    job = await kit.created()
    events = [an_event(job, n) for n in range(4)]
    await kit.committed(change(job, {"events": tuple(events)}))

    assert await kit.store.events(job.id, 2) == events[2:]
    assert await kit.store.events(job.id, 4) == []
    assert await kit.store.events(job.id, 9) == []


async def test_changes_name_the_jobs_that_get_events_from_the_first_answer_on(kit: Kit) -> None:
    before, first, second, silent = [await kit.created() for _ in range(4)]
    await kit.committed(change(before, {"events": (an_event(before),)}))
    async with aclosing(kit.store.changes()) as changes:
        assert list(await anext(changes)) == []

        await kit.committed(change(silent))
        first = await kit.committed(change(first, {"events": (an_event(first), an_event(first, 1))}))
        await kit.committed(change(second, {"events": (an_event(second),)}))
        assert await _until(changes, second.id) == {first.id, second.id}

        await kit.committed(change(first, {"events": (an_event(first),)}))
        assert await _until(changes, first.id) == {first.id}


async def test_two_may_follow(kit: Kit) -> None:
    job = await kit.created()
    async with aclosing(kit.store.changes()) as one, aclosing(kit.store.changes()) as other:
        assert [list(await anext(changes)) for changes in (one, other)] == [[], []]
        await kit.committed(change(job, {"events": (an_event(job),)}))
        assert [await _until(changes, job.id) for changes in (one, other)] == [{job.id}, {job.id}]


async def test_a_follower_can_be_stopped_while_it_waits(kit: Kit) -> None:
    async with aclosing(kit.store.changes()) as changes:
        await anext(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    job = await kit.created()
    assert await kit.store.load(job.id) == job


async def test_a_follower_hears_of_a_redis_that_goes(own_redis: RedisServer, namespace: str) -> None:
    store = RedisStore(connect(own_redis.url), namespace)
    job = a_job()
    await store.commit(creation(job))
    async with aclosing(store.changes()) as changes:
        await anext(changes)
        own_redis.stop()
        with pytest.raises(StoreUnavailableError):
            await _until(changes, job.id)
    own_redis.start()

    async with aclosing(store.changes()) as changes:
        await anext(changes)
        await store.commit(change(job, {"events": (an_event(job),)}))
        assert await _until(changes, job.id) == {job.id}
    await store.close()


async def test_a_follower_waits_longer_than_the_store_may_take_to_answer(redis_server: RedisServer, namespace: str) -> None:
    store = RedisStore(connect(redis_server.url), namespace, patience=1.5)
    async with aclosing(store.changes()) as changes:
        assert [set(await anext(changes)) for _ in range(2)] == [set(), set()]
    await store.close()


async def test_progress_of_many(kit: Kit) -> None:
    job = await kit.created()
    told, silent = a_task(job), a_task(job)
    await kit.committed(change(job, {"tasks": (dispatched(told), dispatched(silent))}))
    for info in (told, silent):
        assert (await kit.store.claim_task(info.id, "w", "boot", NOW, 60)).outcome is ClaimOutcome.OK
    await kit.store.task_progress(told.id, "boot", 0.25, "a quarter, ü")

    assert await kit.store.progress_of([silent.id, told.id, new_id()]) == {told.id: Progress(0.25, "a quarter, ü")}
    assert await kit.store.progress_of([]) == {}
