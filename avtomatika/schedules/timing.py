"""When a schedule is due: a cron expression in a time zone, or a fixed interval. Pure; times are seconds since the epoch, UTC."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
SHORTEST_SECONDS = 1.0
LONGEST_SECONDS = 10 * 366 * 86400.0

_LONGEST_CRON = 200
#: Longer than any zone has ever turned a clock back.
_TURNED_BACK = 3 * 3600
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)


class Timing(Protocol):
    """When something is due. `anchor` is the time from which an interval is counted."""

    def next_after(self, moment: float, anchor: float) -> float | None:
        """The first due time after a moment; None where there is none any more."""

    def back_from(self, moment: float, anchor: float) -> Iterator[float]:
        """The due times up to a moment (itself included), latest first, without an end but the beginning of time."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Five cron fields in a time zone.

    Where a clock is put forward, a time of day that does not exist is due right after the gap; where it is put back, one that
    comes twice is due the first time only. An expression whose minute or hour begins with ``*`` follows the clock as it runs
    instead: nothing in the gap, everything twice. (Debian's cron does it so.)

    Raises:
        ValueError: it is no cron expression, no time zone, or never due; the message says the fix after a ``; ``.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        words = self.expression.split()
        if len(self.expression) > _LONGEST_CRON or len(words) != 5:
            raise ValueError(
                f"cron {self.expression[:60]!r} has not five fields; write minute, hour, day of the month, month and day of the "
                f'week, as in "30 2 * * mon-fri", or one of {", ".join(NICKNAMES)}'
            )
        if self.next_after(0.0) is None:
            raise ValueError(f"cron {self.expression!r} is never due; check its day and month")

    def next_after(self, moment: float, anchor: float = 0.0) -> float | None:
        for found in self._simulation(moment):
            # Inside a repeated hour the simulation begins anew with its first pass.
            if (due := found.timestamp()) > moment:
                return due
        return None

    def back_from(self, moment: float, anchor: float = 0.0) -> Iterator[float]:
        begin = math.floor(moment) + 1.0
        simulation = self._simulation(begin, reverse=True)
        if simulation.fixup_tz is not None:  # it goes by the clock on the wall, which may have been put back meanwhile
            simulation = self._simulation(begin + _TURNED_BACK, reverse=True)
        for found in simulation:
            if (due := found.timestamp()) <= moment:
                yield due

    def _simulation(self, moment: float, *, reverse: bool = False) -> CronSim:
        try:
            return CronSim(self.expression, datetime.fromtimestamp(moment, zone_of(self.timezone)), reverse)
        except CronSimError as exc:
            field = str(exc).removeprefix("Bad ")
            raise ValueError(f"the {field} of cron {self.expression!r} does not fit; correct it") from None


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval, counted from the anchor: due `seconds` after it, and so on, whatever clocks on walls do.

    Raises:
        ValueError: it is shorter than a second or longer than ten years.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not SHORTEST_SECONDS <= self.seconds <= LONGEST_SECONDS:  # false for a NaN, too
            raise ValueError("every must be from one second to ten years; write seconds, or a duration such as 90s, 15m or 1h30m")

    def next_after(self, moment: float, anchor: float) -> float | None:
        turn = max(1, math.floor((moment - anchor) / self.seconds))
        while anchor + turn * self.seconds <= moment:  # a turn or two: what division has rounded away
            turn += 1
        return anchor + turn * self.seconds

    def back_from(self, moment: float, anchor: float) -> Iterator[float]:
        turn = math.floor((moment - anchor) / self.seconds) + 1
        while turn > 0:
            if (due := anchor + turn * self.seconds) <= moment:
                yield due
            turn -= 1


def zone_of(name: str) -> tzinfo:
    """A time zone of the IANA database; ValueError where there is none of this name."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name at all, or one that leads out of the database; a folder of it
        raise ValueError(f"there is no time zone {name!r}; name one of the IANA database, such as Europe/Berlin") from None


def seconds_of(value: object) -> float:
    """An interval: seconds, a timedelta, or a text of numbers with units, such as ``90s``, ``15m``, ``1h30m``, ``2d``, ``1w``."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    raise ValueError(f"every {value!r} is no interval; write seconds, or a duration such as 90s, 15m, 1h30m or 2d")
