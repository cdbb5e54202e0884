"""What has stopped without an error is noticed, and nothing else is."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.exceptions import ChannelError

from avtomatika.broker import watchdog
from avtomatika.broker.slots import SlotGate
from avtomatika.broker.watchdog import FetchWatch, Pulse, Watchdog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(watchdog, "monotonic", lambda: now.now)
    return now


def _watched(clock: SimpleNamespace, exit_seconds: float = 0) -> tuple[Watchdog, Pulse, list[str]]:
    ends: list[str] = []
    dog, pulse = Watchdog(30, exit_seconds, lambda: ends.append("end")), Pulse("hub")
    dog.pulses.append(pulse)
    pulse.beat()
    return dog, pulse, ends


def _pass(dog: Watchdog, clock: SimpleNamespace, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        dog.check(clock.now)


def test_a_thread_that_does_not_turn_is_told_of_once_with_its_stack(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    dog, pulse, ends = _watched(clock)
    _pass(dog, clock, 29)
    assert not caplog.records
    _pass(dog, clock, 500)
    (record,) = caplog.records
    assert "the hub has not turned for 30 s" in record.message
    assert "test_a_thread_that_does_not_turn_is_told_of_once" in record.message
    pulse.beat()
    _pass(dog, clock, 1)
    assert "turns again" in caplog.records[-1].message
    assert ends == []


def test_after_a_longer_time_the_process_ends(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    dog, _, ends = _watched(clock, exit_seconds=60)
    _pass(dog, clock, 59)
    assert ends == []
    _pass(dog, clock, 1)
    assert ends == ["end"]
    assert caplog.records[-1].levelno == logging.CRITICAL


def test_what_rests_is_not_expected_to_turn(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    dog, pulse, ends = _watched(clock, exit_seconds=60)
    pulse.rest()
    _pass(dog, clock, 500)
    assert (caplog.records, ends) == ([], [])


def test_a_process_that_was_stopped_as_a_whole_is_no_thread_that_hangs(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    dog, _, ends = _watched(clock, exit_seconds=60)
    clock.now += 3600
    dog.check(clock.now)
    _pass(dog, clock, 29)
    assert (caplog.records, ends) == ([], [])


def test_a_pulse_is_asked_to_beat_in_its_own_thread() -> None:
    asked: list[Any] = []
    pulse = Pulse("event loop", asked.append)
    pulse.ask()
    asked[0]()
    assert pulse.thread == threading.get_ident()
    assert pulse.seen is not None


class Consumer:
    """As much of a capability consumer as is watched."""

    def __init__(self, *, polls: bool, counts: list[int] | None = None) -> None:
        self.polls = polls
        self.gate = SlotGate(2)
        self.lane = self.gate.lane("gpu", 1)
        self.counts = counts
        self.lane.channel = SimpleNamespace(_in_poll=None, _brpop_sent_at=1.0, queue_declare=self._declare)

    def _declare(self, name: str, passive: bool) -> Any:
        if self.counts is None:
            raise ChannelError("404")
        return SimpleNamespace(consumer_count=self.counts.pop(0))

    def open_lanes(self) -> list[Any]:
        return [self.lane]

    def queues_of(self, lane: Any) -> list[str]:
        return ["gpu.train"]


def _looks(watch: FetchWatch, clock: SimpleNamespace, seconds: float) -> None:
    watch.look()
    clock.now += seconds
    watch.look()


def test_a_lane_with_room_that_does_not_fetch_has_the_consumer_connect_anew(clock: SimpleNamespace) -> None:
    consumer = Consumer(polls=True)
    watch = FetchWatch(consumer, 30)  # type: ignore[arg-type]
    _looks(watch, clock, 29)
    clock.now += 1
    with pytest.raises(ConnectionAbortedError, match="gpu"):
        watch.look()


def test_fetches_that_go_on_and_lanes_that_are_full_are_left_alone(clock: SimpleNamespace) -> None:
    consumer = Consumer(polls=True)
    watch = FetchWatch(consumer, 30)  # type: ignore[arg-type]
    for n in range(10):
        consumer.lane.channel._brpop_sent_at = float(n)
        _looks(watch, clock, 29)
    slot = consumer.lane.take(SimpleNamespace())
    _looks(watch, clock, 500)
    slot.settle()
    watch.look()  # the fetch comes with the hub's next turn


@pytest.mark.parametrize(("counts", "stopped"), [([1, 1, 1], False), ([1, 0], True), (None, True)])
def test_rabbitmq_is_asked_whether_it_knows_the_consumer(clock: SimpleNamespace, counts: list[int] | None, stopped: bool) -> None:
    consumer = Consumer(polls=False, counts=counts)
    watch = FetchWatch(consumer, 30)  # type: ignore[arg-type]
    watch.look()

    def wait() -> None:
        for _ in range(3):
            clock.now += 30
            watch.look()

    if stopped:
        with pytest.raises(ConnectionAbortedError):
            wait()
    else:
        wait()
        assert consumer.counts == []
