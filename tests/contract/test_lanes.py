"""How tasks wait for their turn in the queue: its room, the shares of those who want it, priorities."""

from __future__ import annotations

from collections import Counter

from avtomatika.jobs import Limit, TaskInfo, TaskState, new_id
from avtomatika.state.base import ClaimOutcome, Entry, NewTask, queue_room
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_job, a_message, a_task, change, creation

D, W = TaskState.DISPATCHED, TaskState.WAITING


class Queue:
    """A queue with no room left, and what follows as its messages are taken, oldest first. Tasks are named by their keys."""

    def __init__(self, kit: Kit, line: Line) -> None:
        self.kit = kit
        self.line = line
        self.names: dict[str, str] = {}
        self.taken = 0

    async def fill(self) -> None:
        await self.add("first", queue_room(0))

    async def add(self, key: str, count: int = 1, **fields: object) -> list[TaskInfo]:
        infos = await self.line.pulls(count, fairness_key=key, **fields)
        self.names.update((info.id, key) for info in infos)
        return infos

    async def sent(self) -> list[str]:
        return [body for body in await self.kit.bodies() if body in self.names]

    async def next_ids(self, count: int) -> list[str]:
        before = len(await self.sent())
        for _ in range(count):
            await self.line.claimed((await self.sent())[self.taken])
            self.taken += 1
        return (await self.sent())[before:]

    async def next(self, count: int) -> list[str]:
        """The keys of the tasks that go next."""
        return [self.names[task_id] for task_id in await self.next_ids(count)]


async def _queue(kit: Kit, line: Line) -> Queue:
    queue = Queue(kit, line)
    await queue.fill()
    return queue


# --- Room ----------------------------------------------------------------------------------------------------------------------


async def test_few_lie_in_the_queue_and_the_others_wait(kit: Kit, line: Line) -> None:
    infos = await line.pulls(6)

    assert await kit.bodies() == [info.id for info in infos[:4]]
    records = [await line.record(info) for info in infos]
    assert [r.state for r in records] == [D] * 4 + [W] * 2
    assert [r.dispatched_at for r in records[:4]] == [NOW, NOW + 1, NOW + 2, NOW + 3]
    assert [r.waiting_since for r in records] == [None] * 4 + [NOW + 4, NOW + 5]
    assert [r.parked_on for r in records] == [None] * 6
    assert await line.places(infos) == [None] * 4 + [0, 1]
    assert [r.info.id for r in await kit.store.unclaimed(NOW * 2)] == await kit.bodies()
    assert await kit.store.picking() == []
    assert await kit.store.lane_position(new_id()) is None


async def test_the_room_grows_with_the_live_workers_that_know_the_task(kit: Kit, line: Line) -> None:
    for n in range(3):
        await line.worker(f"w{n}", status="busy", supported_tasks=())
    await line.worker("other", tasks=("else",), supported_tasks=("else",))
    infos = await line.pulls(13)
    assert len(await kit.bodies()) == 10

    await line.worker("w3")
    assert len(await kit.bodies()) == 12

    await kit.store.unregister("w3", "boot-w3", NOW)
    for info in infos[:2]:
        await line.claimed(info.id)
    assert len(await kit.bodies()) == 12
    await line.claimed(infos[2].id)
    assert (await kit.bodies())[12:] == [infos[12].id]


async def test_a_claim_lets_the_next_one_go(kit: Kit, line: Line) -> None:
    infos = await line.pulls(7)

    claim = await line.claimed(infos[2].id, at=50)

    assert claim.outbox == ()
    assert (await kit.bodies())[4:] == [infos[4].id]
    assert (await line.record(infos[4])).dispatched_at == NOW + 50
    assert await line.places(infos[4:]) == [None, 0, 1]
    await line.claimed(infos[4].id)
    assert (await kit.bodies())[5:] == [infos[5].id]


async def test_what_is_not_taken_leaves_no_room(kit: Kit, line: Line) -> None:
    infos = await line.pulls(6)

    for task_id in (infos[4].id, infos[5].id, new_id()):
        assert (await line.claim(task_id)).outcome is ClaimOutcome.STALE

    assert len(await kit.bodies()) == 4


async def test_one_that_is_over_makes_room_and_waits_no_longer(kit: Kit, line: Line) -> None:
    infos = await line.pulls(7)

    await line.drop(infos[4])
    assert await line.places(infos[5:]) == [0, 1]
    assert len(await kit.bodies()) == 4
    await line.drop(infos[1])
    await line.drop(infos[2])

    assert (await kit.bodies())[4:] == [infos[5].id, infos[6].id]
    assert await kit.store.get_task(infos[4].id) is None


async def test_one_given_back_takes_up_room_again(kit: Kit, line: Line) -> None:
    infos = await line.pulls(6)
    await line.claimed(infos[0].id)
    assert (await kit.bodies())[4:] == [infos[4].id]

    assert await kit.store.release_task(infos[0].id, "boot-w1", NOW)
    await line.claimed(infos[1].id)
    assert (await kit.bodies())[4:] == [infos[4].id]
    await line.claimed(infos[0].id)

    assert (await kit.bodies())[4:] == [infos[4].id, infos[5].id]


