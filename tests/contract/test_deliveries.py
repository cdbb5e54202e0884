"""Deliveries: they come into being with a commit, are due at their time, and are changed by one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from avtomatika.deliveries import Delivery, DeliveryAttempt, DeliveryStatus
from avtomatika.jobs import JobStatus
from tests.contract.conftest import Kit
from tests.support.records import NOW, a_job, change

RECEIVER = "example.com:443"
FAILED = DeliveryAttempt(NOW, 2.5, None, "no answer within 10 s")


def a_delivery(delivery_id: str = "d1", **fields: object) -> Delivery:
    given = {"job_id": "j1", "event": "job.finished", "receiver": RECEIVER, "created_at": NOW, "due": NOW}
    payload = {"job": {"id": "j1", "result": {"name": "Zoë", "n": 1.5}}}
    return Delivery(**{"id": delivery_id, **given, "payload": payload, "url": "https://example.com/x?y=|", **fields})


async def _due(kit: Kit, now: float) -> list[str]:
    """What is due for anybody."""
    return [i for receiver in await kit.store.due_receivers(now) for i in await kit.store.due_deliveries(receiver, now)]


async def _stored(kit: Kit, *deliveries: Delivery) -> None:
    job = await kit.created()
    commit = change(job, {"deliveries": deliveries}, status=JobStatus.FINISHED)
    assert (await kit.store.commit(commit)).applied


async def test_a_commit_brings_them_into_being(kit: Kit) -> None:
    delivery = a_delivery()
    assert await kit.store.delivery("d1") is None

    await _stored(kit, delivery)

    assert await kit.store.delivery("d1") == delivery
    assert await _due(kit, NOW) == ["d1"]


async def test_a_commit_that_is_not_applied_brings_none(kit: Kit) -> None:
    job = await kit.created()
    late = change(replace(job, version=7), {"deliveries": (a_delivery(),)}, status=JobStatus.FINISHED)

    assert not (await kit.store.commit(late)).applied

    assert await kit.store.delivery("d1") is None
    assert await _due(kit, NOW) == []


async def test_a_commit_that_is_repeated_brings_one(kit: Kit) -> None:
    job = await kit.created()
    commit = change(job, {"deliveries": (a_delivery(),)}, status=JobStatus.FINISHED)
    await kit.store.commit(commit)
    done = a_delivery().tried(DeliveryAttempt(NOW, 1.0, 200), NOW, 12)
    assert await kit.store.replace_delivery(done)

    assert (await kit.store.commit(commit)).applied

    assert await kit.store.delivery("d1") == done
    assert await _due(kit, NOW + 1e6) == []


async def test_the_longest_due_come_first(kit: Kit) -> None:
    await _stored(kit, *(a_delivery(f"d{n}", due=NOW - n) for n in range(5)), a_delivery("later", due=NOW + 1))

    assert list(await kit.store.due_deliveries(RECEIVER, NOW)) == ["d4", "d3", "d2", "d1", "d0"]
    assert list(await kit.store.due_deliveries(RECEIVER, NOW, 2)) == ["d4", "d3"]
    assert list(await kit.store.due_deliveries(RECEIVER, NOW + 1))[-1] == "later"
    assert list(await kit.store.due_deliveries("another", NOW)) == []


async def test_receivers_come_in_the_order_of_what_has_waited_longest(kit: Kit) -> None:
    waiting = {"a": (3.25, 1), "b": (2, 0), "c:1": (-1, 4.5), "d": (-1,)}
    deliveries = [a_delivery(f"{r}{n}", receiver=r, due=NOW - age) for r, ages in waiting.items() for n, age in enumerate(ages)]
    await _stored(kit, *deliveries)
    assert list(await kit.store.due_receivers(NOW)) == ["c:1", "a", "b"]
    assert list(await kit.store.due_receivers(NOW, 2)) == ["c:1", "a"]
    assert list(await kit.store.due_receivers(NOW + 1)) == ["c:1", "a", "b", "d"]

    await kit.store.replace_delivery(deliveries[5].dropped())  # c:1 has nothing due now
    await kit.store.replace_delivery(deliveries[0].tried(FAILED, NOW, 12))  # a's other one counts

    assert list(await kit.store.due_receivers(NOW)) == ["b", "a"]
    assert list(await kit.store.due_receivers(NOW + 0.999)) == ["b", "a"]
    for delivery in deliveries[2:4]:
        await kit.store.replace_delivery(delivery.dropped())
    assert list(await kit.store.due_receivers(NOW)) == ["a"]


async def test_a_failed_attempt_moves_it(kit: Kit) -> None:
    await _stored(kit, a_delivery())
    after = a_delivery().tried(FAILED, NOW, 12)

    assert await kit.store.replace_delivery(after)

    assert await kit.store.delivery("d1") == after
    assert await _due(kit, NOW) == []
    assert await _due(kit, after.due) == ["d1"]


async def test_one_that_is_over_is_due_no_longer(kit: Kit) -> None:
    await _stored(kit, a_delivery("d1"), a_delivery("d2"), a_delivery("d3"))

    assert await kit.store.replace_delivery(a_delivery("d1").tried(DeliveryAttempt(NOW, 1.0, 200), NOW, 12))
    assert await kit.store.replace_delivery(a_delivery("d2").tried(FAILED, NOW, 1))
    assert await kit.store.replace_delivery(a_delivery("d3").dropped())

    assert await _due(kit, NOW + 1e6) == []
    statuses = [(d.status if d else None) for d in [await kit.store.delivery(i) for i in ("d1", "d2", "d3")]]
    assert statuses == [DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.DROPPED]


async def test_of_two_changes_at_once_one_counts(kit: Kit) -> None:
    await _stored(kit, a_delivery())
    delivered = a_delivery().tried(DeliveryAttempt(NOW, 1.0, 200), NOW, 12)
    failed = a_delivery().tried(FAILED, NOW, 12)

    done = await asyncio.gather(*(kit.store.replace_delivery(after) for after in (delivered, failed)))

    assert sorted(done) == [False, True]
    assert await kit.store.delivery("d1") == (delivered if done[0] else failed)
    assert not await kit.store.replace_delivery(a_delivery("unknown").dropped())


async def test_it_lives_until_it_is_over_and_then_as_long_as_the_job(kit: Kit) -> None:
    if kit.redis is None:
        return  # nothing expires in memory
    await _stored(kit, a_delivery())
    key = f"{kit.namespace}:delivery:d1"
    assert await kit.redis.ttl(key) == -1

    await kit.store.replace_delivery(a_delivery().dropped())

    assert 0 < await kit.redis.ttl(key) <= 3600


async def test_one_whose_record_is_gone_is_due_no_longer(kit: Kit) -> None:
    if kit.redis is None:
        return  # there is no index beside the records
    await _stored(kit, a_delivery("d1"), a_delivery("d2"))
    await kit.redis.delete(f"{kit.namespace}:delivery:d1")

    for delivery_id in ("d1", "d2"):  # the second one is there
        await kit.store.forget_delivery(RECEIVER, delivery_id)

    assert await _due(kit, NOW) == ["d2"]


async def test_a_secret_is_made_once(kit: Kit) -> None:
    first, again = await asyncio.gather(kit.store.secret("a"), kit.store.secret("a"))

    assert first == again == await kit.store.secret("a")
    assert len(first) == 64
    assert await kit.store.secret("b") != first
    assert await kit.apart.secret("a") != first


async def test_a_job_keeps_whom_it_tells(kit: Kit) -> None:
    job = a_job(webhook_url="https://example.com/hook")
    await kit.created(**{name: getattr(job, name) for name in ("id", "webhook_url")})

    loaded = await kit.store.load(job.id)

    assert loaded is not None
    assert loaded.webhook_url == "https://example.com/hook"
