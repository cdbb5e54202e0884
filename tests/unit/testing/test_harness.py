"""Blueprints run in the testing kit: fakes, virtual time, orders, questions, and what its errors say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from avtomatika import Blueprint, PermanentError, RetryPolicy, Worker
from avtomatika.errors import BlueprintError, UnknownDecisionError, WrongStateError
from avtomatika.integrations import ApprovalRequest
from avtomatika.testing import BlueprintHarness, HarnessError, HarnessJob, dies, fails, raises, times_out

Test = Callable[[BlueprintHarness], Awaitable[Any]]


def _one_task(**options: Any) -> Blueprint:
    blueprint = Blueprint("picture")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, prompt: str = "a cat") -> None:
        transitions = {"success": "done", "failure": "bad", "timeout": "late", "cancelled": "swept"}
        actions.dispatch_task("generate", {"prompt": prompt}, transitions, **options)

    for state in ("done", "bad", "late", "swept"):

        @blueprint.handler_for(state, is_end=True)
        async def end(state_history: Any) -> Any:
            return state_history

    return blueprint


@pytest.mark.parametrize(
    "answer",
    [{"image": 7}, lambda params: {"image": 7}, lambda given: {"image": 7}, lambda job_id, attempt: {"image": 7}],
    ids=["value", "params", "any name", "context"],
)
async def test_a_fake_answers_with_a_value_or_a_function(answer: Any) -> None:
    async with BlueprintHarness(_one_task()) as harness:
        harness.worker("generate", answer)
        job = await harness.run({"prompt": "a dog"})

        assert (job.status, job.path, job.result) == ("finished", ["start", "done"], {"image": 7})
        assert harness.calls("generate") == [{"prompt": "a dog"}]


async def test_an_async_fake_takes_virtual_time_and_no_real_one() -> None:
    async def generate(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(3000)
        return {"image": params["prompt"]}

    async with BlueprintHarness(_one_task(timeout_seconds=3600)) as harness:
        harness.worker("generate", generate)
        began = harness.now
        job = await harness.run()

        assert job.result == {"image": "a cat"}
        assert harness.now - began == pytest.approx(3000, abs=0.01)


@pytest.mark.parametrize(
    ("answers", "status", "path", "attempts"),
    [
        ([fails(2), {"ok": 1}], "finished", ["start", "done"], 3),
        ([fails()], "quarantined", ["start"], 4),
        ([fails(code="NO_SUCH_MODEL")], "finished", ["start", "bad"], 1),
        ([fails(1, code="PERMANENT_ERROR"), {"ok": 1}], "quarantined", ["start"], 1),
        ([raises(PermanentError("never"))], "quarantined", ["start"], 1),
        ([raises(KeyError("x"), 1), {"ok": 1}], "finished", ["start", "done"], 2),
        ([times_out()], "finished", ["start", "late"], 1),
        ([dies(3), {"ok": 1}], "finished", ["start", "done"], 4),
        ([dies(1), fails(1), dies(1), {"ok": 1}], "finished", ["start", "done"], 4),
        ([dies()], "quarantined", ["start"], 4),
    ],
)
async def test_faults_come_before_the_last_answer(answers: list[Any], status: str, path: list[str], attempts: int) -> None:
    async with BlueprintHarness(_one_task()) as harness:
        harness.worker("generate", *answers)
        job = await harness.run()

        assert (job.status, job.path) == (status, path)
        assert [call.attempt for call in harness.attempts("generate")] == list(range(1, attempts + 1))


async def test_an_hours_timeout_takes_no_real_hour() -> None:
    async with BlueprintHarness(_one_task(timeout_seconds=3600)) as harness:
        harness.worker("generate", {"image": 1}, seconds=7200)
        began = harness.now
        job = await harness.run()

        assert (job.path, job.error) == (["start", "late"], "Worker task timed out")
        assert harness.now - began == pytest.approx(3600, abs=1)


@pytest.mark.parametrize("message", ["generate", "step", "resume"])
async def test_a_lost_message_is_repeated_and_a_repeated_one_does_nothing(message: str) -> None:
    async with BlueprintHarness(_one_task()) as harness:
        harness.worker("generate", {"image": 1})
        harness.lose(message)
        lost = await harness.run()
        began = harness.now
        harness.repeat(message)
        repeated = await harness.run()

        for job in (lost, repeated):
            assert (job.status, job.path) == ("finished", ["start", "done"])
            assert [event.event_type for event in job.events].count("task_finished") == 1
        assert len(harness.calls("generate")) == 2
        assert harness.now - began < 1


async def test_the_orchestrator_dies_in_a_handler_and_another_one_goes_on() -> None:
    blueprint, begun = Blueprint("slow"), []

    @blueprint.handler_for("start", is_start=True, is_end=True)
    async def start() -> None:
        begun.append(1)
        await asyncio.sleep(100)

    async with BlueprintHarness(blueprint) as harness:
        job = await harness.start()
        await harness.advance(50)
        await harness.kill_orchestrator()
        await harness.finish(job)

        assert (job.status, len(begun)) == ("finished", 2)


async def test_a_killed_worker_comes_back_or_stays_away() -> None:
    async with BlueprintHarness(_one_task()) as harness:
        harness.worker("generate", {"image": 1}, seconds=100)
        job = await harness.start()
        await harness.advance(50)
        await harness.kill_worker("generate")
        await harness.advance(70)
        assert (job.status, len(harness.calls("generate"))) == ("waiting_for_worker", 2)
        await harness.kill_worker("generate", restart=False)

        with pytest.raises(HarnessError, match="task 'generate', which nobody fakes"):
            await harness.finish(job)
        harness.worker("generate", {"image": 2})
        assert (await harness.finish(job)).result == {"image": 2}


def _family() -> tuple[Blueprint, Blueprint]:
    parent, child = Blueprint("parent"), Blueprint("child")

    @parent.handler_for("start", is_start=True)
    async def start(actions: Any, count: int = 3) -> None:
        actions.dispatch_parallel([{"task_type": "work", "params": {"n": n}} for n in range(count)], "merge")

    @parent.aggregator_for("merge")
    async def merge(actions: Any, state_history: Any, succeeded: Any, failed: Any) -> None:
        state_history["counts"] = [len(succeeded), len(failed)]
        actions.run_blueprint("child", {}, {"success": "done", "failure": "bad"})

    @child.handler_for("ask", is_start=True)
    async def ask(actions: Any) -> None:
        actions.await_human_approval("log", "Publish?", {"yes": "out", "no": "failed"}, timeout_seconds=60, on_timeout="failed")

    @child.handler_for("out", is_end=True)
    async def out(approval: Any) -> Any:
        return {"by": approval["by"]}

    @child.handler_for("failed", is_end=True)
    async def failed() -> None: ...

    for state in ("done", "bad"):

        @parent.handler_for(state, is_end=True)
        async def end(state_history: Any) -> Any:
            return state_history

    return parent, child


async def test_fan_outs_children_and_a_question_that_the_test_answers() -> None:
    async with BlueprintHarness(*_family()) as harness:
        harness.worker("work", lambda params: fails if params["n"] == 9 else {"n": params["n"]})
        job = await harness.run()
        (child,) = job.children

        assert (job.status, job.path) == ("waiting_for_sub_job", ["start", "merge"])
        assert child.question is not None
        assert child.question.message == "Publish?"
        with pytest.raises(UnknownDecisionError):
            await child.decide("perhaps")
        await child.decide("yes", who="ada")
        await harness.finish(job)

        assert (job.status, job.path, child.path) == ("finished", ["start", "merge", "done"], ["ask", "out"])
        assert job.result == {"counts": [3, 0], "by": "ada"}
        with pytest.raises(WrongStateError):
            await child.decide("no")


async def test_questions_are_answered_by_a_rule_or_by_time() -> None:
    asked: list[ApprovalRequest] = []

    def answer(question: ApprovalRequest) -> str | None:
        asked.append(question)
        return "yes" if question.blueprint_name == "child" else None

    async with BlueprintHarness(*_family()) as harness:
        harness.worker("work", {"n": 1})
        harness.on_question(answer)
        assert (await harness.run()).status == "finished"
        assert [(question.message, question.decisions) for question in asked] == [("Publish?", ("no", "yes"))]

        harness.on_question(lambda _: None)
        job = await harness.run({"count": 1})
        await harness.advance(61)
        assert (job.path, job.children[0].status) == (["start", "merge", "bad"], "failed")

        harness.on_question("no")
        assert (await harness.run(blueprint="child")).status == "failed"


async def test_orders() -> None:
    async with BlueprintHarness(_one_task(), job_max_retries=0) as harness:
        harness.worker("generate", fails(1), then={"image": 1}, seconds=10)
        job = await harness.start()
        await harness.advance(5)
        await job.pause()
        assert job.status == "quarantined", "its only attempt has failed before the pause"
        await job.retry()
        assert (job.status, job.path) == ("finished", ["start", "start", "done"])

        job = await harness.start()
        await harness.advance(5)
        await job.cancel()
        assert (job.status, job.path) == ("finished", ["start", "swept"])

        job = await harness.start()
        await harness.advance(5)
        await job.pause()
        assert (job.status, job.state) == ("paused", "done")
        await job.resume()
        assert job.status == "finished"


async def test_the_path_shows_what_no_result_has_led_to() -> None:
    async with BlueprintHarness(_one_task(retries=RetryPolicy(then="failure"))) as harness:
        job = await harness.start()
        await harness.settle()
        await job.cancel()
        assert job.path == ["start", "swept"], "nobody had begun its task"

        harness.worker("generate", dies())
        assert (await harness.run()).path == ["start", "bad"]


async def test_a_cancelled_fake_cleans_up() -> None:
    swept = []

    async def generate(params: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            swept.append(params["prompt"])

    async with BlueprintHarness(_one_task()) as harness:
        harness.worker("generate", generate)
        job = await harness.start()
        await harness.settle()
        await job.cancel()

        assert (job.path, swept) == (["start", "swept"], ["a cat"])


async def test_real_workers_functions_run_as_they_are() -> None:
    worker = Worker(max_concurrent_tasks=2)

    @worker.task("generate")
    def generate(params: dict[str, Any], attempt: int) -> dict[str, Any]:
        if attempt == 1:
            raise ConnectionError("the first time")
        return {"image": params["prompt"]}

    async with BlueprintHarness(_one_task()) as harness:
        harness.use(worker)
        assert (await harness.run()).result == {"image": "a cat"}


async def test_the_dispatcher_chooses_among_several_workers() -> None:
    asks = {"resource_requirements": {"gpu_info": {"vram_gb": 24}}, "dispatch_strategy": "cheapest"}
    async with BlueprintHarness(_one_task(**asks)) as harness:
        harness.worker("generate", {}, name="small", resources={"gpu_info": {"vram_gb": 16}}, cost_per_second=0.1)
        harness.worker("generate", {}, name="dear", resources={"gpu_info": {"vram_gb": 80}}, cost_per_second=9, slots=1)
        harness.worker(
            "generate", {}, name="fair", resources={"gpu_info": {"vram_gb": 24}}, cost_per_second=2, slots=1, seconds=50
        )
        for _ in range(3):
            await harness.start()
        await harness.advance(200)

        assert [call.worker for call in harness.attempts()] == ["fair", "dear", "dear"]


async def test_slots_and_limits_hold() -> None:
    running, most = 0, 0

    async def generate() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(10)
        running -= 1

    async with BlueprintHarness(_one_task(limits={"licence": 2})) as harness:
        harness.worker("generate", generate)
        jobs = [await harness.start() for _ in range(6)]
        began = harness.now
        for job in jobs:
            await harness.finish(job)

        assert most == 2
        assert harness.now - began == pytest.approx(30, abs=2)


async def test_a_plain_celery_task_is_faked_by_its_keyword_arguments() -> None:
    blueprint = Blueprint("shop")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any, order: int) -> None:
        actions.dispatch_task("shop.tasks.charge", {"order": order}, {"success": "paid"}, queue="shop")

    @blueprint.handler_for("paid", is_end=True)
    async def paid(result: Any) -> Any:
        return result

    async with BlueprintHarness(blueprint) as harness:
        with pytest.raises(HarnessError, match=r"'shop\.tasks\.charge', which nobody fakes"):
            await harness.run({"order": 1})
        harness.worker("shop.tasks.charge", raises(ConnectionError("away"), 1), then=lambda order: order + 1)
        job = await harness.run({"order": 7})

        assert (job.status, job.result) == ("finished", 8)


# --- What the errors say -------------------------------------------------------------------------------------------------------


async def _message(test: Test, *blueprints: Blueprint, **options: Any) -> str:
    async with BlueprintHarness(*blueprints, **options) as harness:
        with pytest.raises(HarnessError) as caught:
            await test(harness)
    return str(caught.value)


async def test_a_task_that_nobody_fakes() -> None:
    async def misspelt(harness: BlueprintHarness) -> None:
        harness.worker("generate_", {})
        await harness.run()

    said = await _message(misspelt, _one_task())

    assert "the job of blueprint 'picture', in state 'start', waits for task 'generate', which nobody fakes" in said
    assert "did you mean 'generate_'? add harness.worker('generate', …)" in said


async def test_a_task_that_no_worker_may_take() -> None:
    async def too_small(harness: BlueprintHarness) -> None:
        harness.worker("generate", {}, resources={"gpu_info": {"vram_gb": 8}})
        await harness.run()

    said = await _message(too_small, _one_task(resource_requirements={"gpu_info": {"vram_gb": 24}}))

    assert "task 'generate', which no worker takes: 1 worker knows generate, 0 have 24 GB VRAM" in said


async def test_a_handler_that_waits_for_ever() -> None:
    blueprint = Blueprint("stuck")

    @blueprint.handler_for("start", is_start=True, is_end=True)
    async def start() -> None:
        await asyncio.Event().wait()

    said = await _message(lambda harness: harness.run(), blueprint)

    assert "in state 'start', runs the handler of this state, which waits for something that never comes" in said


async def test_a_blueprint_that_runs_in_a_circle() -> None:
    blueprint = Blueprint("circle")

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("next" if True else "end")

    @blueprint.handler_for("next")
    async def again(actions: Any) -> None:
        actions.transition_to("start")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> None: ...

    said = await _message(lambda harness: harness.run(), blueprint, max_events=500)

    assert "still going after 500 messages and events" in said
    assert "transition (next)" in said


async def test_an_assertion_of_a_fake_fails_the_test() -> None:
    def generate(params: dict[str, Any]) -> None:
        assert params["prompt"] == "a dog", "the wrong animal"

    async with BlueprintHarness(_one_task()) as harness:
        harness.worker("generate", generate)
        with pytest.raises(AssertionError, match="the wrong animal"):
            await harness.run()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([fails(2)], "nothing says what comes after 2 attempts"),
        ([fails(), {}], "what comes after an answer to all attempts is never reached"),
    ],
)
def test_answers_that_do_not_add_up(answers: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BlueprintHarness(_one_task()).worker("generate", *answers)


async def test_a_harness_is_opened_once_and_checks_its_blueprints() -> None:
    parent, _ = _family()
    with pytest.raises(BlueprintError, match="'child'"):
        await BlueprintHarness(parent).__aenter__()
    with pytest.raises(HarnessError, match="is not open yet"):
        await BlueprintHarness(parent).run()
    with pytest.raises(HarnessError, match="needs the blueprint"):
        BlueprintHarness()
    async with BlueprintHarness(_one_task()) as harness:
        with pytest.raises(HarnessError, match="two harnesses"):
            await BlueprintHarness(_one_task()).__aenter__()
        with pytest.raises(HarnessError, match="no message is named 'stepp'"):
            harness.lose("stepp")
        with pytest.raises(HarnessError, match="no worker 'gpu'"):
            await harness.kill_worker("gpu")


# --- Where it runs -------------------------------------------------------------------------------------------------------------


def test_it_runs_under_plain_pytest() -> None:
    async def run() -> HarnessJob:
        async with BlueprintHarness(_one_task()) as harness:
            harness.worker("generate", {"image": 1})
            return await harness.run()

    assert asyncio.run(run()).status == "finished"


async def test_time_is_real_again_afterwards() -> None:
    loop = asyncio.get_running_loop()
    selector, before = loop._selector, loop.time()  # type: ignore[attr-defined]
    async with BlueprintHarness(_one_task()) as harness:
        await harness.advance(1e6)
        assert loop.time() > before + 1e6 - 1

    assert loop._selector is selector  # type: ignore[attr-defined]
    assert loop.time() < before + 1e5


def test_another_event_loop_is_refused_with_the_fix() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        await BlueprintHarness(_one_task()).__aenter__()

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(HarnessError, match="needs asyncio's own event loop, not uvloop"),
    ):
        runner.run(run())


async def test_plain_handlers_run_in_threads_and_time_waits_for_them() -> None:
    blueprint = Blueprint("plain")

    @blueprint.handler_for("start", is_start=True)
    def start(actions: Any) -> None:
        time.sleep(0.05)
        actions.dispatch_task("work", {}, {"success": "end"}, dispatch_timeout_seconds=5)

    @blueprint.handler_for("end", is_end=True)
    def end() -> str:
        return "end"

    async with BlueprintHarness(blueprint) as harness:
        harness.worker("work", {})
        began = harness.now
        assert (await harness.run()).result == "end"
        assert harness.now - began < 0.04