async def test_each_type_has_a_room_of_its_own(kit: Kit, line: Line) -> None:
    await _queue(kit, line)

    infos = await line.pulls(5, type="other")

    assert (await kit.bodies())[4:] == [info.id for info in infos[:4]]


async def test_tasks_of_one_change_go_in_its_order(kit: Kit, line: Line) -> None:
    job = await kit.created()
    infos = [a_task(job) for _ in range(6)]
    tasks = tuple(NewTask(info, entry=Entry(a_message(body=info.id))) for info in infos)

    await kit.committed(change(job, {"tasks": tasks}))

    assert await kit.bodies() == [info.id for info in infos[:4]]
    for info in infos[:2]:
        await line.claimed(info.id)
    assert await kit.bodies() == [info.id for info in infos]


async def test_without_push_what_goes_is_named_for_the_outbox(kit: Kit) -> None:
    store = kit.apart
    job = a_job()
    await store.commit(creation(job))
    messages = [a_message() for _ in range(6)]
    infos = [a_task(job) for _ in messages]
    tasks = tuple(NewTask(info, entry=Entry(message)) for info, message in zip(infos, messages, strict=True))

    first = await store.commit(change(job, {"tasks": tasks}))
    claim = await store.claim_task(infos[1].id, "w", "b", NOW, 60)

    assert [m for _, m in await store.outbox_messages(first.outbox)] == messages[:4]
    assert [m for _, m in await store.outbox_messages(claim.outbox)] == messages[4:5]
    assert sorted(i for i, _ in await store.outbox(NOW * 2)) == sorted((*first.outbox, *claim.outbox))
    assert await kit.pushed() == []


# --- Shares --------------------------------------------------------------------------------------------------------------------


async def test_each_key_has_its_share(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    await queue.add("light", 20, fairness_weight=1.0)
    await queue.add("heavy", 20, fairness_weight=3.0)

    for _ in range(3):
        counted = Counter(await queue.next(8))
        assert 1 <= counted["light"] <= 3
        assert 5 <= counted["heavy"] <= 7


async def test_within_its_share_each_key_goes_by_age(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    one, two = await queue.add("one", 4), await queue.add("two", 4)

    going = await queue.next_ids(8)

    for infos in (one, two):
        assert [task_id for task_id in going if task_id in {info.id for info in infos}] == [info.id for info in infos]


async def test_who_comes_late_with_little_goes_next(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    await queue.add("much", 20)
    assert await queue.next(6) == ["much"] * 6

    await queue.add("late")

    assert await queue.next(3) == ["late", "much", "much"]


async def test_who_comes_late_with_much_has_saved_up_nothing(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    await queue.add("much", 20)
    await queue.next(8)

    await queue.add("late", 10)

    assert 4 <= (await queue.next(8)).count("late") <= 5


async def test_coming_and_going_earns_no_more_than_a_share(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    await queue.add("much", 30)

    going = []
    for _ in range(8):  # its lane is empty, and new, each time
        await queue.add("again")
        going += await queue.next(2)

    assert Counter(going) == {"again": 8, "much": 8}


async def test_what_waits_for_picks_saves_up_nothing_meanwhile(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    for key in ("slow", "slow", "slow", "slow", "slow", "quick", "quick", "quick", "quick"):
        await line.pick(fairness_key=key)
    await queue.add("quick", 12)
    assert await queue.next(8) == ["quick"] * 8

    await queue.add("slow", 12)
    worker = await line.worker(slots=100)
    await line.assign((await kit.store.heads("work"))[0].info, worker)  # whose turn it is: the slow one's

    assert 3 <= (await queue.next(8)).count("slow") <= 5


async def test_a_key_has_one_share_however_many_lanes(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    await line.worker("somebody", supported_tasks=())  # what has limits waits for one who knows it
    await queue.add("first", 2)
    for n in range(12):
        await queue.add("many", limits=(Limit(f"limit{n % 3}", 100),))
        await queue.add("one")

    counted = Counter(await queue.next(12))

    assert 5 <= counted["one"] <= 7
    assert 5 <= counted["many"] <= 7


# --- Priority ------------------------------------------------------------------------------------------------------------------


async def test_within_a_key_the_highest_priority_goes_first_then_the_oldest(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    infos = [(await queue.add("k", priority=priority))[0] for priority in (0, 5, 1.5, 5, 10)]
    assert await line.places(infos) == [4, 1, 3, 2, 0]

    assert await queue.next_ids(5) == [infos[n].id for n in (4, 1, 3, 2, 0)]


async def test_a_priority_takes_no_share_of_another_key(kit: Kit, line: Line) -> None:
    queue = await _queue(kit, line)
    await queue.add("low", 6)
    await queue.add("high", 6, priority=10)

    assert Counter(await queue.next(6)) == {"low": 3, "high": 3}
