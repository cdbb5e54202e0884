"""Whose turn it is: among the lanes of one key, among keys that are level, and with weights."""

from __future__ import annotations

from collections import Counter

from avtomatika.jobs import Limit, TaskInfo, TaskState
from tests.contract.conftest import Kit
from tests.contract.line import Line

D, W = TaskState.DISPATCHED, TaskState.WAITING


async def _drained(kit: Kit, line: Line, names: dict[str, str], count: int) -> str:
    """Claims what lies in the queue, oldest first, so often; the names of all that went, in their order."""
    for n in range(count):
        sent = await kit.bodies()
        await line.claimed(sent[n], at=1000.0 + n)
    return "".join(names[body] for body in await kit.bodies() if body in names)


async def test_the_lanes_of_one_key_go_by_the_age_of_their_tasks(kit: Kit, line: Line) -> None:
    await line.worker(supported_tasks=())
    await line.pulls(6, at=-10)
    names = {}
    for n in range(10):
        for name in "abcd":
            names[(await line.pull(n, limits=(Limit(name, 1000),))).id] = name

    assert await _drained(kit, line, names, 40) == "abcd" * 10


async def test_the_lanes_of_one_key_that_wait_for_picks_go_by_age_too(kit: Kit, line: Line) -> None:
    worker = await line.worker(slots=10**6)
    names = {}
    for n in range(10):
        for name in "abcd":
            names[(await line.pick(n, signature=name)).id] = name
    gone = ""
    for n in range(20):
        head = (await kit.store.heads("work"))[0]
        gone += names[head.info.id]
        await line.assign(head.info, worker, at=100 + n)

    assert gone == "abcd" * 5


async def test_many_lanes_of_one_key_keep_no_other_key_out_of_sight(kit: Kit, line: Line) -> None:
    many = [await line.pick(n, signature=f"s{n}", fairness_key="many") for n in range(30)]
    few = [await line.pick(50 + n, signature=f"s{n}", fairness_key="few") for n in range(2)]

    seen = [record.info.id for record in await kit.store.heads("work", 8)]

    assert seen[:4] == [many[0].id, few[0].id, many[1].id, few[1].id]
    assert seen[4:] == [info.id for info in many[2:6]]
    assert len(await kit.store.heads("work", 100)) == 32


async def test_of_keys_that_are_level_the_older_goes_first(kit: Kit, line: Line) -> None:
    """As with a key for each job: however many come after them, the first ones go."""
    await line.pulls(4, at=-10)
    old = [await line.pull(n, fairness_key=f"old{n}") for n in range(6)]
    for n in range(8):
        await line.pull(100 + n, fairness_key=f"new{n}")
        await line.claimed((await kit.bodies())[n], at=200 + n)

    assert W not in await line.states(old)


async def test_each_task_counts_by_its_own_weight(kit: Kit, line: Line) -> None:
    await line.pulls(4, at=-10, fairness_key="b")
    a = [await line.pull(n, fairness_key="a") for n in range(4)]
    a.append(await line.pull(5, fairness_key="a", fairness_weight=1000.0))  # counts when it goes, not before
    b = [await line.pull(6 + n, fairness_key="b") for n in range(5)]
    names = {info.id: "a" for info in a} | {info.id: "b" for info in b}

    counted = Counter(await _drained(kit, line, names, 4))

    assert counted == {"a": 2, "b": 2}


async def test_a_plain_task_waits_for_no_room_in_anothers_queue(line: Line) -> None:
    await line.pulls(6)

    plain = await line.pull(10, queue="fleet")

    assert (await line.record(plain)).state is D


async def test_what_is_kept_of_keys_is_bounded(kit: Kit, line: Line) -> None:
    await line.pick(0, signature="nobody", fairness_key="waits for ever")
    worker = await line.worker(slots=10**9)
    gone: list[TaskInfo] = []
    for n in range(1100):
        gone.append(await line.pick(1 + n, fairness_key=f"job{n}"))
        await line.assign(gone[-1], worker, at=n)
        await line.drop(gone[-1], at=n)

    if kit.redis is not None:
        assert await kit.redis.zcard(f"{kit.namespace}:turns:work") <= 1024
        assert await kit.redis.hlen(f"{kit.namespace}:seats:p:work") == 1
