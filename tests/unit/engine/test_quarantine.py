"""The quarantine: what it says of a job, and what can be done with one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.attempts import is_poison, stood_out, suspected
from avtomatika.engine.edits import Edit, merged
from avtomatika.engine.orders import Orders
from avtomatika.engine.quarantine import Filter, Quarantine
from avtomatika.engine.views import quarantined_details
from avtomatika.errors import UnknownJobError, WrongStateError
from avtomatika.jobs import Client, Job, JobStatus, TaskInfo, TaskState
from avtomatika.state.base import TaskRecord
from tests.support.machine import Killed, Machine, ended
from tests.support.records import NOW


def _blueprint(name: str = "b", **options: Any) -> Blueprint:
    """start -> the task `work` with the job's `n` -> end."""
    blueprint = Blueprint(name)

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, n: int = 0, how: str = "task") -> None:
        if how == "raise":
            raise RuntimeError("a bug")
        if how == "nothing":
            return
        if how == "branches":
            actions.dispatch_parallel([{"type": "work", "params": {"n": n}} for n in range(3)], "join")
            return
        if how == "child":
            actions.run_blueprint("child", {"n": n}, {"success": "end", "failure": "end", "cancelled": "end"})
            return
        actions.dispatch_task("work", {"n": n}, {"success": "end", "failure": "end"}, **options)

    @blueprint.aggregator_for("join")
    async def join(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("other")
    async def other(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end(state_history: Any) -> Any:
        return state_history

    return blueprint


def _worker(**_: Any) -> dict[str, Any]:
    def work(n: int) -> dict[str, Any]:
        if n == 7:
            return {"n": n}
        code = {1: "TRANSIENT_ERROR", 2: "PERMANENT_ERROR"}.get(n, "PERMANENT_ERROR")
        return {"status": "failure", "error": {"code": code, "message": f"no {n}"}}

    return {"work": work}


async def _machine(**settings: Any) -> Machine:
    return await Machine(_blueprint(), _blueprint("child"), workers=_worker(), **settings).start()


def _quarantine(machine: Machine) -> Quarantine:
    return Quarantine(machine.store, Orders(machine.engine), lambda: machine.now)


# --- Why a job is there --------------------------------------------------------------------------------------------------------


async def test_it_says_why_over_which_attempt_and_with_which_params() -> None:
    machine = await _machine(job_max_retries=2)

    view = quarantined_details(await machine.run("b", n=1))

    assert view["error_message"] == "TRANSIENT_ERROR: no 1 (after 3 attempts)"
    assert (view["code"], view["task"], view["attempts"], view["retry_count"]) == ("TRANSIENT_ERROR", "work", 3, 2)
    attempt = view["last_attempt"]
    assert (attempt["params"], attempt["attempt"], attempt["deaths"], attempt["worker_id"]) == ({"n": 1}, 3, 0, "worker")
    assert (view["initial_data"], view["current_state"]) == ({"n": 1}, "start")
    assert view["blueprint_version"] == machine.registry.get("b").version


async def test_a_task_that_kills_its_workers_stops_with_that_reason_and_others_are_unharmed() -> None:
    def work(n: int) -> dict[str, Any]:
        if n == 3:
            raise Killed
        return {"n": n}

    machine = await Machine(_blueprint(), workers={"work": work}, job_max_retries=2).start()
    poison = await machine.create("b", n=3)
    others = [await machine.create("b", n=7) for _ in range(3)]
    await machine.drive()

    view = quarantined_details(await machine.job(poison))
    assert view["error_message"] == "worker worker ended, 3 times: does the task kill its worker?"
    assert (view["code"], view["last_attempt"]["deaths"], view["last_attempt"]["attempt"]) == ("WORKER_LOST", 2, 3)
    assert {(await machine.job(job_id)).status for job_id in others} == {JobStatus.FINISHED}


async def test_what_ran_beside_such_a_task_is_not_taken_for_it() -> None:
    def work(n: int) -> dict[str, Any]:
        if n == 3:
            raise Killed
        return {"n": n}

    machine = await Machine(_blueprint(), workers={"work": work}, job_max_retries=2).start()
    beside = [await machine.create("b", n=n) for n in (1, 2)]
    poison = await machine.create("b", n=3)
    for _ in range(2):  # it takes the others with it
        while machine.queue:
            message = machine.queue.pop(0)
            if message.queue.startswith("cpu."):
                assert await machine.claim(message.headers["id"])
            else:
                await machine.deliver(message)
        await machine.restart_worker()
        await machine.tick()
    assert [message.queue for message in machine.queue] == ["cpu.work"]  # from now on one after the other
    await machine.drive()

    assert (await machine.job(poison)).status is JobStatus.QUARANTINED
    for job_id in (poison, *beside):
        lost = await machine.events(job_id, "task_lost")
        assert len(lost) == (3 if job_id == poison else 2)
    assert {(await machine.job(job_id)).status for job_id in beside} == {JobStatus.FINISHED}


@pytest.mark.parametrize(
    ("deaths", "suspect", "beside", "poison"),
    [
        (2, False, [], False),  # it is a suspect from now on
        (2, True, [], True),
        (2, True, [(0, -1)], True),
        (2, True, [(0, 1)], False),  # that one began later
        (2, True, [(0, -1), (1, -1)], False),  # ... and that one has lost a worker, too
        (8, True, [(0, 1)], True),  # that is too often, whoever did it
        (8, False, [(0, 1)], True),
        (7, False, [(0, 1)], False),
    ],
)
def test_who_is_taken_for_the_one_that_kills_workers(
    deaths: int, suspect: bool, beside: list[tuple[int, float]], poison: bool
) -> None:
    def record(deaths: int, began: float) -> TaskRecord:
        return TaskRecord(TaskInfo("t", "j", "work", {}, {}, deaths=deaths), TaskState.CLAIMED, claimed_at=NOW + began)

    held = record(deaths, 0)
    if suspect:
        held = replace(held, info=suspected(replace(held.info, deaths=max(2, deaths)), 2))
    alone = stood_out(held, [record(*other) for other in beside])

    assert is_poison(held.info, 2, alone=alone) is poison
    assert is_poison(held.info, 0, alone=False)  # no second try for anything


@pytest.mark.parametrize(("how", "code", "attempts"), [("raise", "HANDLER_EXCEPTION", 3), ("nothing", "HANDLER_ERROR", 1)])
async def test_a_handlers_fault(how: str, code: str, attempts: int) -> None:
    machine = await _machine(job_max_retries=2)

    job = await machine.run("b", how=how)

    view = quarantined_details(job)
    assert (view["code"], view["attempts"], view["last_attempt"]) == (code, attempts, None)
    (event,) = await machine.events(job.id, "job_quarantined")
    assert event.details["code"] == code


# --- Another try ---------------------------------------------------------------------------------------------------------------


async def test_it_is_tried_again_with_edited_data() -> None:
    machine = await _machine()
    job = await machine.run("b", n=2)

    await Orders(machine.engine).retry(job.id, who="ann", edit=Edit({"n": 7}, {"note": {"by": "ann"}}))
    await machine.drive()

    assert ended(await machine.job(job.id)) == (JobStatus.FINISHED, "end", {"note": {"by": "ann"}, "n": 7})
    (event,) = await machine.events(job.id, "job_retried")
    assert event.details == {
        "by": "ann",
        "was": "quarantined",
        "reason": "PERMANENT_ERROR: no 2",
        "edited_initial_data": ["n"],
        "edited_state_history": ["note"],
    }


async def test_it_goes_on_with_another_state() -> None:
    machine = await _machine()
    job = await machine.run("b", n=2)

    with pytest.raises(WrongStateError, match=r"no state 'nowhere'.*start, join, other, end"):
        await Orders(machine.engine).retry(job.id, edit=Edit(state="nowhere"))
    with pytest.raises(WrongStateError, match="no state 'join'"):
        await Orders(machine.engine).retry(job.id, edit=Edit(state="join"))
    await Orders(machine.engine).retry(job.id, edit=Edit(state="other"))
    await machine.drive()

    assert (await machine.job(job.id)).status is JobStatus.FINISHED


@pytest.mark.parametrize(
    ("value", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_as_rfc_7386_has_it(value: Any, patch: Any, expected: Any) -> None:
    before = repr(value)

    assert merged(value, patch) == expected
    assert repr(value) == before


# --- The end, and by hand ------------------------------------------------------------------------------------------------------


async def test_it_is_discarded_with_who_and_why() -> None:
    machine = await _machine()
    job = await machine.run("b", n=2)

    await Orders(machine.engine).discard(job.id, who="ann", reason="no need")

    job = await machine.job(job.id)
    assert job.status is JobStatus.CANCELLED
    assert job.error_message == "discarded by ann: no need (quarantined: PERMANENT_ERROR: no 2)"
    (event,) = await machine.events(job.id, "job_discarded")
    assert event.details == {"by": "ann", "reason": "no need", "was": "PERMANENT_ERROR: no 2"}
    for order in (Orders(machine.engine).discard, Orders(machine.engine).retry):
        with pytest.raises(WrongStateError, match="is cancelled"):
            await order(job.id)
    with pytest.raises(UnknownJobError):
        await Orders(machine.engine).discard("nobody")


async def _running(machine: Machine, how: str) -> str:
    job_id = await machine.create("b", n=7, how=how)
    while machine.queue:
        message = machine.queue.pop(0)
        if message.queue.startswith("cpu."):
            assert await machine.claim(message.headers["id"])
        else:
            await machine.deliver(message)
    return job_id


@pytest.mark.parametrize("how", ["task", "branches", "child"])
async def test_a_live_job_is_put_there_by_hand_and_what_runs_for_it_is_stopped(how: str) -> None:
    machine = await _machine()
    job_id = await _running(machine, how)

    await Orders(machine.engine).quarantine(job_id, who="ann", reason="look at this")
    await machine.drive()

    job = await machine.job(job_id)
    assert (job.status, job.error_message) == (JobStatus.QUARANTINED, "quarantined by ann: look at this")
    assert job.failure is not None
    assert job.failure.code == "BY_HAND"
    assert (job.failure.task or {}).get("params") == ({"n": 7} if how == "task" else None)
    assert len(set(machine.stopped)) == {"task": 1, "branches": 3, "child": 1}[how]
    for child in job.child_job_ids:
        assert (await machine.job(child)).status is JobStatus.CANCELLED
    with pytest.raises(WrongStateError, match="it has ended already"):
        await Orders(machine.engine).quarantine(job_id)
    await Orders(machine.engine).retry(job_id)
    await machine.drive()
    assert (await machine.job(job_id)).status is JobStatus.FINISHED


# --- Many ----------------------------------------------------------------------------------------------------------------------


async def _several(machine: Machine) -> list[str]:
    """Five jobs in quarantine, a minute apart: of two kinds, of two clients."""
    found = []
    for number in range(5):
        job_id = await machine.create("b", n=1 + number % 2)
        machine.store._jobs[job_id] = replace(machine.store._jobs[job_id], client=Client("me" if number < 3 else "you"))
        await machine.drive()
        assert (await machine.job(job_id)).status is JobStatus.QUARANTINED
        machine.now += 60
        found.append(job_id)
    return found


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (Filter(), [4, 3, 2, 1, 0]),
        (Filter(code="TRANSIENT_ERROR"), [4, 2, 0]),
        (Filter(reason="NO 2"), [3, 1]),
        (Filter(blueprint="b", client="me"), [2, 1, 0]),
        (Filter(blueprint="other"), []),
        (Filter(older_than=130), [2, 1, 0]),
        (Filter(newer_than=130), [4, 3]),
        (Filter(older_than=70, newer_than=200), [3, 2]),
        (Filter(code="TRANSIENT_ERROR", client="you"), [4]),
    ],
)
async def test_filters_page_by_page(which: Filter, expected: list[int]) -> None:
    machine = await _machine(job_max_retries=0)
    jobs = await _several(machine)
    quarantine = _quarantine(machine)

    for limit in (1, 2, 100):
        found: list[int] = []
        page = await quarantine.page(which, limit=limit)
        found += [jobs.index(job.id) for job, _ in page.jobs]
        while page.following is not None:
            page = await quarantine.page(which, limit=limit, after=page.following)
            found += [jobs.index(job.id) for job, _ in page.jobs]
        assert found == expected
    assert [jobs.index(job.id) for job, _ in (await quarantine.page(which, offset=1)).jobs] == expected[1:]


async def test_an_order_to_many_counts_them_and_refuses_single_ones() -> None:
    machine = await _machine(job_max_retries=0)
    jobs = await _several(machine)
    quarantine, which = _quarantine(machine), Filter(code="TRANSIENT_ERROR")

    dry = await quarantine.each(which, lambda orders, job: orders.discard(job.id), dry_run=True)
    assert (dry.done, dry.refused) == ((jobs[4], jobs[2], jobs[0]), ())
    assert {(await machine.job(job_id)).status for job_id in jobs} == {JobStatus.QUARANTINED}

    async def order(orders: Orders, job: Job) -> None:
        if job.id == jobs[2]:
            raise WrongStateError("it went meanwhile")
        await orders.retry(job.id, edit=Edit({"n": 7}))

    first = await quarantine.each(which, order, limit=2)
    assert (first.done, first.refused) == ((jobs[4],), ((jobs[2], "it went meanwhile"),))
    second = await quarantine.each(which, order, limit=2, after=first.following)
    assert (second.done, second.following) == ((jobs[0],), None)
    await machine.drive()
    statuses = [(await machine.job(job_id)).status.value for job_id in jobs]
    assert statuses == ["finished", "quarantined", "quarantined", "quarantined", "finished"]
