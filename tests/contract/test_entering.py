"""How tasks come to wait: anew, from elsewhere, for a warm worker; and those of other Celery apps, which never wait for room."""

from __future__ import annotations

import pytest

from avtomatika.jobs import TaskState, Timer, new_id
from avtomatika.state.base import WARM, ClaimOutcome, Entry
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_message

D, W = TaskState.DISPATCHED, TaskState.WAITING


@pytest.mark.parametrize("state", [TaskState.UNROUTED, TaskState.DELAYED])
async def test_what_could_not_go_yet_enters_later(kit: Kit, line: Line, state: TaskState) -> None:
    first = await line.task(state=state, dispatch_timeout_seconds=100)
    await line.pulls(4)
    second = await line.task(state=state)
    for info in (first, second):
        assert (await line.record(info)).waiting_since is None
        assert (await line.claim(info.id)).outcome is ClaimOutcome.STALE

    for n, info in enumerate((first, second)):
        assert (await kit.store.enter(info.id, Entry(a_message(body=info.id)), NOW + 30 + n)).applied
    assert await line.states([first, second]) == [W, W]
    assert (await line.record(first)).waiting_since == NOW + 30
    assert await line.places([first, second]) == [0, 1]
    assert await kit.store.unrouted("work") == []
    paused = 30 if state is TaskState.DELAYED else 0  # a pause is none of the time that it waits for a worker
    assert await line.timers() == [Timer("dispatch", first.id, NOW + paused + 100)]
    await line.claimed((await kit.bodies())[0])
    assert await line.states([first, second]) == [D, W]


async def test_only_what_waits_can_enter(kit: Kit, line: Line) -> None:
    infos = await line.pulls(3)
    await line.claimed(infos[1].id)
    await line.claimed(infos[2].id)
    await line.finish(infos[2].id)
    before = await kit.everything()

    for task_id in (*(info.id for info in infos), new_id()):
        for entry in (Entry(a_message()), Entry()):
            assert not (await kit.store.enter(task_id, entry, NOW + 1)).applied

    assert await kit.everything() == before


async def test_a_task_that_waited_for_a_pick_enters_the_queue_at_its_old_place(kit: Kit, line: Line) -> None:
    early = await line.pick(at=0)
    first = await line.pulls(4, at=1)
    late = await line.pull(at=10)

    done = await kit.store.enter(early.id, Entry(a_message(body=early.id)), NOW + 20)

    assert (done.applied, done.picks) == (True, ())
    assert (await kit.store.picking(), await line.heads()) == ([], [])
    assert await line.places([early, late]) == [0, 1]
    assert (await line.record(early)).waiting_since == NOW
    await line.claimed(first[0].id, at=21)
    assert await line.states([early, late]) == [D, W]


async def test_what_waits_cannot_be_claimed_nor_dispatched_again(kit: Kit, line: Line) -> None:
    waiting = (await line.pulls(5))[-1]
    pick = await line.pick()
    before = await kit.everything()

    for info in (waiting, pick):
        assert (await line.claim(info.id)).outcome is ClaimOutcome.STALE
        assert not (await kit.store.redispatch(info.id, a_message(), NOW)).applied

    assert await kit.everything() == before


async def test_the_dispatch_timeout_runs_from_the_beginning(kit: Kit, line: Line) -> None:
    await line.pulls(4)
    info = await line.pull(at=10, dispatch_timeout_seconds=60)
    assert await line.timers() == [Timer("dispatch", info.id, NOW + 70)]

    await line.claimed((await kit.bodies())[0], at=20)
    assert Timer("dispatch", info.id, NOW + 70) in await line.timers()
    await line.claimed(info.id, at=30)

    assert [timer.kind for timer in await line.timers()] == ["timeout", "timeout"]


@pytest.mark.parametrize("hot", [(), ("m1",), ("m1", "m2")])
async def test_a_task_waits_for_a_pick_where_a_worker_is_warm_for_it(kit: Kit, line: Line, hot: tuple[str, ...]) -> None:
    await line.worker(hot_cache=hot, skill_dependencies={"work": ["m1", "m2"]}, status="busy")

    info = await line.pull(unless_warm=True)
    careless = await line.pull()

    is_warm = len(hot) == 2
    assert (info.id in await kit.bodies()) is not is_warm
    assert (await line.record(info)).state is (W if is_warm else D)
    assert await line.heads() == ([info.id] if is_warm else [])
    assert await kit.store.picking() == (["work"] if is_warm else [])
    assert (await line.record(careless)).state is D


async def test_a_worker_that_has_ended_is_warm_for_nothing(kit: Kit, line: Line) -> None:
    record = await line.worker(hot_cache=("m",), skill_dependencies={"work": ["m"]})
    await line.pull(unless_warm=True)
    assert line.done.picks == ("work",)
    await kit.store.heartbeat(record.id, record.boot_id, NOW, 1e6, line.cooled(record))
    assert (await line.record(await line.pull(unless_warm=True))).state is D
    await kit.store.heartbeat(record.id, record.boot_id, NOW, 1e6, record)
    await kit.store.unregister(record.id, record.boot_id, NOW)

    assert (await line.record(await line.pull(unless_warm=True))).state is D


async def test_tasks_that_wait_for_a_warm_worker_share_a_lane_with_that_signature(kit: Kit, line: Line) -> None:
    await line.worker(hot_cache=("m",), skill_dependencies={"work": ["m"]})

    infos = [await line.pull(unless_warm=True), await line.pick(signature=WARM), await line.pick(signature="else")]

    assert await line.places(infos) == [0, 1, 0]


# --- Plain Celery tasks --------------------------------------------------------------------------------------------------------


async def test_plain_tasks_go_at_once_and_their_clock_starts_as_they_go(kit: Kit, line: Line) -> None:
    infos = await line.pulls(8, queue="fleet", timeout_seconds=30)

    assert await kit.bodies() == [info.id for info in infos]
    assert sorted(await line.timers(), key=lambda t: t.due) == [
        Timer("timeout", info.id, NOW + n + 30) for n, info in enumerate(infos)
    ]
    assert await kit.store.unclaimed(NOW * 2) == []
    assert await line.states(await line.pulls(5)) == [D] * 4 + [W]
    await line.drop(infos[0])
    assert len(await line.timers()) == 7


async def test_a_plain_task_without_a_timeout_has_no_timer(kit: Kit, line: Line) -> None:
    await line.pull(queue="fleet", dispatch_timeout_seconds=5)

    assert await line.timers() == []
