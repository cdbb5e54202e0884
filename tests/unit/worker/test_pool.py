"""The pool by itself: its callbacks as Celery gives them, a real hub, no broker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject, SoftTimeLimitExceeded, Terminated
from kombu.asynchronous import Hub

from avtomatika.worker.pool import AsyncPool, CancelReason, Requeue, TaskRequest, current_cancel_reason


def _task() -> None:
    """Stands for a task; what runs is its `run_async`, or the target that Celery gives."""


class Calls:
    """What Celery would have been told of one request."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.ends: list[tuple[int, Any, float]] = []
        self.timeouts: list[tuple[bool, float]] = []
        self.threads: set[int] = set()

    def on_accepted(self, pid: int, _: float) -> None:
        self.accepted.append(pid)
        self.threads.add(threading.get_ident())

    def on_end(self, outcome: tuple[int, Any, float]) -> None:
        self.ends.append(outcome)
        self.threads.add(threading.get_ident())

    def on_timeout(self, soft: bool, seconds: float) -> None:
        self.timeouts.append((soft, seconds))

    @property
    def error(self) -> BaseException:
        failed, info, _ = self.ends[0]
        assert failed
        return info.exception.exc


class Harness:
    def __init__(self, pool: AsyncPool, hub: Hub) -> None:
        self.pool, self.hub = pool, hub
        self._loop = hub.create_loop()

    def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            self.hub.call_later(0.02, lambda: None)
            next(self._loop)

    def apply(self, run_async: Any = None, *, target: Any = None, task_id: str = "id-1", **limits: float) -> tuple[Calls, Any]:
        calls = Calls()
        name = "pooled" if run_async is not None else "plain"
        if run_async is not None:
            self.pool.app.tasks["pooled"].run_async = run_async
        handle = self.pool.apply_async(
            target,
            args=(
                name,
                task_id,
                {"root_id": "root"},
                b'[[1], {"a": 2}, {"chain": [{"task": "next"}]}]',
                "application/json",
                "utf-8",
            ),
            accept_callback=calls.on_accepted,
            callback=calls.on_end,
            timeout_callback=calls.on_timeout,
            correlation_id=task_id,
            **limits,
        )
        return calls, handle


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    from avtomatika.settings import get_settings

    monkeypatch.setenv("SHUTDOWN_GRACE_SECONDS", "0.1")
    get_settings.cache_clear()
    app = Celery("pool-test", set_as_current=False)
    app.task(name="pooled")(_task)
    app.task(name="plain")(_task)
    app.finalize()
    hub = Hub()
    pool = AsyncPool(2, app=app)
    pool.start()
    pool.register_with_event_loop(hub)
    yield Harness(pool, hub)
    pool.stop()
    hub.close()
    get_settings.cache_clear()


def test_a_coroutine_gets_the_decoded_message_and_its_value_is_reported_in_the_hub_thread(harness: Harness) -> None:
    seen: list[TaskRequest] = []

    async def run(request: TaskRequest) -> dict[str, int]:
        seen.append(request)
        assert asyncio.get_running_loop() is harness.pool.loop
        return {"x": 1}

    calls, _ = harness.apply(run)
    harness.until(lambda: calls.ends)
    request = seen[0]
    assert (request.id, request.args, request.kwargs, request.root_id) == ("id-1", [1], {"a": 2}, "root")
    assert request.chain == [{"task": "next"}]
    assert calls.ends[0][:2] == (0, "{'x': 1}")
    assert calls.threads == {threading.get_ident()}
    assert harness.pool.running() == []


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (ValueError("no"), ValueError),
        (Requeue("later"), Reject),
        (SystemExit(3), RuntimeError),
        (KeyboardInterrupt(), RuntimeError),
        (MemoryError(), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
    ],
)
def test_what_a_coroutine_raises_is_reported_and_the_loop_goes_on(
    harness: Harness, raised: BaseException, reported: type[BaseException]
) -> None:
    async def run(_: TaskRequest) -> None:
        raise raised

    calls, _ = harness.apply(run)
    harness.until(lambda: calls.ends)
    assert isinstance(calls.error, reported)
    if isinstance(calls.error, Reject):
        assert calls.error.requeue

    async def answer() -> int:
        return 42

    assert harness.pool.submit(answer()).result(5) == 42


def test_a_revoke_cancels_the_coroutine_which_can_tell_why(harness: Harness) -> None:
    reasons: list[Any] = []
    started = threading.Event()

    async def run(_: TaskRequest) -> None:
        assert current_cancel_reason() is None
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reasons.append(current_cancel_reason())
            raise

    calls, handle = harness.apply(run)
    assert started.wait(5)
    handle.terminate(15)
    harness.until(lambda: calls.ends)
    assert reasons == [CancelReason.REVOKED]
    assert isinstance(calls.error, Terminated)


