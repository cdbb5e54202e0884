"""A job's end is told to its webhook: once an end, until it is taken, and without holding up anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.deliveries import DeliveryStatus
from avtomatika.engine.courier import AT_ONCE, PER_RECEIVER, Courier
from avtomatika.engine.draft import Draft
from avtomatika.engine.orders import Orders
from avtomatika.engine.service import Service
from avtomatika.engine.views import job_view
from avtomatika.errors import PermanentError, StoreUnavailableError
from avtomatika.jobs import Client, Job, JobStatus
from tests.support.machine import Machine
from tests.support.pages import json_examples, shape
from tests.support.polling import eventually_async
from tests.support.processes import free_port
from tests.support.receiver import SECRET, Receiver, receiving

OPEN = {"webhook_secret": SECRET, "webhook_allow_private": True}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def _blueprint() -> Blueprint:
    """Ends as `initial_data.end` says."""
    blueprint = Blueprint("ends")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, initial_data: dict[str, Any]) -> None:
        if initial_data.get("end") == "quarantined":
            actions.dispatch_task("broken", {}, {"success": "finished"})
        elif initial_data.get("end") == "child":
            actions.run_blueprint("ends", {}, {"success": "finished"})
        else:
            actions.transition_to(initial_data.get("end", "finished"))

    for state in ("finished", "failed", "cancelled"):

        @blueprint.handler_for(state, is_end=True)
        async def end(job_id: str) -> dict[str, str]:
            return {"made": job_id}

    return blueprint


async def _machine(**settings: Any) -> Machine:
    async def broken() -> dict[str, Any]:
        error = PermanentError("no way")
        return {"status": "failure", "error": {"code": error.code, "message": str(error)}}

    return await Machine(_blueprint(), workers={"broken": broken}, **{**OPEN, **settings}).start()


async def _run(machine: Machine, url: str | None, client: Client | None = None, **initial_data: Any) -> Job:
    service = Service(machine.engine)
    job = await service.create("ends", initial_data, client=client, webhook_url=url)
    await machine.drive()
    return await machine.job(job.id)


async def _round(machine: Machine, seconds: float = 0.0) -> None:
    """Lets time pass, then delivers what is due."""
    machine.now += seconds
    await machine.watcher.courier.round()
    await machine.watcher.courier.settled()


async def _view(machine: Machine, job: Job) -> dict[str, Any]:
    view = await job_view(await machine.job(job.id), Service(machine.engine))
    webhook: dict[str, Any] = view["webhook"]
    return webhook


@pytest.mark.parametrize("end", ["finished", "failed", "cancelled", "quarantined"])
async def test_every_end_is_told_signed_and_once(receiver: Receiver, end: str) -> None:
    machine = await _machine()
    job = await _run(machine, f"{receiver.url}/hook?to=me", end=end)
    assert job.status == end

    await _round(machine)
    await _round(machine, 3600)

    (got,) = receiver.got
    assert (got.path, got.event, got.is_signed(), got.is_signed("another")) == ("/hook", f"job.{end}", True, False)
    body = got.json
    assert (body["event"], body["delivery_id"], set(body)) == (
        f"job.{end}",
        got.delivery,
        {"event", "delivery_id", "timestamp", "job"},
    )
    told = body["job"]
    assert (told["id"], told["status"], told["blueprint_name"]) == (job.id, end, "ends")
    assert told["result"] == (None if end == "quarantined" else {"made": job.id})
    assert ("no way" in (told["error_message"] or "")) is (end == "quarantined")


async def test_the_view_shows_how_it_went(receiver: Receiver) -> None:
    receiver.answers = [500]
    machine = await _machine()
    url = f"{receiver.url}/hook"
    waiting = await Service(machine.engine).create("ends", {}, webhook_url=url)
    nothing = {"url": url, "status": "pending", "attempts": [], "next_attempt_at": None}
    assert await _view(machine, waiting) == nothing
    await machine.drive()

    await _round(machine)
    view = await _view(machine, waiting)
    (attempt,) = view["attempts"]
    assert (view["status"], attempt["status_code"], set(attempt)) == ("pending", 500, {"at", "status_code", "duration_ms"})
    assert view["next_attempt_at"] > attempt["at"]

    await _round(machine, 2)
    view = await _view(machine, waiting)
    assert (view["status"], [a["status_code"] for a in view["attempts"]], view["next_attempt_at"]) == (
        "delivered",
        [500, 200],
        None,
    )


async def test_the_page_shows_what_comes_and_the_view(receiver: Receiver) -> None:
    receiver.answers = [503]
    machine = await _machine()
    job = await _run(machine, receiver.url)
    await _round(machine)
    body, view = json_examples("webhooks")
    body["job"]["result"] = {"made": ""}
    assert shape(body) == shape(receiver.got[0].json)
    shown = await _view(machine, job)
    assert (shape(view), shape(view["attempts"][0])) == (shape(shown), shape(shown["attempts"][0]))


async def test_a_job_without_a_webhook_shows_none(receiver: Receiver) -> None:
    machine = await _machine()
    job = await _run(machine, None)
    assert await _view(machine, job) is None
    await _round(machine)
    assert receiver.got == []


async def test_it_is_tried_until_it_is_taken_always_the_same_and_never_too_early(receiver: Receiver) -> None:
    receiver.answers = [500, 404, 302, 429]
    machine = await _machine()
    job = await _run(machine, receiver.url)
    for wait in (1, 2, 4, 8):
        await _round(machine)
        before = len(receiver.got)
        await _round(machine, 0.7 * wait)
        assert len(receiver.got) == before, "it was tried too early"
        machine.now += 0.6 * wait
    await _round(machine)
    await _round(machine, 3600)

    assert receiver.statuses == [500, 404, 302, 429, 200]
    assert {got.path for got in receiver.got} == {"/"}, "a redirect was followed"
    assert len({(got.delivery, got.body) for got in receiver.got}) == 1
    assert all(got.is_signed() for got in receiver.got)
    assert (await _view(machine, job))["status"] == "delivered"


async def test_after_the_last_attempt_it_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    machine = await _machine(webhook_max_attempts=3)
    secret_path = "canary-path"
    job = await _run(machine, f"http://127.0.0.1:{free_port()}/{secret_path}")
    for _ in range(5):
        await _round(machine, 10)

    view = await _view(machine, job)
    assert (view["status"], len(view["attempts"]), view["next_attempt_at"]) == ("failed", 3, None)
    assert set(view["attempts"][0]) == {"at", "error", "duration_ms"}
    assert "given up" in caplog.text
    assert SECRET not in caplog.text
    assert secret_path not in caplog.text


async def test_a_receiver_inside_gets_nothing(receiver: Receiver) -> None:
    machine = await _machine(webhook_allow_private=False)
    job = await _run(machine, receiver.url)
    await _round(machine)
    assert receiver.got == []
    assert "WEBHOOK_ALLOW_PRIVATE" in (await _view(machine, job))["attempts"][0]["error"]


async def test_an_orchestrator_without_the_secret_sends_nothing_and_says_so(receiver: Receiver) -> None:
    machine = await _machine(webhook_secret=None)
    job = await _run(machine, receiver.url)
    await _round(machine)
    assert receiver.got == []
    assert "WEBHOOK_SECRET" in (await _view(machine, job))["attempts"][0]["error"]


async def test_the_clients_own_webhook_is_told_unless_the_request_names_another(receiver: Receiver) -> None:
    machine = await _machine()
    client = Client("ann", params={"webhook_url": f"{receiver.url}/ann"})
    await _run(machine, None, client)
    await _run(machine, f"{receiver.url}/job", client)
    await _round(machine)
    assert sorted(got.path for got in receiver.got) == ["/ann", "/job"]


async def test_the_end_of_a_child_is_its_parents_matter(receiver: Receiver) -> None:
    machine = await _machine()
    client = Client("ann", params={"webhook_url": f"{receiver.url}/ann"})
    job = await _run(machine, None, client, end="child")
    await _round(machine)
    assert job.status is JobStatus.FINISHED
    assert [got.json["job"]["id"] for got in receiver.got] == [job.id]


async def test_each_end_of_a_job_that_is_run_again_is_told_as_it_was(receiver: Receiver) -> None:
    machine = await _machine()
    job = await _run(machine, receiver.url, end="failed")
    await Orders(machine.engine).retry(job.id, who="ann")
    assert (await _view(machine, job))["status"] == "pending"
    await machine.drive()

    await _round(machine)

    assert [got.event for got in receiver.got] == ["job.failed", "job.failed"]
    assert len({got.delivery for got in receiver.got}) == 2
    assert sorted(got.json["job"]["retry_count"] for got in receiver.got) == [0, 1]


async def test_a_job_that_is_cancelled_tells_it(receiver: Receiver) -> None:
    machine = await _machine()
    job = await Service(machine.engine).create("ends", {"end": "quarantined"}, webhook_url=receiver.url)
    await machine.deliver(machine.queue.pop(0))  # its task lies in the queue now
    await Orders(machine.engine).cancel(job.id, who="ann")
    await machine.drive()

    await _round(machine)

    assert [(got.event, got.json["job"]["error_message"]) for got in receiver.got] == [("job.cancelled", "cancelled by ann")]


async def test_a_dead_receiver_holds_up_nobody_and_gets_few_places(receiver: Receiver) -> None:
    async with receiving([0] * 100) as dead:
        machine = await _machine()
        for _ in range(3 * AT_ONCE):
            await _run(machine, dead.url)
        machine.now += 1
        alive = await _run(machine, receiver.url)
        courier = machine.watcher.courier

        async def told() -> bool:
            await courier.round()
            return (await _view(machine, alive))["status"] == "delivered" and dead.hanging == PER_RECEIVER

        await eventually_async(told)
        assert dead.hanging == PER_RECEIVER
        courier.stop()
        await courier.settled()
    assert len(receiver.got) == 1


async def test_rounds_do_not_wait_for_a_receiver(receiver: Receiver) -> None:
    receiver.answers = [0]
    machine = await _machine()
    await _run(machine, receiver.url)
    async with asyncio.timeout(5):  # a receiver may take ten
        for _ in range(3):
            await machine.watcher.round()

    async def hangs() -> bool:
        return receiver.hanging == 1

    await eventually_async(hangs)
    assert len(receiver.got) == 1, "what is under way was begun again"
    machine.watcher.courier.stop()
    await machine.watcher.courier.settled()


async def test_another_leader_goes_on_where_one_stopped(receiver: Receiver) -> None:
    receiver.answers = [0, 200]
    machine = await _machine()
    job = await _run(machine, receiver.url)
    first = machine.watcher.courier
    await first.round()

    async def hangs() -> bool:
        return receiver.hanging == 1

    await eventually_async(hangs)
    first.stop()
    await first.settled()
    await machine.restart_orchestrator()
    await _round(machine)

    assert (await _view(machine, job))["status"] == "delivered"
    assert len({got.delivery for got in receiver.got}) == 1


async def test_what_was_taken_is_not_told_again_while_the_store_is_away(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await _machine()
    job = await _run(machine, receiver.url)
    replace_delivery, faults = machine.store.replace_delivery, [1, 1]

    async def away(delivery: Any) -> bool:
        if faults:
            faults.pop()
            raise StoreUnavailableError("away")
        return bool(await replace_delivery(delivery))

    monkeypatch.setattr(machine.store, "replace_delivery", away)
    await _round(machine)
    await _round(machine, 60)

    assert (faults, receiver.statuses) == ([], [200])
    assert (await _view(machine, job))["status"] == "delivered"


async def test_two_leaders_at_once_record_one_end(receiver: Receiver) -> None:
    machine = await _machine()
    job = await _run(machine, receiver.url)
    couriers = [Courier(machine.engine), Courier(machine.engine)]
    await asyncio.gather(*(courier.round() for courier in couriers))
    await asyncio.gather(*(courier.settled() for courier in couriers))

    delivery = await machine.store.delivery(receiver.got[0].delivery)
    assert delivery is not None
    assert (delivery.status, delivery.tries) == (DeliveryStatus.DELIVERED, 1)
    assert (await _view(machine, job))["status"] == "delivered"


async def test_idempotent_requests_differ_by_their_webhook() -> None:
    machine = await _machine()
    service = Service(machine.engine)
    first = await service.create("ends", {}, webhook_url="https://example.com/", idempotency_key="k")
    again = await service.create("ends", {}, webhook_url="https://example.com/", idempotency_key="k")
    assert first.id == again.id
    with pytest.raises(Exception, match="another request"):
        await service.create("ends", {}, idempotency_key="k")


def test_a_draft_that_does_not_end_tells_nothing() -> None:
    machine = Machine(_blueprint(), **OPEN)
    job = Job("j", "ends", "start", webhook_url="https://example.com/")
    draft = Draft(job, machine.now, machine.compiler)
    draft.enter("finished")
    assert draft.commit().deliveries == ()
    ended = replace(job, status=JobStatus.FAILED)
    assert Draft(ended, machine.now, machine.compiler).commit().deliveries == (), "it has ended before"
