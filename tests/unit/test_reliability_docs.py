"""docs/reliability.md: its numbers are the settings' defaults, and its tests exist."""

from __future__ import annotations

import re

from avtomatika.broker.redis import TOUCH_SECONDS
from avtomatika.engine.watcher import LOCK_SECONDS
from avtomatika.settings import Settings
from tests.support.processes import REPOSITORY

TEXT = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_its_numbers_are_the_defaults() -> None:
    named = re.findall(r"`([A-Z_]+)` \((\d+)(?: s)?\)", TEXT)
    assert len(named) > 10
    for name, number in named:
        assert Settings.model_fields[name.lower()].default == float(number), name
    assert f"| {LOCK_SECONDS:.0f} s, its lock's time |" in TEXT
    assert f"touched every {TOUCH_SECONDS:.0f} s" in TEXT


def test_its_tests_exist() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", TEXT))
    assert named
    assert named <= {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}