def test_a_cancel_by_id_lets_the_coroutine_report_in_its_own_way(harness: Harness) -> None:
    started = threading.Event()

    async def run(_: TaskRequest) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return str(current_cancel_reason())
        return "not cancelled"

    calls, _ = harness.apply(run)
    assert started.wait(5)
    assert not harness.pool.cancel("another")
    assert harness.pool.cancel("id-1")
    harness.until(lambda: calls.ends)
    assert calls.ends[0][:2] == (0, "'cancelled'")


def test_a_soft_limit_cancels_and_is_reported_as_celery_does(harness: Harness) -> None:
    async def run(_: TaskRequest) -> None:
        await asyncio.Event().wait()

    calls, _ = harness.apply(run, soft_timeout=0.05, timeout=60)
    harness.until(lambda: calls.ends)
    assert calls.timeouts == [(True, 0.05)]
    assert isinstance(calls.error, SoftTimeLimitExceeded)


def test_a_hard_limit_is_reported_once_and_the_slot_stays_taken_until_the_coroutine_has_ended(harness: Harness) -> None:
    release = threading.Event()

    async def run(_: TaskRequest) -> None:
        while not release.is_set():  # swallows every cancellation
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    calls, _ = harness.apply(run, timeout=0.05)
    harness.until(lambda: calls.timeouts)
    assert calls.timeouts == [(False, 0.05)]
    assert harness.pool.running() == ["id-1"]
    release.set()
    harness.until(lambda: not harness.pool.running())
    assert calls.ends == []


def test_an_ordinary_task_runs_in_a_thread_and_its_hard_limit_is_only_reported(harness: Harness) -> None:
    release, threads = threading.Event(), []

    def trace(*_: Any) -> tuple[int, str, float]:
        threads.append(threading.current_thread())
        release.wait(10)
        return 0, "'done'", 0.1

    calls, _ = harness.apply(target=trace, timeout=0.05)
    harness.until(lambda: calls.timeouts)
    assert calls.timeouts == [(False, 0.05)]
    assert calls.accepted
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon
    release.set()
    harness.until(lambda: not harness.pool.running())
    assert calls.ends == []


def test_an_ordinary_task_that_waits_for_a_thread_can_still_be_revoked(harness: Harness) -> None:
    release = threading.Event()

    def trace(*_: Any) -> tuple[int, str, float]:
        release.wait(10)
        return 0, "'done'", 0.1

    first = [harness.apply(target=trace, task_id=f"busy-{n}")[0] for n in range(2)]
    waiting, handle = harness.apply(target=trace, task_id="waiting")
    handle.terminate(15)
    harness.until(lambda: waiting.ends)
    assert isinstance(waiting.error, Terminated)
    assert not waiting.accepted
    release.set()
    harness.until(lambda: all(calls.ends for calls in first))
    assert [calls.ends[0][1] for calls in first] == ["'done'", "'done'"]


def test_a_callback_that_fails_does_not_reach_the_hub(harness: Harness) -> None:
    async def run(_: TaskRequest) -> None:
        return None

    harness.pool.app.tasks["pooled"].run_async = run
    failed = threading.Event()

    def fail(_: Any) -> None:
        failed.set()
        raise KeyError("kombu takes this for a lost connection")

    harness.pool.apply_async(
        None, args=("pooled", "id-2", {}, b"[[], {}, {}]", "application/json", "utf-8"), callback=fail, correlation_id="id-2"
    )
    harness.until(failed.is_set)
    harness.until(lambda: not harness.pool.running())


def test_a_stop_waits_for_what_ends_in_time_and_hands_back_the_rest(harness: Harness) -> None:
    reasons: list[Any] = []
    both = threading.Barrier(3)

    async def run(request: TaskRequest) -> str:
        await asyncio.to_thread(both.wait, 5)
        if request.id == "short":
            return "ended"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reasons.append(current_cancel_reason())
            raise Requeue from None
        return "never"

    said: list[str] = []

    async def farewell() -> None:
        said.append("bye")

    harness.pool.at_stop(farewell)
    short, _ = harness.apply(run, task_id="short")
    long, _ = harness.apply(run, task_id="long")
    both.wait(5)
    thread = harness.pool._thread
    harness.pool.stop()
    assert short.ends[0][:2] == (0, "'ended'")
    assert isinstance(long.error, Reject)
    assert reasons == [CancelReason.SHUTDOWN]
    assert said == ["bye"]
    assert AsyncPool.current is None
    assert thread is not None
    assert not thread.is_alive()


def test_a_task_that_never_ends_does_not_hold_up_the_stop(harness: Harness) -> None:
    never = threading.Event()

    def trace(*_: Any) -> tuple[int, str, float]:
        never.wait(60)
        return 0, "", 0.0

    calls, _ = harness.apply(target=trace)
    harness.until(lambda: calls.accepted)
    harness.pool.stop()
    assert calls.ends == []
    never.set()
