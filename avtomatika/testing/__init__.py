"""For tests of your own blueprints: the real engine in memory, fake workers, virtual time. See docs/testing.md."""

from __future__ import annotations

from avtomatika.errors import HarnessError
from avtomatika.testing.driver import TaskCall
from avtomatika.testing.fakes import Fault, dies, fails, raises, times_out
from avtomatika.testing.harness import BlueprintHarness
from avtomatika.testing.job import HarnessJob

__all__ = ["BlueprintHarness", "Fault", "HarnessError", "HarnessJob", "TaskCall", "dies", "fails", "raises", "times_out"]
