"""Running one attempt: its claim, the handler's arguments, its result and the message that carries it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel

from avtomatika.compiler import Compiler
from avtomatika.errors import (
    InvalidInputError,
    PermanentError,
    RegistrationError,
    StoreUnavailableError,
    TaskError,
    TransientError,
)
from avtomatika.jobs import Message, Result, TaskInfo, TaskState
from avtomatika.settings import read_settings
from avtomatika.state.base import TaskRecord
from avtomatika.state.memory import MemoryStore
from avtomatika.state.memory_base import Change
from avtomatika.worker import runner, sdk
from avtomatika.worker.pool import Requeue, TaskRequest
from avtomatika.worker.sdk import TaskDeclaration, Worker
from tests.support.records import a_job, change, creation, dispatched


@pytest.fixture(autouse=True)
def _declares_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "_declared", sdk.Declared())


class Bench:
    """A worker process with one task, and a store in memory."""

    def __init__(self, func: Callable[..., Any]) -> None:
        worker = Worker()
        worker.task("work", task_type="cpu")(func)
        sdk.use(worker)
        self.pushed: list[Message] = []
        self.store = MemoryStore(self.pushed.append)
        self.app = Celery("bench", set_as_current=False, broker="memory://")
        self.settings = read_settings(worker_timeout_seconds=30)
        self.runtime = SimpleNamespace(
            app=self.app,
            store=self.store,
            boot_id="boot",
            worker_id="worker@here",
            settings=self.settings,
            publisher=SimpleNamespace(flush=self._flush),
            hot_cache=set(),
            loop=asyncio.get_running_loop(),
            clock=time.time,
        )
        runner.register(self.app, self.runtime, worker.tasks["work"])  # type: ignore[arg-type]
        self.task = self.app.tasks["work"]
        self.info: TaskInfo

    async def _flush(self, ids: Any) -> int:
        assert not ids
        return 0

    async def dispatch(self, params: Any = None, **fields: Any) -> TaskRequest:
        """Stores an attempt; the request that its message becomes."""
        job = a_job()
        self.info = TaskInfo("task", job.id, "work", params or {}, {}, **fields)
        await self.store.commit(creation(job))
        await self.store.commit(change(job, {"tasks": (dispatched(self.info),)}, waiting=self.info))
        message = Compiler(self.app).task_message(self.info, "cpu", time.time())
        args, kwargs, embed = json.loads(message.body)
        return TaskRequest("task", "work", args, kwargs, message.headers, embed["chain"], job.id, None, {})

    async def run(self, params: Any = None, **fields: Any) -> Result:
        """One attempt from its message to its result, which must be what the resume message says, too."""
        request = await self.dispatch(params, **fields)
        try:
            self.value = await self.task.run_async(request)
            self.failed = None
        except runner.TaskFailed as exc:
            self.failed = str(exc)
        record = await self.record()
        assert record.state is TaskState.DONE
        assert record.reported is not None
        (message,) = self.pushed
        (envelope,), kwargs, _ = json.loads(message.body)
        assert (message.headers["task"], message.key, message.queue) == ("avtomatika.resume", "resume:task", "orchestrator")
        assert kwargs == {"job_id": self.info.job_id, "task_id": "task"}
        self.meta = envelope.pop("meta")
        assert Result.from_dict(envelope) == record.reported
        assert (self.failed is None) == (record.reported.status == "success")
        return record.reported

    async def record(self) -> TaskRecord:
        record = await self.store.get_task("task")
        assert record is not None
        return record


# --- Parameters ----------------------------------------------------------------------------------------------------------------


@dataclass
class Size:
    width: int
    height: int = 7


class Model(BaseModel):
    name: str
    sizes: list[int] = []


async def _as_dict(params: dict[str, Any]) -> Any:
    return {"type": type(params).__name__, "got": params}


async def _as_dataclass(params: Size) -> Any:
    return {"type": type(params).__name__, "got": [params.width, params.height]}


def _as_model(params: Model) -> Any:
    return {"type": type(params).__name__, "got": params.model_dump()}


async def _under_another_name(task_id: str, size: Size) -> Any:
    return {"type": type(size).__name__, "got": task_id}


async def _all_by_name(**kwargs: Any) -> Any:
    return {"type": "kwargs", "got": kwargs["params"]}


@pytest.mark.parametrize(
    ("func", "params", "kind", "got"),
    [
        (_as_dict, {"a": 1}, "dict", {"a": 1}),
        (_as_dict, None, "dict", {}),
        (_as_dataclass, {"width": "3"}, "Size", [3, 7]),
        (_as_model, {"name": "x", "sizes": [1, 2]}, "Model", {"name": "x", "sizes": [1, 2]}),
        (_under_another_name, {"width": 1}, "Size", "task"),
        (_all_by_name, {"a": 1}, "kwargs", {"a": 1}),
    ],
)
async def test_params_come_as_the_handler_declares_them(func: Any, params: Any, kind: str, got: Any) -> None:
    assert await Bench(func).run(params) == Result.success({"type": kind, "got": got})


@pytest.mark.parametrize(
    ("func", "params", "parts"),
    [
        (_as_dataclass, {}, ("width",)),
        (_as_dataclass, {"width": "wide"}, ("width",)),
        (_as_model, {"name": 3, "sizes": ["x"]}, ("name", "sizes.0")),
    ],
)
async def test_params_that_do_not_fit_are_invalid_input(func: Any, params: Any, parts: tuple[str, ...]) -> None:
    result = await Bench(func).run(params)

    assert result.error is not None
    assert (result.status, result.error.code) == ("failure", "INVALID_INPUT_ERROR")
    assert [part for part in ("work", *parts) if part not in result.error.message] == []


async def test_what_a_handler_may_ask_for_by_name() -> None:
    seen: dict[str, Any] = {}

    async def func(
        params: Any, task_id: str, job_id: str, priority: float, attempt: int, worker_id: str, timeout_at: float, **rest: Any
    ) -> None:
        seen.update(task_id=task_id, job_id=job_id, priority=priority, attempt=attempt, worker_id=worker_id)
        seen.update(timeout_at=timeout_at, rest=rest)

    bench = Bench(func)
    began = time.time()
    await bench.run(priority=3.5, attempt=2, timeout_seconds=20, tracing_context={"t": "1"})

    assert (seen["task_id"], seen["job_id"], seen["priority"], seen["attempt"]) == ("task", bench.info.job_id, 3.5, 2)
    assert seen["worker_id"] == "worker@here"
    assert began + 20 <= seen["timeout_at"] <= time.time() + 20
    assert seen["rest"]["tracing_context"] == {"t": "1"}
    assert set(seen["rest"]) == {"tracing_context", "send_progress", "add_to_hot_cache", "remove_from_hot_cache"}
    assert bench.meta["worker_id"] == "worker@here"
    assert (bench.meta["type"], bench.meta["attempt"]) == ("work", 2)
    assert bench.meta["duration_ms"] >= 0


async def test_a_plain_function_runs_in_a_thread() -> None:
    def func(params: Any) -> str:
        return threading.current_thread().name

    result = await Bench(func).run()

    assert result.data["result"] != threading.current_thread().name


async def test_models_in_the_hot_cache_belong_to_the_process() -> None:
    async def func(add_to_hot_cache: Any, remove_from_hot_cache: Any) -> None:
        add_to_hot_cache("vae")
        add_to_hot_cache("sd")
        remove_from_hot_cache("vae")

    bench = Bench(func)
    await bench.run()

    assert bench.runtime.hot_cache == {"sd"}


# --- Results -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, Result.success()),
        ({"a": 1}, Result.success({"a": 1})),
        ("text", Result.success({"result": "text"})),
        ([1, 2], Result.success({"result": [1, 2]})),
        ({"status": "half_done", "data": {"a": 1}}, Result("half_done", {"a": 1})),
        ({"status": "failure", "error": {"code": "NO_PAPER", "message": "m"}}, Result.failure("NO_PAPER", "m")),
        (Result.failure("NO_INK", "m"), Result.failure("NO_INK", "m")),
    ],
)
async def test_what_a_handler_returns(value: Any, result: Result) -> None:
    async def func() -> Any:
        return value

    assert await Bench(func).run() == result


class OutOfInk(TaskError):
    """There is no ink left."""

    default_code = "OUT_OF_INK"


@pytest.mark.parametrize(
    ("error", "code", "message", "data"),
    [
        (TransientError("later"), "TRANSIENT_ERROR", "later", {}),
        (PermanentError("never", data={"page": 3}), "PERMANENT_ERROR", "never", {"page": 3}),
        (InvalidInputError("what?"), "INVALID_INPUT_ERROR", "what?", {}),
        (TaskError("own", code="NO_PAPER"), "NO_PAPER", "own", {}),
        (OutOfInk(), "OUT_OF_INK", "There is no ink left.", {}),
        (ValueError("a bug"), "TRANSIENT_ERROR", "ValueError: a bug", {}),
        (TimeoutError("of the network"), "TRANSIENT_ERROR", "TimeoutError: of the network", {}),
    ],
)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_a_handler_raises(kind: str, error: Exception, code: str, message: str, data: Any) -> None:
    async def coroutine() -> None:
        raise error

    def plain() -> None:
        raise error

    bench = Bench(coroutine if kind == "async" else plain)

    assert await bench.run() == Result.failure(code, message, data)
    assert bench.failed == f"failure: {code}: {message}"


@pytest.mark.parametrize("value", [{1, 2}, {"x": object()}, float("nan"), {"status": "success", "data": {"x": b"bytes"}}])
async def test_a_result_that_is_not_json_is_permanent(value: Any) -> None:
    async def func() -> Any:
        return value

    result = await Bench(func).run()

    assert result.error is not None
    assert result.error.code == "PERMANENT_ERROR"
    assert "'work'" in result.error.message
    assert "not JSON" in result.error.message


async def test_data_of_an_error_that_is_not_json_is_permanent() -> None:
    async def func() -> None:
        raise TaskError("m", data={"x": object()})

    result = await Bench(func).run()

    assert result.error is not None
    assert result.error.code == "PERMANENT_ERROR"


async def test_a_handler_that_runs_too_long_is_stopped() -> None:
    stopped: list[str] = []

    async def func() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("cleaned up")

    result = await Bench(func).run(timeout_seconds=0.05)

    assert (result.status, stopped) == ("timeout", ["cleaned up"])
    assert result.error is not None
    assert result.error.message == "Worker task timed out"


# --- Claims --------------------------------------------------------------------------------------------------------------------


async def _never() -> None:
    raise AssertionError("this handler must not run")


async def test_an_attempt_that_somebody_has_claimed_is_not_run() -> None:
    bench = Bench(_never)
    request = await bench.dispatch()
    await bench.store.claim_task("task", "other", "other-boot", time.time(), 30)

    assert await bench.task.run_async(request) is None
    assert bench.pushed == []
    assert (await bench.record()).boot_id == "other-boot"


async def test_a_message_of_an_attempt_that_is_over_is_not_run() -> None:
    bench = Bench(_never)
    request = await bench.dispatch()
    bench.store._drop_task("task", Change(0.0))

    assert await bench.task.run_async(request) is None
    assert bench.pushed == []


async def test_a_result_that_comes_after_the_end_of_its_attempt_is_not_taken() -> None:
    async def func() -> None:
        bench.store._drop_task("task", Change(0.0))

    bench = Bench(func)
    request = await bench.dispatch()

    await bench.task.run_async(request)

    assert bench.pushed == []
    assert await bench.store.claims("boot") == ({}, [])


async def test_a_store_that_is_away_for_a_moment_costs_neither_the_claim_nor_the_result() -> None:
    calls: list[int] = []

    async def func() -> int:
        calls.append(1)
        return 7

    bench = Bench(func)
    for name in ("claim_task", "finish_task"):
        setattr(bench.store, name, _away_once(getattr(bench.store, name)))

    assert await bench.run() == Result.success({"result": 7})
    assert calls == [1]


async def test_a_claim_that_was_made_although_the_store_did_not_answer_is_ones_own() -> None:
    bench = Bench(lambda: 7)
    claim, asked = bench.store.claim_task, [1]

    async def lost(*args: Any, **kwargs: Any) -> Any:
        done = await claim(*args, **kwargs)
        if asked and asked.pop():
            raise StoreUnavailableError("away")
        return done

    bench.store.claim_task = lost  # type: ignore[method-assign]
    assert await bench.run() == Result.success({"result": 7})


async def test_a_report_that_arrived_although_the_store_did_not_answer_is_not_late() -> None:
    bench = Bench(lambda: 7)
    finish, asked = bench.store.finish_task, [1]

    async def lost(*args: Any, **kwargs: Any) -> Any:
        done = await finish(*args, **kwargs)
        if asked and asked.pop():
            bench.store._drop_task(args[0], Change(0))  # the orchestrator has taken the result meanwhile
            raise StoreUnavailableError("away")
        return done

    bench.store.finish_task = lost  # type: ignore[method-assign]
    await bench.task.run_async(await bench.dispatch())

    assert asked == []
    assert len(bench.pushed) == 1
    assert [outcome for _, outcome in await bench.store.outcomes(bench.runtime.worker_id)] == ["success"]


def _away_once(call: Any) -> Any:
    asked: list[int] = []

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise StoreUnavailableError("away")
        return await call(*args, **kwargs)

    return wrapped


# --- Progress ------------------------------------------------------------------------------------------------------------------


async def test_a_claim_that_the_store_has_lost_is_made_again_when_the_message_comes_again() -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    async def work() -> dict[str, Any]:
        runs.append(1)
        begun.set()
        await go.wait()
        return {}

    bench = Bench(work)
    request = await bench.dispatch()
    running = asyncio.ensure_future(bench.task.run_async(request))
    await begun.wait()
    await bench.store.release_task("task", "boot", time.time())  # as data of a moment ago would have it

    assert await bench.task.run_async(request) is None

    assert (await bench.record()).boot_id == "boot"
    go.set()
    await running
    assert ((await bench.record()).state, runs) == (TaskState.DONE, [1])


async def test_a_result_counts_although_the_store_has_lost_the_claim() -> None:
    async def work() -> dict[str, Any]:
        await bench.store.release_task("task", "boot", time.time())
        return {"a": 1}

    bench = Bench(work)
    assert (await bench.run()).data == {"a": 1}


async def test_progress_of_a_coroutine_is_stored_before_it_goes_on() -> None:
    seen: list[Any] = []

    async def func(task_id: str, job_id: str, send_progress: Any) -> None:
        for value in (0.25, 7, -1):
            await send_progress(task_id, job_id, value, f"at {value}")
            record = await bench.record()
            seen.append((record.progress, record.progress_message))

    bench = Bench(func)
    await bench.run()

    assert seen == [(0.25, "at 0.25"), (1.0, "at 7"), (0.0, "at -1")]


async def test_progress_of_a_plain_function_is_stored() -> None:
    def func(task_id: str, job_id: str, send_progress: Any) -> None:
        send_progress(task_id, job_id, 0.5, "half")

    bench = Bench(func)
    await bench.run()

    record = await bench.record()
    assert (record.progress, record.progress_message) == (0.5, "half")


async def test_progress_does_not_fail_a_task_when_the_store_is_away() -> None:
    async def func(task_id: str, job_id: str, send_progress: Any) -> str:
        await send_progress(task_id, job_id, 0.5)
        return "done"

    bench = Bench(func)
    bench.store.task_progress = _away_once(bench.store.task_progress)  # type: ignore[method-assign]

    assert await bench.run() == Result.success({"result": "done"})


# --- By hand -------------------------------------------------------------------------------------------------------------------


async def test_a_call_without_a_job_gets_its_arguments_as_params_and_gives_its_value() -> None:
    async def func(params: Size, task_id: str, job_id: Any, send_progress: Any) -> Any:
        await send_progress(task_id, job_id, 0.5, "nobody looks")
        return [params.width, params.height, task_id, job_id]

    bench = Bench(func)
    request = TaskRequest("by-hand", "work", [], {"width": 2, "height": 3}, {}, [], None, None, {})

    assert await bench.task.run_async(request) == [2, 3, "by-hand", None]
    assert bench.pushed == []


async def test_a_call_without_a_job_raises_what_the_handler_raises() -> None:
    async def func(params: Size) -> None: ...

    with pytest.raises(InvalidInputError, match="width"):
        await Bench(func).task.run_async(TaskRequest("by-hand", "work", [], {}, {}, [], None, None, {}))


# --- Declarations --------------------------------------------------------------------------------------------------------------


async def _fine(params: Any) -> None: ...


@pytest.mark.parametrize(
    ("declare", "part"),
    [
        (lambda w: w.task("a b")(_fine), "without spaces"),
        (lambda w: w.task("a", task_type="")(_fine), "without spaces"),
        (lambda w: w.task("a", task_type="orchestrator")(_fine), "belongs to the engine"),
        (lambda w: w.task("a", task_type="x.y")(_fine), "no dot"),
        (lambda w: w.task("a", process=True)(_fine), "plain function"),
        (lambda w: (w.task("a")(_fine), w.task("a")(_as_model)), "twice"),
        (lambda w: Worker(max_concurrent_tasks=0), "at least 1"),
        (lambda w: Worker(task_type_limits={"gpu": 0}), "'gpu'"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(declare: Any, part: str) -> None:
    with pytest.raises(RegistrationError, match=part):
        declare(Worker())


def test_a_task_is_named_after_its_function() -> None:
    worker = Worker()
    assert worker.task()(_fine) is _fine

    assert worker.tasks == {"_fine": TaskDeclaration("_fine", None, _fine, False, worker.tasks["_fine"].path)}


class Panic(BaseException):
    """As extensions written in Rust raise it."""


async def _cancels_itself(params: Any) -> None:
    sleeping = asyncio.ensure_future(asyncio.sleep(10))
    sleeping.cancel()
    await sleeping


async def _panics(params: Any) -> None:
    raise Panic("out of a library")


def _finds_nothing(params: Any) -> Any:
    return next(iter([]))


@pytest.mark.parametrize("func", [_cancels_itself, _panics, _finds_nothing])
async def test_whatever_a_handler_raises_its_attempt_ends_and_is_tried_again(func: Callable[..., Any]) -> None:
    bench = Bench(func)

    result = await bench.run()

    assert (result.status, result.error and result.error.code) == ("failure", "TRANSIENT_ERROR")


async def test_a_store_that_is_away_for_others_messages_holds_up_no_attempt() -> None:
    bench = Bench(lambda params: {"ran": True})

    async def flush(ids: Any) -> int:
        raise StoreUnavailableError("away")

    request = await bench.dispatch()
    flushed, bench.runtime.publisher.flush = bench.runtime.publisher.flush, flush
    claim = bench.store.claim_task

    async def claimed(*args: Any, **kwargs: Any) -> Any:
        done = await claim(*args, **kwargs)
        bench.runtime.publisher.flush = flush
        return done

    async def finished(*args: Any, **kwargs: Any) -> Any:
        bench.runtime.publisher.flush = flushed
        return await finish(*args, **kwargs)

    finish = bench.store.finish_task
    bench.store.claim_task, bench.store.finish_task = claimed, finished  # type: ignore[method-assign]

    assert (await bench.task.run_async(request))["data"] == {"ran": True}


async def test_a_thread_keeps_its_slot_however_often_its_task_is_stopped() -> None:
    go, began = threading.Event(), threading.Event()

    def work(params: Any) -> None:
        began.set()
        go.wait(20)

    bench = Bench(work)
    running = asyncio.ensure_future(bench.task.run_async(await bench.dispatch()))
    await asyncio.to_thread(began.wait, 20)
    for _ in range(3):
        running.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
    assert not running.done()

    go.set()
    await asyncio.wait({running})
    assert isinstance(running.exception(), Requeue)


@pytest.mark.parametrize("method", ["claim_task", "finish_task"])
async def test_a_stop_while_the_store_answers_leaves_nothing_half_done(method: str) -> None:
    ran: list[bool] = []

    async def work(params: Any) -> None:
        ran.append(True)

    bench = Bench(work)
    request = await bench.dispatch()
    call, asked, go = getattr(bench.store, method), asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        await go.wait()
        return await call(*args, **kwargs)

    setattr(bench.store, method, slow)
    running = asyncio.ensure_future(bench.task.run_async(request))
    await asked.wait()
    running.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait({running})

    record = await bench.record()
    assert ran == ([] if method == "claim_task" else [True])
    assert record.state is (TaskState.DISPATCHED if method == "claim_task" else TaskState.DONE)
    assert len(bench.pushed) == (method == "finish_task")
    assert await bench.store.claims("boot") == ({}, [])
