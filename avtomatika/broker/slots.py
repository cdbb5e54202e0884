"""Slots: how many tasks of each capability run at once, and how many over all of them. Changed in the hub's thread only."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar

FETCH_SECONDS = 0.5
SHORTEST_FETCH_SECONDS = 0.05


class Slot:
    """One message of a lane, from its arrival until it is acknowledged (or handed back) and its task has ended.

    Both, because either may come first: a revoke acknowledges before the coroutine has cleaned up, a late acknowledgement
    follows the end.
    """

    __slots__ = ("ended_at", "lane", "message", "repeat", "settled", "started_at")

    def __init__(self, lane: Lane, message: Any) -> None:
        self.lane = lane
        self.message = message
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.settled = False
        self.repeat: Callable[[], Any] | None = None  # an acknowledgement that a broken connection swallowed

    @property
    def running(self) -> bool:
        return self.started_at is not None and self.ended_at is None

    def started(self) -> None:
        """The pool has taken the request."""
        self.started_at = monotonic()

    def ended(self) -> None:
        """Nothing of the request runs any more."""
        self.ended_at = monotonic()
        self._release()

    def settle(self) -> None:
        """The broker knows what became of the message."""
        self.settled = True
        self._release()

    def drop(self) -> None:
        """The message is the broker's again; nothing of it ran."""
        self.started_at = self.ended_at = None
        self.settle()

    def _release(self) -> None:
        if self.settled and not self.running:
            self.lane.release(self)


class Lane:
    """The slots of one capability; as `gate` of its Redis channel it says whether one more message may be fetched.

    Attributes:
        counted: whether the limit over all lanes counts this one (the orchestrator's is outside).
        channel: the channel it consumes on; a new one after each reconnect.
    """

    def __init__(self, gate: SlotGate, name: str, limit: int, counted: bool = True) -> None:
        self.gate = gate
        self.name = name
        self.limit = limit
        self.counted = counted
        self.channel: Any = None
        self.slots: set[Slot] = set()
        self.last_start = 0.0
        self.empty_at: float | None = None

    @property
    def fetching(self) -> bool:
        """Whether a fetch is in flight on Redis: it holds a slot until its reply has been read."""
        return bool(getattr(self.channel, "_in_poll", False))

    def has_room(self) -> bool:
        """Whether a message that has arrived may start; the slot that its own fetch reserved is not held against it."""
        if len(self.slots) >= self.limit:
            return False
        return not self.counted or self.gate.reserved() - self.fetching < self.gate.limit

    def take(self, message: Any) -> Slot:
        slot = Slot(self, message)
        self.slots.add(slot)
        self.last_start = monotonic()
        self.gate.changed()
        return slot

    def release(self, slot: Slot) -> None:
        if slot in self.slots:
            self.slots.remove(slot)
            self.gate.changed(freed=True)

    # What the Redis channel asks

    def may_fetch(self, fetching: bool) -> bool:
        if fetching:
            return True
        return len(self.slots) < self.limit and (not self.counted or self.gate.reserved() < self.gate.limit)

    def fetched(self, found: bool) -> None:
        self.empty_at = None if found else monotonic()

    def stands_back(self) -> bool:
        """After a fetch that found nothing, lanes that may have messages come first for a while."""
        return self.empty_at is not None and monotonic() - self.empty_at < self.gate.retry_seconds()

    def fetch_seconds(self) -> float | None:
        """How long a fetch may hold its slot.

        Where the lanes' limits together exceed the limit over all, an idle lane's fetch may hold the last free slot. It
        then holds it for 50 ms while another lane is known to have had messages, else for its share of half a second; and
        having found nothing it comes last for max(0.5, 0.2 x lanes) seconds. So an idle lane costs a busy one at most a
        tenth of one slot, and a message in an idle lane waits at most that long for its lane's turn at the next free slot.
        """
        if not self.counted or self.gate.ample():
            return None
        waiting = self.gate.waiting(besides=self)
        if len(waiting) < self.gate.limit - self.gate.reserved():
            return FETCH_SECONDS
        if any(not lane.stands_back() for lane in waiting):
            return SHORTEST_FETCH_SECONDS
        return max(SHORTEST_FETCH_SECONDS, FETCH_SECONDS / (len(waiting) + 1))

    def batch(self) -> int:
        """Only the orchestrator takes several messages at once. A task is fetched by itself: another worker may be free, too."""
        return 0 if self.counted else self.limit - len(self.slots)

    def keeps(self, message: Any) -> bool:
        """Whether a message must not be handed back when its channel closes: it runs on, or has ended unacknowledged."""
        slot = getattr(message, "slot", None)
        if slot is None or slot.started_at is None:
            return False
        return slot.ended_at is not None or not self.gate.closing


class SlotGate:
    """The slots of all lanes of this process.

    Attributes:
        limit: over all counted lanes.
        closing: the worker stops: what still runs goes back to the broker.
        on_change: called in the hub's thread whenever `load()` has changed.
        on_free: called when a slot has become free; the consumer's.
    """

    current: ClassVar[SlotGate | None] = None

    def __init__(self, limit: int | None = None) -> None:
        self.limit: float = limit or float("inf")
        self.lanes: dict[str, Lane] = {}
        self.closing = False
        self.on_change: Callable[[], None] | None = None
        self.on_free: Callable[[], None] | None = None

    def lane(self, name: str, limit: int, counted: bool = True) -> Lane:
        """The lane of this name, made where it is missing."""
        if name not in self.lanes:
            self.lanes[name] = Lane(self, name, limit, counted)
        return self.lanes[name]

    def load(self) -> dict[str, int]:
        """Capability -> tasks that hold a slot."""
        return {lane.name: len(lane.slots) for lane in tuple(self.lanes.values())}

    @property
    def running(self) -> int:
        """Slots taken over all counted lanes."""
        return sum(len(lane.slots) for lane in tuple(self.lanes.values()) if lane.counted)

    def free(self, capability: str) -> int:
        """How many more tasks of a capability could start now."""
        lane = self.lanes.get(capability)
        if lane is None:
            return 0
        left = lane.limit - len(lane.slots)
        return max(0, int(min(left, self.limit - self.running) if lane.counted else left))

    def reserved(self) -> int:
        """Slots taken, and those held by fetches in flight."""
        return sum(len(lane.slots) + lane.fetching for lane in self.lanes.values() if lane.counted)

    def ample(self) -> bool:
        """Whether every lane could be full at once."""
        return sum(lane.limit for lane in self.lanes.values() if lane.counted) <= self.limit

    def waiting(self, besides: Lane) -> list[Lane]:
        """Lanes that have room and no fetch in flight."""
        return [
            lane
            for lane in self.lanes.values()
            if lane is not besides and lane.counted and not lane.fetching and len(lane.slots) < lane.limit
        ]

    def retry_seconds(self) -> float:
        """How long a lane that found nothing stands back."""
        return max(FETCH_SECONDS, 0.2 * len(self.lanes))

    def changed(self, freed: bool = False) -> None:
        if freed and self.on_free is not None:
            self.on_free()
        if self.on_change is not None:
            self.on_change()
