"""HTTP workers in the store: what they hold, what they are told, and what a dead facade leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from avtomatika.jobs import Result
from avtomatika.state.base import ClaimOutcome, News, NewsKind, PullView, Store
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.polling import eventually_async
from tests.support.records import NOW, a_message, change


async def _claim(store: Store, task_id: str, name: str = "w1", *, handing: bool = True) -> ClaimOutcome:
    return (await store.claim_task(task_id, name, f"boot-{name}", NOW, 300, "cpu", handing=handing)).outcome


async def test_a_poll_sees_what_its_worker_holds(kit: Kit, line: Line) -> None:
    worker = await line.worker("w1", slots=3, http=True)
    await line.worker("celery")
    running, picked = await line.pull(0), await line.pick(1)
    assert await _claim(kit.store, running.id) is ClaimOutcome.OK
    await line.assign(picked, worker)

    view = await kit.store.pull_view("w1", NOW)

    assert view is not None
    assert view.worker.boot_id == "boot-w1"
    assert (view.leases, view.assigned, view.handing) == ({running.id: "cpu"}, {picked.id: "cpu"}, {running.id: NOW})
    await kit.store.delivered("boot-w1", running.id)
    view = await kit.store.pull_view("w1", NOW)
    assert view is not None
    assert view.handing == {}
    for name in ("celery", "nobody"):
        assert await kit.store.pull_view(name, NOW) is None
    assert await kit.store.pull_view("w1", NOW + 1e9) is None


async def test_what_is_over_is_not_handed_over_again(kit: Kit, line: Line) -> None:
    await line.worker("w1", slots=3, http=True)
    done, given_back, dropped = await line.pulls(3)
    for info in (done, given_back, dropped):
        assert await _claim(kit.store, info.id) is ClaimOutcome.OK

    await kit.store.finish_task(done.id, "boot-w1", Result.success(), a_message(), NOW)
    await kit.store.release_task(given_back.id, "boot-w1", NOW)
    await line.drop(dropped)

    assert await kit.store.pull_view("w1", NOW) == PullView((await _worker(kit.store)), {}, {}, {})


async def _worker(store: Store):
    view = await store.pull_view("w1", NOW)
    assert view is not None
    return view.worker


async def test_no_message_is_sent_to_an_http_worker(kit: Kit, line: Line) -> None:
    worker = await line.worker("w1", http=True)
    picked = await line.pick()
    before = await kit.pushed()

    await line.assign(picked, worker)

    assert await kit.pushed() == before
    assert await _claim(kit.store, picked.id) is ClaimOutcome.OK


async def test_an_http_worker_is_stopped_over_its_facade_until_it_has_stopped(kit: Kit, line: Line) -> None:
    await line.worker("w1", slots=2, http=True)
    first, second = await line.pulls(2)
    for info in (first, second):
        await _claim(kit.store, info.id)
    job = await kit.store.load(first.job_id)
    assert job is not None

    asked = await kit.store.commit(change(job, {"cancel_tasks": (first.id,)}))
    over = await line.drop(second)

    assert asked.stops == over.stops == ()
    pending = {first.id: first.job_id, second.id: second.job_id}
    assert await kit.store.pending_stops("boot-w1") == pending
    assert await kit.store.pending_stops("boot-w1") == pending
    await kit.store.settle_stop("boot-w1", first.id)
    assert await kit.store.pending_stops("boot-w1") == {second.id: second.job_id}


async def test_facades_hear_of_tasks_picks_and_stops_at_once(kit: Kit, line: Line) -> None:
    heard: list[News] = []
    listening = asyncio.create_task(_listen(kit.store.news(), heard))
    try:
        await eventually_async(lambda: _have(heard, 1))
        worker = await line.worker("w1", slots=3, http=True)
        queued = await line.pull()
        picked = await line.pick(1)
        await line.assign(picked, worker)
        await _claim(kit.store, picked.id)
        await line.drop(picked)
        await _claim(kit.store, queued.id)
        await kit.store.release_task(queued.id, "boot-w1", NOW)
        await eventually_async(lambda: _have(heard, 5))
    finally:
        listening.cancel()

    assert heard == [
        News(NewsKind.RESUMED),
        News(NewsKind.TASK, "work"),
        News(NewsKind.WORKER, "w1"),
        News(NewsKind.STOP, "w1", picked.id, picked.job_id),
        News(NewsKind.TASK, "work"),
    ]


async def _listen(news: AsyncIterator[News], heard: list[News]) -> None:
    async for item in news:
        heard.append(item)  # noqa: PERF401  an endless iterator


async def _have(heard: list[News], count: int) -> bool:
    return len(heard) >= count


async def test_whether_a_facade_holds_a_workers_socket(kit: Kit, line: Line) -> None:
    for name, http in (("w1", True), ("w2", True), ("celery", False)):
        await line.worker(name, http=http)
    store = kit.store

    def has(name: str, at: float = NOW, *, shared: bool = False) -> Any:
        return store.has_socket(name, at, shared=shared)

    await store.note_socket("w1", NOW + 10, NOW)
    await store.note_socket("celery", NOW + 10, NOW)
    assert [await has(name) for name in ("w1", "w2", "celery", "nobody")] == [True, False, False, False]
    assert not await has("w1", NOW + 11)
    await store.forget_socket("w1", NOW + 5)  # another facade has said since that it holds one
    assert await has("w1")
    await store.forget_socket("w1", NOW + 10)
    assert not await has("w1")
    await store.note_socket("*", NOW + 10, NOW)
    assert await has("w2", shared=True)
    assert not await has("w2")


async def test_what_was_left_behind_is_taken_once(kit: Kit, line: Line) -> None:
    await line.worker("w1", slots=3, http=True)
    first, second = await line.pulls(2)
    for info in (first, second):
        assert await _claim(kit.store, info.id) is ClaimOutcome.OK
    take = kit.store.take_left_behind

    assert await take("boot-w1", NOW - 1, NOW) is None
    assert {await take("boot-w1", NOW + 1, NOW + 10), await take("boot-w1", NOW + 1, NOW + 10)} == {first.id, second.id}
    assert await take("boot-w1", NOW + 1, NOW + 10) is None


async def test_nothing_is_claimed_beyond_an_http_workers_slots(kit: Kit, line: Line) -> None:
    worker = await line.worker("w1", slots=1, http=True)
    first, second, picked = await line.pull(0), await line.pull(1), await line.pick(2)

    assert await _claim(kit.store, first.id) is ClaimOutcome.OK
    assert await _claim(kit.store, second.id) is ClaimOutcome.FULL
    await kit.store.finish_task(first.id, "boot-w1", Result.success(), a_message(), NOW)
    await line.assign(picked, worker)
    assert await _claim(kit.store, second.id) is ClaimOutcome.FULL
    assert await _claim(kit.store, picked.id) is ClaimOutcome.OK


async def test_what_was_given_back_waits_no_longer_than_its_dispatch_may(kit: Kit, line: Line) -> None:
    await line.worker("w1", http=True)
    info = await line.pull(dispatch_timeout_seconds=30)
    assert await _claim(kit.store, info.id) is ClaimOutcome.OK
    assert await kit.store.due(NOW + 100) == [timer for timer in await kit.store.due(NOW + 100) if timer.kind != "dispatch"]

    await kit.store.release_task(info.id, "boot-w1", NOW + 5)

    assert [(timer.kind, timer.due) for timer in await kit.store.due(NOW + 100)] == [("dispatch", NOW + 35)]


async def test_one_worker_by_its_name(kit: Kit, line: Line) -> None:
    record = await line.worker("w1", ttl=50)

    found = await kit.store.worker("w1", NOW)
    assert found is not None
    assert (found.id, found.boot_id, found.tasks) == ("w1", record.boot_id, record.tasks)
    assert await kit.store.worker("w1", NOW + 51) is None
    assert await kit.store.worker("nobody", NOW) is None


async def test_nothing_is_claimed_for_a_start_that_has_ended(kit: Kit, line: Line) -> None:
    record = await line.worker("w1", http=True, ttl=50)
    info = await line.pull()
    claim = kit.store.claim_task
    await kit.store.register(replace(record, boot_id="another"), NOW, 50)

    assert (await claim(info.id, "w1", "boot-w1", NOW, 300, "cpu", handing=True)).outcome is ClaimOutcome.GONE
    assert (await claim(info.id, "w1", "another", NOW + 51, 300, "cpu", handing=True)).outcome is ClaimOutcome.GONE
    assert (await claim(info.id, "w1", "another", NOW, 300, "cpu", handing=True)).outcome is ClaimOutcome.OK
