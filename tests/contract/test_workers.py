"""Processes, pins, timers, messages on their way, locks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from avtomatika.errors import RegistrationError
from avtomatika.jobs import Timer
from avtomatika.state.base import ClaimOutcome
from tests.contract.conftest import Kit
from tests.contract.line import Line
from tests.support.records import NOW, a_message, a_task, a_worker, change, dispatched

# --- Processes -----------------------------------------------------------------------------------------------------------------


async def test_a_registered_worker_is_listed_until_it_falls_silent(kit: Kit) -> None:
    record = a_worker(supported_tasks=("a", "b"), capabilities={"gpu": 1}, hot_cache=("m",), resources={"cpu_cores": 4})
    await kit.store.register(record, NOW, 10)
    await kit.store.register(a_worker("w0", "boot0"), NOW, 100)

    assert [w.id for w in await kit.store.workers(NOW)] == ["w0", "w1"]
    assert (await kit.store.workers(NOW))[1] == record
    assert [w.id for w in await kit.store.workers(NOW + 10)] == ["w0"]
    assert await kit.store.ended_boots(NOW + 10) == ["boot1"]
    assert await kit.store.ended_boots(NOW + 9) == []


async def test_a_heartbeat_keeps_it_alive_and_replaces_its_record(kit: Kit) -> None:
    record = a_worker()
    await kit.store.register(record, NOW, 10)

    assert await kit.store.heartbeat("w1", "boot1", NOW + 8, 10, replace(record, status="busy", load={"gpu": 1}))
    assert await kit.store.heartbeat("w1", "boot1", NOW + 9, 10)

    (seen,) = await kit.store.workers(NOW + 15)
    assert (seen.status, seen.load, seen.seen_at) == ("busy", {"gpu": 1}, NOW + 9)
    assert await kit.store.ended_boots(NOW + 18) == []
    assert await kit.store.ended_boots(NOW + 19) == ["boot1"]


async def test_a_heartbeat_of_an_unknown_a_replaced_or_a_forgotten_boot_is_told_so(kit: Kit) -> None:
    await kit.store.register(a_worker("w1", "old"), NOW, 10)
    await kit.store.register(a_worker("w1", "new", seen_at=NOW + 1), NOW + 1, 10)

    assert not await kit.store.heartbeat("nobody", "x", NOW, 10)
    assert not await kit.store.heartbeat("w1", "old", NOW, 10)
    assert await kit.store.heartbeat("w1", "new", NOW + 2, 10)
    await kit.store.forget_boot("new", NOW + 100)
    assert not await kit.store.heartbeat("w1", "new", NOW + 100, 10)


async def test_a_new_boot_under_the_same_id_ends_the_old_one_at_once(kit: Kit) -> None:
    await kit.store.register(a_worker("w1", "old"), NOW, 100)
    await kit.store.heartbeat("w1", "old", NOW + 1, 100)

    await kit.store.register(a_worker("w1", "new", registered_at=NOW + 2, seen_at=NOW + 2), NOW + 2, 100)

    assert await kit.store.ended_boots(NOW + 2) == ["old"]
    (seen,) = await kit.store.workers(NOW + 2)
    assert (seen.boot_id, seen.seen_at) == ("new", NOW + 2)


async def test_registering_again_under_the_same_boot_ends_nothing(kit: Kit) -> None:
    for n in range(3):
        await kit.store.register(a_worker(), NOW + n, 10)

    assert await kit.store.ended_boots(NOW + 5) == []


async def test_an_orderly_end(kit: Kit) -> None:
    await kit.store.register(a_worker("w1", "old"), NOW, 100)
    await kit.store.register(a_worker("w1", "new"), NOW, 100)

    await kit.store.unregister("w1", "old", NOW)
    assert [w.boot_id for w in await kit.store.workers(NOW)] == ["new"]
    await kit.store.unregister("w1", "new", NOW)
    await kit.store.unregister("w1", "never-there", NOW)

    assert await kit.store.workers(NOW) == []
    assert sorted(await kit.store.ended_boots(NOW)) == ["new", "old"]


async def test_an_ended_boot_is_forgotten_once_it_holds_nothing(kit: Kit) -> None:
    await kit.store.register(a_worker(), NOW, 10)
    job = await kit.created()
    info = a_task(job)
    job = await kit.committed(change(job, {"tasks": (dispatched(info),)}))
    await kit.store.claim_job(job.id, "boot1", NOW, "k")
    await kit.store.claim_task(info.id, "w1", "boot1", NOW, 60)
    assert await kit.store.claims("boot1") == ({job.id: "k"}, [info.id])

    await kit.store.forget_boot("boot1", NOW + 5)
    await kit.store.forget_boot("boot1", NOW + 10)
    assert await kit.store.ended_boots(NOW + 10) == ["boot1"]

    await kit.store.drop_claim("boot1", task_id=info.id)
    await kit.store.release_job(job.id, "boot1")
    await kit.store.forget_boot("boot1", NOW + 9)
    assert await kit.store.ended_boots(NOW + 10) == ["boot1"]
    await kit.store.forget_boot("boot1", NOW + 10)
    assert await kit.store.ended_boots(NOW + 10) == []


async def test_a_boot_that_nobody_registered_holds_no_job_against_others(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.claim_job(job.id, "unregistered", NOW, "k")

    assert (await kit.store.claim_job(job.id, "other", NOW, "k")).outcome is ClaimOutcome.OK


async def test_the_claim_of_a_boot_that_was_forgotten_is_found(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.register(a_worker("one", "boot1"), NOW, 10)
    await kit.store.forget_boot("boot1", NOW + 10)

    assert (await kit.store.claim_job(job.id, "boot1", NOW + 11, "k")).outcome is ClaimOutcome.OK
    assert await kit.store.ended_boots(NOW + 11) == ["boot1"]
    assert (await kit.store.claims("boot1"))[0] == {job.id: "k"}

    await kit.store.register(a_worker("one", "boot1"), NOW + 12, 10)  # it was alive after all
    assert await kit.store.ended_boots(NOW + 13) == []
    assert await kit.store.is_claimed(job.id, NOW + 13)


# --- Pins ----------------------------------------------------------------------------------------------------------------------


async def test_the_first_worker_pins_a_task(kit: Kit) -> None:
    assert await kit.store.capability_of("resize") is None
    assert await kit.store.pin_tasks({}) == {}
    assert await kit.store.pin_tasks({"resize": "cpu", "own": None}) == {"resize": "cpu", "own": "own"}
    assert await kit.store.pin_tasks({"resize": None, "own": "own", "new": "gpu"}) == {
        "resize": "cpu",
        "own": "own",
        "new": "gpu",
    }
    assert await kit.store.capability_of("resize") == "cpu"
    assert await kit.store.capabilities() == {"resize": "cpu", "own": "own", "new": "gpu"}


async def test_a_conflicting_pin_is_refused_with_all_that_came_with_it(kit: Kit) -> None:
    await kit.store.pin_tasks({"resize": "cpu"})

    with pytest.raises(RegistrationError, match=r"'resize'.*'cpu'.*'gpu'"):
        await kit.store.pin_tasks({"first": "gpu", "resize": "gpu", "last": None})

    assert await kit.store.capabilities() == {"resize": "cpu"}


async def test_of_racing_pins_all_see_one(kit: Kit) -> None:
    pins = await asyncio.gather(*(kit.store.pin_tasks({"t": f"c{n}"}) for n in range(8)), return_exceptions=True)

    assert sum(isinstance(pin, dict) for pin in pins) == 1
    assert sum(isinstance(pin, RegistrationError) for pin in pins) == 7


# --- Timers --------------------------------------------------------------------------------------------------------------------


async def test_timers_are_due_in_their_order(kit: Kit) -> None:
    timers = [Timer("task", "a|b", NOW + 2), Timer("step", "j|1", NOW + 1.25), Timer("timeout", "t", NOW + 3)]
    for timer in timers:
        await kit.store.set_timer(timer)

    assert await kit.store.due(NOW) == []
    assert await kit.store.due(NOW + 2) == [timers[1], timers[0]]
    assert await kit.store.due(NOW + 9, limit=1) == [timers[1]]


async def test_a_timer_set_again_moves(kit: Kit) -> None:
    first, later = Timer("task", "a", NOW), Timer("task", "a", NOW + 5)
    await kit.store.set_timer(first)
    await kit.store.set_timer(later)

    await kit.store.drop_timer(first)
    assert await kit.store.due(NOW + 5) == [later]
    await kit.store.drop_timer(later)
    assert await kit.store.due(NOW + 5) == []


async def test_a_commit_sets_and_drops_timers(kit: Kit) -> None:
    job = await kit.created()
    timers = (Timer("step", "a", NOW), Timer("step", "b", NOW))
    job = await kit.committed(change(job, {"timers": timers}))

    await kit.committed(change(job, {"drop_timers": (timers[0].member,), "timers": (Timer("step", "b", NOW + 1),)}))

    assert await kit.store.due(NOW * 2) == [Timer("step", "b", NOW + 1)]


# --- Messages on their way -----------------------------------------------------------------------------------------------------


async def test_what_is_published_is_in_the_ledger_until_it_is_settled(kit: Kit) -> None:
    messages = [a_message(f"k{n}") for n in range(3)]
    for n, message in enumerate(messages):
        await kit.store.publish(message, NOW + n)
    await kit.store.publish(a_message(None), NOW)

    assert await kit.store.ledger(NOW + 1) == [(messages[0], NOW), (messages[1], NOW + 1)]
    assert await kit.store.ledger(NOW + 9, limit=1) == [(messages[0], NOW)]
    await kit.store.settle(["k0", "unknown"])
    await kit.store.settle([])
    assert [m.key for m, _ in await kit.store.ledger(NOW + 9)] == ["k1", "k2"]
    assert await kit.store.ledger_get("k0") is None
    assert len(await kit.pushed()) == 4


async def test_a_message_published_again_replaces_its_older_entry(kit: Kit) -> None:
    await kit.store.publish(a_message("k", body="old"), NOW)
    newer = a_message("k", body="new")

    await kit.store.publish(newer, NOW + 5)

    assert await kit.store.ledger(NOW + 9) == [(newer, NOW + 5)]
    assert await kit.bodies() == ["old", "new"]


async def test_a_commit_settles_and_publishes(kit: Kit) -> None:
    job = await kit.created()
    await kit.store.publish(a_message("old"), NOW)

    await kit.committed(change(job, {"settles": ("old",), "messages": (a_message("new"),)}))

    assert [m.key for m, _ in await kit.store.ledger(NOW + 9)] == ["new"]


async def test_without_push_messages_wait_in_the_outbox(kit: Kit) -> None:
    store = kit.apart
    first, second = a_message("k", priority=3, exchange="x"), a_message(None, declare="default")
    (one,) = (await store.publish(first, NOW)).outbox
    (two,) = (await store.publish(second, NOW + 5)).outbox

    assert await store.outbox(NOW) == [(one, first)]
    assert await store.outbox(NOW + 5) == [(one, first), (two, second)]
    assert await store.outbox_messages([two, "unknown", one]) == [(two, second), (one, first)]
    assert await store.outbox_messages([]) == []
    await store.clear_outbox([one])
    await store.clear_outbox([])
    assert await store.outbox(NOW + 5) == [(two, second)]
    assert await store.ledger_get("k") == first


# --- Locks ---------------------------------------------------------------------------------------------------------------------


async def test_a_lock_has_one_holder(kit: Kit) -> None:
    assert await kit.store.acquire("watch", "me", 30)
    assert await kit.store.acquire("watch", "me", 30)
    assert not await kit.store.acquire("watch", "you", 30)
    assert await kit.store.acquire("other", "you", 30)
    assert await kit.store.renew("watch", "me", 30)
    assert not await kit.store.renew("watch", "you", 30)
    assert not await kit.store.release("watch", "you")
    assert await kit.store.release("watch", "me")
    assert not await kit.store.release("watch", "me")
    assert not await kit.store.renew("watch", "me", 30)
    assert await kit.store.acquire("watch", "you", 30)


async def test_a_lock_ends_with_its_time(kit: Kit) -> None:
    if kit.redis is None:
        return  # nobody dies in one process
    await kit.store.acquire("watch", "me", 30)
    await kit.store.renew("watch", "me", 60)

    assert 30_000 < await kit.redis.pttl(f"{kit.namespace}:lock:watch") <= 60_000
    await kit.redis.delete(f"{kit.namespace}:lock:watch")  # as its expiry would
    assert not await kit.store.renew("watch", "me", 30)
    assert await kit.store.acquire("watch", "you", 30)


async def test_of_racing_holders_exactly_one_gets_the_lock(kit: Kit) -> None:
    got = await asyncio.gather(*(kit.store.acquire("watch", f"h{n}", 30) for n in range(10)))

    assert sum(got) == 1


async def test_the_store_answers(kit: Kit) -> None:
    await kit.store.ping()


async def test_a_claim_of_a_process_that_was_forgotten_is_given_out_again_if_it_ends(kit: Kit, line: Line) -> None:
    """It was silent for too long (stopped, cut off), and claims before its next heartbeat."""
    await line.worker(ttl=10)
    info = await line.pull()
    await kit.store.forget_boot("boot-w1", NOW + 11)
    assert list(await kit.store.ended_boots(NOW + 12)) == []

    await line.claimed(info.id, at=12)

    assert list(await kit.store.ended_boots(NOW + 13)) == []
    assert list(await kit.store.ended_boots(NOW + 100)) == ["boot-w1"]
    assert (await kit.store.claims("boot-w1"))[1] == [info.id]


async def test_what_a_registration_makes_room_for_is_told(kit: Kit) -> None:
    line = Line(kit.apart)
    infos = await line.pulls(6)

    done = await kit.apart.register(a_worker("w1", "boot-w1", tasks=("work",), supported_tasks=("work",)), NOW + 9, 60)

    sent = [message.body for _, message in await kit.apart.outbox_messages(done.outbox)]
    assert sent == [info.id for info in infos[4:]]
