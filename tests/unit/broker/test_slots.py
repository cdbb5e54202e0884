"""The arithmetic of slots, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from avtomatika.broker.consumer import lane_of
from avtomatika.broker.slots import FETCH_SECONDS, SHORTEST_FETCH_SECONDS, Lane, SlotGate


def make(limit: int | None, **lanes: int) -> tuple[SlotGate, dict[str, Lane]]:
    gate = SlotGate(limit)
    made = {name: gate.lane(name, lane_limit) for name, lane_limit in lanes.items()}
    for lane in made.values():
        lane.channel = SimpleNamespace(_in_poll=None)
    return gate, made


def message() -> Any:
    return SimpleNamespace()


def test_a_fetch_in_flight_holds_a_slot_of_the_limit_over_all() -> None:
    gate, lanes = make(1, gpu=1, cpu=4)
    assert lanes["gpu"].may_fetch(False)
    lanes["gpu"].channel._in_poll = object()
    assert not lanes["cpu"].may_fetch(False)
    assert lanes["gpu"].may_fetch(True)
    assert lanes["gpu"].has_room()
    assert (gate.reserved(), gate.running) == (1, 0)


def test_a_lane_is_bound_by_its_own_limit_and_by_the_limit_over_all() -> None:
    gate, lanes = make(3, gpu=1, cpu=4)
    lanes["gpu"].take(message())
    assert not lanes["gpu"].has_room()
    assert (gate.free("gpu"), gate.free("cpu"), gate.free("unknown")) == (0, 2, 0)
    lanes["cpu"].take(message())
    lanes["cpu"].take(message())
    assert not lanes["cpu"].has_room()
    assert gate.load() == {"gpu": 1, "cpu": 2}


def test_the_orchestrator_is_outside_the_limit_over_all() -> None:
    gate, lanes = make(1, gpu=1)
    orchestrator = gate.lane("orchestrator", 50, counted=False)
    lanes["gpu"].take(message())
    assert orchestrator.may_fetch(False)
    orchestrator.take(message())
    assert (gate.running, gate.free("orchestrator")) == (1, 49)
    assert orchestrator.fetch_seconds() is None


@pytest.mark.parametrize("order", ["ended first", "acknowledged first"])
def test_a_slot_is_free_when_its_task_has_ended_and_its_message_is_settled(order: str) -> None:
    gate, lanes = make(None, gpu=1)
    freed: list[int] = []
    gate.on_free = lambda: freed.append(1)
    slot = lanes["gpu"].take(message())
    slot.started()
    steps = [slot.ended, slot.settle] if order == "ended first" else [slot.settle, slot.ended]
    steps[0]()
    assert not lanes["gpu"].has_room()
    steps[1]()
    assert lanes["gpu"].has_room()
    assert freed == [1]


def test_a_message_that_never_reached_the_pool_frees_its_slot_when_it_is_settled() -> None:
    _, lanes = make(None, gpu=1)
    lanes["gpu"].take(message()).settle()
    assert lanes["gpu"].has_room()


def test_changes_are_told() -> None:
    gate, lanes = make(None, gpu=2)
    told: list[dict[str, int]] = []
    gate.on_change = lambda: told.append(gate.load())
    slot = lanes["gpu"].take(message())
    slot.settle()
    assert told == [{"gpu": 1}, {"gpu": 0}]


def test_what_runs_is_kept_when_a_channel_closes_unless_the_worker_stops() -> None:
    gate, lanes = make(None, gpu=3)
    waiting, running, ended, stranger = message(), message(), message(), message()
    for one in (waiting, running, ended):
        one.slot = lanes["gpu"].take(one)
    running.slot.started()
    ended.slot.started()
    ended.slot.ended()
    assert [lanes["gpu"].keeps(one) for one in (waiting, running, ended, stranger)] == [False, True, True, False]
    gate.closing = True
    assert [lanes["gpu"].keeps(one) for one in (waiting, running, ended, stranger)] == [False, False, True, False]


def test_a_fetch_is_short_where_it_holds_a_slot_that_another_lane_wants() -> None:
    _, ample = make(5, gpu=1, cpu=4)
    assert ample["gpu"].fetch_seconds() is None
    _, lanes = make(1, gpu=1, cpu=4)
    assert lanes["gpu"].fetch_seconds() == SHORTEST_FETCH_SECONDS
    lanes["cpu"].fetched(False)
    assert lanes["cpu"].stands_back()
    assert SHORTEST_FETCH_SECONDS < (lanes["gpu"].fetch_seconds() or 0) < FETCH_SECONDS
    lanes["cpu"].fetched(True)
    assert not lanes["cpu"].stands_back()


@pytest.mark.parametrize(
    ("queue", "lane"),
    [
        ("gpu", "gpu"),
        ("gpu.train", "gpu"),
        ("gpu.train.v2", "gpu"),
        ("worker.gpu-box-1.cpu", "cpu"),
        ("worker.host.example.gpu", "gpu"),
        ("celery", None),
        ("gpus.train", None),
        ("worker.host.tpu", None),
    ],
)
def test_the_lane_of_a_queue(queue: str, lane: str | None) -> None:
    assert lane_of(queue, {"gpu": 1, "cpu": 1}) == lane
