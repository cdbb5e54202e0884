"""The machine itself: what it does, what is kept of it, what it may lose, and its updates. See docs/operations-system.md."""

from __future__ import annotations

from avtomatika.operations.system.backup import system_backup
from avtomatika.operations.system.cleanup import system_cleanup
from avtomatika.operations.system.family import family
from avtomatika.operations.system.monitor import system_monitor
from avtomatika.operations.system.update import system_update

__all__ = ["family", "system_backup", "system_cleanup", "system_monitor", "system_update"]
