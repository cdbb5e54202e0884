"""Questions to people: how they are passed on, who may answer, and what happens when nobody does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from avtomatika import integrations
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine import courier
from avtomatika.engine.approvals import decide
from avtomatika.engine.orders import Orders
from avtomatika.engine.service import Service
from avtomatika.engine.views import job_view
from avtomatika.errors import TokenRefusedError, UnknownDecisionError, WrongStateError
from avtomatika.integrations import ApprovalRequest, integration
from avtomatika.jobs import Approval, Job, JobStatus
from tests.support.machine import Machine, ended
from tests.support.pages import json_examples, shape
from tests.support.receiver import SECRET, Receiver, receiving

OPEN = {"webhook_secret": SECRET, "webhook_allow_private": True, "public_url": "https://jobs.example.com/"}
NEXT = {"approved": "yes", "rejected": "no"}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrations, "_known", {})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def _asking(name: str = "log", **options: Any) -> Blueprint:
    blueprint = Blueprint("asks")

    @blueprint.handler_for("ask", is_start=True)
    async def ask(actions: Any) -> None:
        actions.await_human_approval(name, "Shall we?", NEXT, **options)

    for state in ("yes", "no", "late"):

        @blueprint.handler_for(state, is_end=True)
        async def end(approval: Any) -> Any:
            return approval

    return blueprint


async def _machine(blueprint: Blueprint, **settings: Any) -> Machine:
    return await Machine(blueprint, **{**OPEN, **settings}).start()


async def _asked(machine: Machine) -> Job:
    """A job that waits with its question."""
    job_id = await machine.create("asks")
    await machine.pump()
    job = await machine.job(job_id)
    assert job.status is JobStatus.WAITING_FOR_HUMAN, job.error_message
    return job


async def _round(machine: Machine, seconds: float = 0.0) -> None:
    machine.now += seconds
    await machine.watcher.courier.round()
    await machine.watcher.courier.settled()


async def _waiting_for(machine: Machine, job: Job) -> Any:
    return (await job_view(await machine.job(job.id), Service(machine.engine)))["waiting_for"]


# --- Passing a question on -----------------------------------------------------------------------------------------------------


async def test_an_integration_gets_the_question_once() -> None:
    asked: list[ApprovalRequest] = []

    @integration("pager")
    async def page(request: ApprovalRequest) -> None:
        asked.append(request)

    machine = await _machine(_asking("pager", timeout_seconds=60, options={"to": "ann"}))
    job = await _asked(machine)
    await _round(machine)
    await _round(machine, 30)

    (request,) = asked
    assert isinstance(job.waiting, Approval)
    assert (request.id, request.job_id, request.blueprint_name, request.message) == (job.waiting.id, job.id, "asks", "Shall we?")
    assert (request.decisions, request.integration, request.options) == (("approved", "rejected"), "pager", {"to": "ann"})
    assert request.expires_at == job.waiting.deadline_at == job.waiting.asked_at + 60
    assert request.links == {
        "decide": f"https://jobs.example.com/_public/webhooks/approval/{job.id}",
        "job": f"https://jobs.example.com/api/v1/jobs/{job.id}",
    }
    assert request.token not in "".join(request.links.values())


@pytest.mark.parametrize(
    "error", [RuntimeError("the token {token} does not fit"), SystemExit(3), TimeoutError(), asyncio.CancelledError()]
)
async def test_an_integration_that_raises_is_called_again_with_the_same_token(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    tokens: list[str] = []

    @integration("pager")
    async def page(request: ApprovalRequest) -> None:
        tokens.append(request.token)
        if len(tokens) == 1:
            raise type(error)(*(str(arg).format(token=request.token) for arg in error.args))

    machine = await _machine(_asking("pager"))
    job = await _asked(machine)
    await _round(machine)
    request = (await _waiting_for(machine, job))["request"]
    assert (request["status"], len(request["attempts"]), request["next_attempt_at"] is not None) == ("pending", 1, True)

    await machine.restart_orchestrator()  # nothing about it is kept in a process
    await _round(machine, 2)

    assert len(tokens) == 2
    assert tokens[0] == tokens[1]
    assert (await _waiting_for(machine, job))["request"]["status"] == "delivered"
    assert tokens[0] not in caplog.text
    assert tokens[0] not in json.dumps(request)
    await Service(machine.engine).decide_by_token(job.id, "approved", tokens[1])


async def test_an_integration_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "INTEGRATION_SECONDS", 0.05)

    @integration("pager")
    async def page(request: ApprovalRequest) -> None:
        await asyncio.Event().wait()

    machine = await _machine(_asking("pager"))
    job = await _asked(machine)
    await _round(machine)
    (attempt,) = (await _waiting_for(machine, job))["request"]["attempts"]
    assert attempt["error"] == "the integration 'pager' took longer than 0.05 s"


async def test_the_log_says_how_to_answer_and_keeps_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "avtomatika")
    machine = await _machine(_asking("log"))
    job = await _asked(machine)
    await _round(machine)
    assert f"avtomatika job decide {job.id} approved|rejected" in caplog.text
    assert "Shall we?" in caplog.text
    assert await _token(machine, job) not in caplog.text


async def _token(machine: Machine, job: Job) -> str:
    from avtomatika.engine.approvals import token_of

    assert isinstance(job.waiting, Approval)
    return await token_of(machine.store, job.id, job.waiting.id)


@pytest.mark.parametrize("by_option", [False, True])
async def test_the_webhook_gets_the_question_signed_with_the_token_in_the_body(receiver: Receiver, by_option: bool) -> None:
    receiver.answers = [503]
    url = f"{receiver.url}/approvals"
    options = {"options": {"url": url}} if by_option else {}
    setting = None if by_option else url
    machine = await _machine(_asking("webhook", timeout_seconds=3600, **options), approval_webhook_url=setting)
    job = await _asked(machine)
    await _round(machine)
    await _round(machine, 2)
    await _round(machine, 60)

    first, second = receiver.got
    assert (first.path, first.event, first.is_signed(), first.is_signed("x")) == ("/approvals", "approval.requested", True, False)
    assert (first.delivery, first.body) == (second.delivery, second.body)
    body = first.json
    assert set(body) == {"event", "delivery_id", "timestamp", "approval"}
    assert shape(body) == shape(*json_examples("approval"))
    question = body["approval"]
    assert (question["job_id"], question["message"], question["decisions"]) == (job.id, "Shall we?", ["approved", "rejected"])
    assert question["expires_at"].endswith("Z")
    assert "token" not in "".join(question["links"].values())
    await Service(machine.engine).decide_by_token(job.id, "rejected", question["token"], "too dear")
    await machine.drive()
    said = {"decision": "rejected", "comment": "too dear", "by": "webhook:webhook"}
    assert ended(await machine.job(job.id)) == (JobStatus.FINISHED, "no", said)


async def test_a_question_that_was_answered_is_passed_on_no_more() -> None:
    @integration("pager")
    async def page(request: ApprovalRequest) -> None:
        raise AssertionError("it was answered before")

    machine = await _machine(_asking("pager"))
    job = await _asked(machine)
    assert isinstance(job.waiting, Approval)
    await decide(machine.engine, job.id, "approved")
    await _round(machine)

    delivery = await machine.store.delivery(job.waiting.id)
    assert delivery is not None
    assert (delivery.status, delivery.tries) == ("dropped", 0)


@pytest.mark.parametrize(
    ("name", "options", "settings", "words"),
    [
        ("pagr", {}, {}, "unknown integration 'pagr'; there are log, pager, webhook"),
        ("webhook", {}, {}, "APPROVAL_WEBHOOK_URL"),
        ("webhook", {"options": {"url": "https://example.com"}}, {"webhook_secret": None}, "WEBHOOK_SECRET"),
        ("webhook", {"options": {"url": "http://127.0.0.1/"}}, {"webhook_allow_private": False}, "not public"),
        ("log", {"options": {"x": object()}}, {}, "options of await_human_approval are not JSON"),
        ("log", {"options": [1]}, {}, "options must be a dict"),
        ("log", {"timeout_seconds": 0}, {}, "timeout_seconds"),
        ("log", {"on_timeout": "late"}, {}, "give timeout_seconds, too"),
        ("log", {"timeout_seconds": 1, "on_timeout": 5}, {}, "on_timeout"),
    ],
)
async def test_what_cannot_work_is_an_error_at_the_step(name: str, options: Any, settings: Any, words: str) -> None:
    @integration("pager")
    async def page(request: ApprovalRequest) -> None: ...

    machine = await _machine(_asking(name, **options), **settings)
    job = await machine.run("asks")
    assert job.status is JobStatus.QUARANTINED
    assert words in (job.error_message or "")


async def test_nothing_secret_is_in_what_is_stored_of_a_job() -> None:
    machine = await _machine(_asking())
    job = await _asked(machine)
    token = await _token(machine, job)
    await _round(machine)
    stored = [machine.store._jobs, machine.store._deliveries, machine.store._events, machine.store._timers]
    assert token not in repr(stored)
    assert token not in json.dumps(await job_view(job, Service(machine.engine)))


# --- Answering -----------------------------------------------------------------------------------------------------------------


async def test_a_token_answers_its_question_once() -> None:
    machine = await _machine(_asking())
    job, other = await _asked(machine), await _asked(machine)
    token, others = await _token(machine, job), await _token(machine, other)
    service = Service(machine.engine)
    refused = []
    for job_id, given in ((job.id, others), (job.id, token[:-1]), (job.id, ""), (job.id, "\ud800"), ("nobody", token)):
        with pytest.raises(TokenRefusedError) as error:
            await service.decide_by_token(job_id, "approved", given)
        refused.append(str(error.value))
    assert len(set(refused)) == 1, "the answer says what was wrong"
    with pytest.raises(TokenRefusedError):
        await service.decide_by_token(job.id, "nonsense", "wrong")
    with pytest.raises(UnknownDecisionError, match="approved, rejected"):
        await service.decide_by_token(job.id, "nonsense", token)

    await service.decide_by_token(job.id, "approved", token, "fine")
    with pytest.raises(TokenRefusedError):
        await service.decide_by_token(job.id, "rejected", token)
    await machine.drive()

    (event,) = await machine.events(job.id, "approval_decided")
    assert event.details == {"decision": "approved", "by": "webhook:log", "comment": "fine"}
    assert (await machine.job(job.id)).current_state == "yes"
    assert (await machine.job(other.id)).status is JobStatus.WAITING_FOR_HUMAN


async def test_each_question_of_a_job_has_its_own_token() -> None:
    blueprint = Blueprint("asks")
    for state, following in (("first", "second"), ("second", "end")):

        @blueprint.handler_for(state, is_start=state == "first")
        async def ask(actions: Any, following: str = following) -> None:
            actions.await_human_approval("log", "?", {"go": following})

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    machine = await _machine(blueprint)
    job = await _asked(machine)
    token = await _token(machine, job)
    service = Service(machine.engine)
    await service.decide_by_token(job.id, "go", token)
    await machine.pump()
    job = await machine.job(job.id)
    assert job.current_state == "second"

    with pytest.raises(TokenRefusedError):
        await service.decide_by_token(job.id, "go", token)
    await service.decide_by_token(job.id, "go", await _token(machine, job))


async def test_of_two_answers_at_once_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = await _machine(_asking())
    job = await _asked(machine)
    token = await _token(machine, job)
    service, load = Service(machine.engine), machine.store.load
    answers = iter([lambda: decide(machine.engine, job.id, "approved", who="ann")])

    async def load_slowly(job_id: str) -> Job | None:
        found = await load(job_id)
        for answer in answers:  # somebody else is faster, between reading and committing
            await answer()
        return found

    monkeypatch.setattr(machine.store, "load", load_slowly)
    with pytest.raises(WrongStateError):
        await service.decide_by_token(job.id, "rejected", token)
    await machine.drive()
    assert (await machine.job(job.id)).current_state == "yes"


# --- Nobody answers ------------------------------------------------------------------------------------------------------------


async def test_a_question_waits_as_long_as_it_takes_unless_it_has_a_time() -> None:
    machine = await _machine(_asking())
    job = await _asked(machine)
    await machine.tick(1e6)
    assert (await machine.job(job.id)).status is JobStatus.WAITING_FOR_HUMAN
    assert (await _waiting_for(machine, job))["deadline_at"] is None


async def test_after_its_time_the_job_fails_and_says_so() -> None:
    machine = await _machine(_asking(timeout_seconds=90))
    job = await _asked(machine)
    shown = await _waiting_for(machine, job)
    assert (shown["deadline_at"] > shown["asked_at"], shown["on_timeout"]) == (True, None)

    await machine.tick(89)
    assert (await machine.job(job.id)).status is JobStatus.WAITING_FOR_HUMAN
    await machine.tick(2)

    job = await machine.job(job.id)
    assert (job.status, job.error_message) == (JobStatus.FAILED, "nobody decided within 90 s: Shall we?")
    assert [event.event_type for event in await machine.events(job.id)][-2:] == ["approval_timed_out", "job_failed"]


async def test_after_its_time_the_job_goes_where_it_says() -> None:
    machine = await _machine(_asking(timeout_seconds=90, on_timeout="late"))
    job = await _asked(machine)
    token = await _token(machine, job)
    await machine.tick(91)
    await machine.drive()

    nobody = {"decision": None, "comment": None, "by": None}
    assert ended(await machine.job(job.id)) == (JobStatus.FINISHED, "late", nobody)
    with pytest.raises(TokenRefusedError):
        await Service(machine.engine).decide_by_token(job.id, "approved", token)


async def test_a_job_that_is_to_pause_does_so_after_its_time() -> None:
    machine = await _machine(_asking(timeout_seconds=90, on_timeout="late"))
    job = await _asked(machine)
    await Orders(machine.engine).pause(job.id)
    await machine.tick(91)
    await machine.drive()
    job = await machine.job(job.id)
    assert (job.status, job.current_state) == (JobStatus.PAUSED, "late")


async def test_a_job_that_is_cancelled_asks_no_more() -> None:
    machine = await _machine(_asking(timeout_seconds=90, on_timeout="late"))
    job = await _asked(machine)
    token = await _token(machine, job)
    await Orders(machine.engine).cancel(job.id)
    assert machine.timers() == []
    with pytest.raises(TokenRefusedError):
        await Service(machine.engine).decide_by_token(job.id, "approved", token)
    await _round(machine)
    assert (await machine.job(job.id)).status is JobStatus.CANCELLED


async def test_an_answer_in_time_ends_the_waiting() -> None:
    machine = await _machine(_asking(timeout_seconds=90, on_timeout="late"))
    job = await _asked(machine)
    assert [timer.kind for timer in machine.timers()] == ["approval"]
    await decide(machine.engine, job.id, "rejected")
    assert machine.timers() == []
    await machine.drive()
    assert (await machine.job(job.id)).current_state == "no"
