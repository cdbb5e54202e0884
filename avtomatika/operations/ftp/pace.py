"""How fast bytes go, and how that is shown."""

from __future__ import annotations

from avtomatika.operations.context import OperationContext
from avtomatika.operations.ftp.session import BLOCK
from avtomatika.operations.throttle import Throttle
from avtomatika.operations.types import TaskStatus


class Pace:
    """Counts what goes over the line: shows it, holds it back to a limit, and stops it.

    Args:
        done: bytes that were there before.
        size: of the whole; None where nobody knows.
        limit: bytes a second.
    """

    def __init__(
        self, op: OperationContext, step: str, status: TaskStatus, done: int, size: int | None, limit: int | None
    ) -> None:
        self._op, self._step, self._status = op, step, status
        self._done, self._size = done, size
        self._throttle = Throttle(limit, op.wait)
        self.moved = 0
        self.block = BLOCK if limit is None else max(512, min(BLOCK, limit // 8))
        self.add(0)

    def add(self, count: int) -> None:
        """So many more bytes; waits where that was too fast. Raises OperationStopped where it is to stop."""
        self.moved += count
        share = 0.0 if not self._size else (self._done + self.moved) / self._size
        self._op.progress(0.3 + 0.65 * share, self._step, self._status)
        self._op.checkpoint()
        self._throttle.take(count)
