"""A process's own word and the store's, where the store has lost what it had acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.watcher import Watcher
from avtomatika.errors import StoreUnavailableError
from avtomatika.holdings import Holdings, Reconciler
from avtomatika.jobs import JobStatus, TaskInfo
from avtomatika.state.base import CommitResult, TaskClaim
from tests.support.machine import Machine


def _blueprint() -> Blueprint:
    blueprint = Blueprint("steps")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.dispatch_task("work", {}, {"success": "end"})

    @blueprint.handler_for("end", is_end=True)
    async def end() -> str:
        return "ended"

    return blueprint


class Bench:
    """A machine, and what one of its processes says that it holds."""

    def __init__(self, machine: Machine, boot_id: str) -> None:
        self.machine = machine
        self.holdings = Holdings()
        self.stopped: list[str] = []
        self.reconciler = Reconciler(machine.store, self.holdings, boot_id, self._after, self.stopped.extend, machine.clock)

    async def _after(self, done: CommitResult) -> None:
        await self.machine.publisher.flush(done.outbox)

    async def look_twice(self) -> None:
        await self.reconciler.look()
        await self.reconciler.look()


async def _dispatched(**settings: Any) -> tuple[Machine, str, TaskInfo]:
    machine = await Machine(_blueprint(), workers={"work": dict}, **settings).start()
    job_id = await machine.create("steps")
    await machine.deliver(machine.queue.pop(0))
    info = (await machine.job(job_id)).waiting
    assert isinstance(info, TaskInfo)
    return machine, job_id, info


async def test_a_job_that_a_live_process_knows_nothing_of_goes_on() -> None:
    machine = await Machine(_blueprint(), workers={"work": dict}).start()
    job_id = await machine.create("steps")
    boot = machine.runtime.boot_id
    await machine.store.claim_job(job_id, boot, machine.now, f"step:{job_id}:0")
    machine.queue.clear()
    bench = Bench(machine, boot)
    await machine.repair(1000)  # the message comes again, and finds the job claimed by a live process
    await machine.pump()
    assert (await machine.job(job_id)).version == 0

    await bench.look_twice()
    await machine.drive()

    assert (await machine.job(job_id)).result == "ended"


async def test_a_task_that_a_live_worker_knows_nothing_of_is_given_out_again() -> None:
    machine, job_id, info = await _dispatched()
    await machine.claim(info.id)
    machine.queue.clear()

    await Bench(machine, machine.worker_boot).look_twice()
    await machine.tick()
    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.result) == (JobStatus.FINISHED, "ended")
    (lost,) = await machine.events(job_id, "task_lost")
    assert lost.details == {"reason": "worker worker has no such attempt", "type": "work"}
    assert (await machine.store.outcomes("worker"))[0][1] == "success"  # it was no fault of the worker


async def test_one_look_alone_decides_nothing_and_what_is_held_is_left_alone() -> None:
    machine, _job_id, info = await _dispatched()
    await machine.claim(info.id)
    bench = Bench(machine, machine.worker_boot)
    assert await bench.reconciler.look()

    with bench.holdings.attempt(info.id, _never) as held:
        held.runs = True
        assert not await bench.reconciler.look()
        assert not await bench.reconciler.look()

    assert (await machine.store.claims(machine.worker_boot))[1] == [info.id]


async def test_what_runs_here_and_is_not_claimed_is_claimed_again() -> None:
    machine, _job_id, info = await _dispatched()
    bench = Bench(machine, machine.worker_boot)

    async def claim() -> TaskClaim:
        return await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300, "cpu", call="one")

    with bench.holdings.attempt(info.id, claim) as held:
        held.runs = True
        await bench.look_twice()
        assert (await machine.store.claims(machine.worker_boot))[1] == [info.id]
    assert bench.stopped == []


async def test_what_runs_here_and_is_anothers_by_now_is_stopped_once() -> None:
    machine, _job_id, info = await _dispatched()
    await machine.add_worker("other")
    await machine.claim(info.id, "other")
    bench = Bench(machine, machine.worker_boot)

    async def claim() -> TaskClaim:
        return await machine.store.claim_task(info.id, "worker", machine.worker_boot, machine.now, 300, "cpu", call="one")

    with bench.holdings.attempt(info.id, claim) as held:
        held.runs = True
        for _ in range(5):
            await bench.look_twice()

    assert bench.stopped == [info.id]


async def test_a_job_that_is_worked_on_is_held_until_its_last_message_is_done() -> None:
    holdings = Holdings()
    with holdings.job("a"):
        with holdings.job("a"):
            pass
        assert "a" in holdings.jobs
    assert not holdings.jobs


async def test_it_goes_on_looking_whatever_goes_wrong() -> None:
    looks: list[int] = []

    class Failing:
        async def claims(self, boot_id: str) -> Any:
            looks.append(1)
            raise StoreUnavailableError("away") if len(looks) % 2 else ValueError("odd")

        async def disown(self, *_: Any) -> CommitResult:
            raise AssertionError

    running = asyncio.ensure_future(Reconciler(Failing(), Holdings(), "b", _nothing, looks.append, lambda: 0.0).run(0.001))  # type: ignore[arg-type]
    while len(looks) < 4:
        await asyncio.sleep(0.001)
    running.cancel()


async def test_silence_is_judged_only_after_each_could_be_heard_again() -> None:
    machine, _job_id, info = await _dispatched()
    await machine.claim(info.id)
    machine.queue.clear()
    await machine.store.heartbeat("worker", machine.worker_boot, machine.now, 100)
    watcher: Watcher = machine.watcher
    assert await watcher.lead()

    watcher._store_was_away = True  # as its rounds note it
    machine.now += 101
    await watcher.tick()
    assert (await machine.store.claims(machine.worker_boot))[1] == [info.id]
    await machine.store.heartbeat("worker", machine.worker_boot, machine.now, 100)
    machine.now += 50
    await watcher.tick()
    assert (await machine.store.claims(machine.worker_boot))[1] == [info.id]
    machine.now += 51
    await watcher.tick()
    assert (await machine.store.claims(machine.worker_boot))[1] == []


async def _never() -> TaskClaim:
    raise AssertionError


async def _nothing(done: CommitResult) -> None: ...
