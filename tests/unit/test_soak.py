"""The parts of the soak that judge."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from tests.soak import memory
from tests.soak.memory import Memory

MIB = 2**20


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Resident bytes by pid, as the system tells them."""
    told: dict[int, int] = {}

    class Process:
        def __init__(self, pid: int) -> None:
            if pid not in told:
                raise psutil.NoSuchProcess(pid)
            self.pid = pid

        def memory_info(self) -> Any:
            return type("Info", (), {"rss": told[self.pid]})()

    monkeypatch.setattr(memory.psutil, "Process", Process)
    return told


def _live(judge: Memory, sizes: dict[int, int], seconds: int, growth_per_second: float) -> None:
    for second in range(seconds):
        sizes[7] = int(80 * MIB + second * growth_per_second * MIB)
        judge.sample(float(second), {"worker1": 7, "gone": 8})


def test_a_process_that_grows_is_told(sizes: dict[int, int]) -> None:
    judge = Memory()
    _live(judge, sizes, 120, 0.3)

    [sentence] = judge.violations()
    assert sentence.startswith("worker1 (7) grew from ")


def test_one_that_stays_is_not(sizes: dict[int, int]) -> None:
    judge = Memory()
    _live(judge, sizes, 120, 0.02)

    assert judge.violations() == []
    assert [name for name, *_ in judge.thirds()] == ["worker1 (7)"]


def test_one_that_loads_something_once_is_not(sizes: dict[int, int]) -> None:
    judge = Memory()
    for second in range(120):
        sizes[7] = (80 if second < 70 else 100) * MIB
        judge.sample(float(second), {"worker1": 7})

    assert judge.violations() == []


def test_one_that_lived_too_briefly_is_not_judged(sizes: dict[int, int]) -> None:
    judge = Memory()
    _live(judge, sizes, 40, 5)

    assert judge.violations() == []
