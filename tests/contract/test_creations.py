"""Many jobs that come into being at once: those of one process share calls to Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Job, new_id
from avtomatika.state.base import Commit
from avtomatika.state.redis import RedisStore, connect
from tests.contract.conftest import Kit
from tests.support.polling import eventually_async
from tests.support.proxy import Proxy
from tests.support.records import a_job, a_message, an_event, creation
from tests.support.servers import RedisServer


def _started(job: Job) -> Commit:
    """The commit that brings a job into being with the message that starts it."""
    return creation(job, messages=(a_message(f"step:{job.id}:0", body=job.id),), events=(an_event(job),))


async def test_each_is_stored_with_all_that_belongs_to_it(kit: Kit) -> None:
    jobs = [a_job(initial_data={"number": n, "text": "ж\ud800" * (n % 3)}, priority=n % 10) for n in range(150)]
    jobs += [a_job(blueprint_name="operation", priority=5.0) for _ in range(20)]
    for store in (kit.store, kit.apart):
        done = await asyncio.gather(*(store.commit(_started(job)) for job in jobs))

        assert all(one.applied for one in done)
        assert {job.id: job for job in await store.load_many([job.id for job in jobs])} == {job.id: job for job in jobs}
        assert await store.count_listed("operation", live=True) == 20
        for job in random.sample(jobs, 20):
            assert await store.events(job.id) == [an_event(job)]
            assert (await store.ledger_get(f"step:{job.id}:0")).body == job.id
        outbox = await store.outbox_messages([name for one in done for name in one.outbox])
        if store is kit.apart:
            assert sorted(message.body for _, message in outbox) == sorted(job.id for job in jobs)
    assert sorted(await kit.bodies()) == sorted(job.id for job in jobs)
    entries = {entry.event.job_id: entry.job for entry in await kit.store.feed()}
    assert entries == {job.id: job for job in jobs}


async def test_of_two_with_one_id_the_first_one_comes_into_being(kit: Kit) -> None:
    ids = [new_id() for _ in range(30)]
    commits = [_started(a_job(id=job_id, initial_data={"side": side})) for side in range(2) for job_id in ids]

    done = await asyncio.gather(*map(kit.store.commit, commits))

    assert [one.applied for one in done] == [True] * 30 + [False] * 30
    assert {job.initial_data["side"] for job in await kit.store.load_many(ids)} == {0}
    assert sorted(await kit.bodies()) == sorted(ids)


async def test_a_commit_that_is_made_twice_has_one_effect_and_counts_both_times(kit: Kit) -> None:
    commits = [_started(a_job()) for _ in range(30)]

    done = await asyncio.gather(*map(kit.store.commit, [*commits, *commits]))

    assert all(one.applied for one in done)
    assert sorted(await kit.bodies()) == sorted(commit.job.id for commit in commits)
    for commit in commits:
        assert len(await kit.store.events(commit.job.id)) == 1


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


@pytest.fixture
async def store(proxy: Proxy, namespace: str) -> AsyncIterator[RedisStore]:
    opened = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}/0"), namespace)
    await opened.ping()
    yield opened
    await opened.close()


async def test_a_connection_that_has_died_unseen_holds_up_one_call_alone(store: RedisStore, proxy: Proxy) -> None:
    first, *others = jobs = [a_job() for _ in range(50)]
    proxy.swallow()

    slow = asyncio.create_task(store.commit(_started(first)))
    done = await asyncio.gather(*(store.commit(_started(job)) for job in others))

    assert all(one.applied for one in done)
    assert not slow.done()  # its socket's time is not over
    assert (await slow).applied
    assert len(await store.load_many([job.id for job in jobs])) == 50


async def test_calls_that_are_cut_are_made_again(store: RedisStore, proxy: Proxy) -> None:
    commits = [_started(a_job()) for _ in range(200)]
    proxy.freeze()
    creating = [asyncio.create_task(store.commit(commit)) for commit in commits]
    await asyncio.sleep(0.3)
    proxy.cut()
    proxy.thaw()

    done = await asyncio.gather(*creating)

    assert all(one.applied for one in done)
    assert len(await store.load_many([commit.job.id for commit in commits])) == 200
    for commit in random.sample(commits, 20):
        assert len(await store.events(commit.job.id)) == 1


async def test_where_redis_is_silent_each_fails_and_is_there_as_a_whole_or_not_at_all(proxy: Proxy, namespace: str) -> None:
    store = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}/0"), namespace, patience=0.5)
    await store.ping()
    jobs = [a_job() for _ in range(100)]
    proxy.freeze()

    failed = await asyncio.gather(*(store.commit(_started(job)) for job in jobs), return_exceptions=True)
    proxy.thaw()

    assert {type(one) for one in failed} == {StoreUnavailableError}
    assert (await store.commit(_started(a_job()))).applied

    async def whole() -> bool:
        stored = {job.id for job in await store.load_many([job.id for job in jobs])}
        return all([len(await store.events(job.id)) == (job.id in stored) for job in jobs])

    await eventually_async(whole)  # some may arrive only now, after their callers have given up
    await store.close()
