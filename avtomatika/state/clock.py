"""The time that all processes share: the store's. What a process's own wall clock says does not count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Between two looks at the store's clock.
INTERVAL_SECONDS = 10.0
#: A slower answer says too little: it may have been given at any time in between.
MAX_ROUND_TRIP_SECONDS = 1.0
#: A change of the store's clock that is worth a line in the log.
JUMP_SECONDS = 1.0


def steady() -> float:
    """Seconds that only go on, through steps of the wall clock, and where the system counts it through sleep of the machine."""
    return time.clock_gettime(_STEADY)


_STEADY: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class StoreClock:
    """Seconds since the epoch, by the store's clock: call it for now.

    Between two measurements it goes on by this machine's steady clock, also while the store is away. Until the first one it is
    the wall clock. A store whose clock jumps takes everybody with it at their next look, which is told in the log.
    """

    def __init__(self, local: Callable[[], float] = steady, wall: Callable[[], float] = time.time) -> None:
        self._local = local
        self._offset = wall() - local()
        self._asked = float("-inf")
        self.is_measured = False

    def __call__(self) -> float:
        return self._local() + self._offset

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the store's clock again."""
        return self._local() - self._asked >= INTERVAL_SECONDS

    def begin(self) -> float:
        """A look begins; gives what `measured` wants as `sent`."""
        self._asked = self._local()
        return self._asked

    def measured(self, sent: float, theirs: float) -> None:
        """The answer to a look is there: `theirs` was the store's time at some moment since `sent`."""
        received = self._local()
        uncertain = (received - sent) / 2
        offset = theirs - (sent + received) / 2
        change = offset - self._offset
        if self.is_measured:
            if received - sent > MAX_ROUND_TRIP_SECONDS or abs(change) <= uncertain:
                return  # what is known fits as well
            if abs(change) >= JUMP_SECONDS:
                logger.warning("the store's clock has jumped by %+.3f s", change, extra={"action": "clock"})
        elif abs(change) >= JUMP_SECONDS:
            logger.warning(
                "this machine's clock differs from the store's by %+.3f s: the store's counts", -change, extra={"action": "clock"}
            )
        self._offset, self.is_measured = offset, True
