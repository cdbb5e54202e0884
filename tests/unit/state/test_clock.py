"""The time that processes share, whatever their own clocks say."""

from __future__ import annotations

import logging

import pytest

from avtomatika.state.clock import INTERVAL_SECONDS, StoreClock

STORE_TIME = 1_700_000_000.0


class Machine:
    """A machine whose steady clock and wall clock a test sets."""

    def __init__(self, wall: float) -> None:
        self.steady = 500.0
        self.clock = StoreClock(lambda: self.steady, lambda: wall)

    def look(self, theirs: float, round_trip: float = 0.0) -> None:
        sent = self.clock.begin()
        self.steady += round_trip
        self.clock.measured(sent, theirs)


def test_until_the_first_look_it_is_the_wall_clock() -> None:
    machine = Machine(wall=STORE_TIME + 30)

    assert machine.clock() == STORE_TIME + 30
    assert not machine.clock.is_measured


def test_it_goes_on_from_the_middle_of_the_round_trip() -> None:
    machine = Machine(wall=STORE_TIME + 30)

    machine.look(STORE_TIME, round_trip=0.5)

    assert machine.clock() == pytest.approx(STORE_TIME + 0.25)
    machine.steady += 100
    assert machine.clock() == pytest.approx(STORE_TIME + 100.25)


def test_a_look_within_its_own_uncertainty_changes_nothing() -> None:
    machine = Machine(wall=STORE_TIME)
    machine.look(STORE_TIME, round_trip=0.002)
    before = machine.clock()

    machine.look(before - 0.05, round_trip=0.2)

    assert machine.clock() == pytest.approx(before + 0.2)


def test_a_slow_answer_says_nothing_but_where_nothing_is_known() -> None:
    machine = Machine(wall=STORE_TIME + 30)
    machine.look(STORE_TIME, round_trip=4)
    assert machine.clock() == pytest.approx(STORE_TIME + 2)

    machine.look(STORE_TIME + 1000, round_trip=4)

    assert machine.clock() == pytest.approx(STORE_TIME + 6)


def test_a_jump_of_the_store_is_followed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(wall=STORE_TIME)
    machine.look(STORE_TIME)
    assert not caplog.records

    machine.look(STORE_TIME - 60)

    assert machine.clock() == STORE_TIME - 60
    [record] = caplog.records
    assert record.getMessage() == "the store's clock has jumped by -60.000 s"


def test_a_machine_that_is_ahead_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    machine = Machine(wall=STORE_TIME + 30)

    machine.look(STORE_TIME)
    machine.look(STORE_TIME)

    [record] = caplog.records
    assert record.getMessage() == "this machine's clock differs from the store's by +30.000 s: the store's counts"


def test_a_look_is_due_at_an_interval() -> None:
    machine = Machine(wall=STORE_TIME)
    assert machine.clock.is_due
    machine.look(STORE_TIME)
    assert not machine.clock.is_due
    machine.steady += INTERVAL_SECONDS
    assert machine.clock.is_due
