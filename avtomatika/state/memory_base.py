"""What the parts of the store in memory share: its dictionaries, publishing, and what a change in the making led to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from avtomatika.deliveries import Delivery
from avtomatika.jobs import Event, Job, Message, WorkerRecord, new_id
from avtomatika.state.base import CommitResult, FeedEntry, News, NewsKind, TaskRecord


@dataclass
class Change:
    """What a change led to so far.

    Attributes:
        types: task types of which a turn may have come.
        picks: task types of which a task came to wait for a pick.
        entered: attempts that came to wait, and may have gone since.
    """

    now: float
    outbox: list[str] = field(default_factory=list)
    types: dict[str, None] = field(default_factory=dict)
    picks: set[str] = field(default_factory=set)
    entered: list[str] = field(default_factory=list)
    stops: list[tuple[str, str]] = field(default_factory=list)

    def result(self) -> CommitResult:
        return CommitResult(True, tuple(self.outbox), tuple(sorted(self.picks)), tuple(self.stops))


class MemoryBase:
    """
    Args:
        push: gets every published message at once, as a broker would; without it messages wait in the outbox.
    """

    _retention: float

    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        self._push = push
        self._jobs: dict[str, Job] = {}
        self._job_claims: dict[str, tuple[str, str]] = {}
        self._events: dict[str, list[Event]] = {}
        self._tasks: dict[str, TaskRecord] = {}
        #: By boot: what it runs, and what lies in its direct queues; task -> capability.
        self._claimed: dict[str, dict[str, str]] = {}
        self._assigned: dict[str, dict[str, str]] = {}
        self._claim_calls: dict[str, str] = {}
        self._finish_calls: dict[str, float] = {}
        self._stops: dict[str, dict[str, str]] = {}
        self._handing: dict[str, dict[str, float]] = {}
        self._listeners: list[Callable[[News], None]] = []
        self._workers: dict[str, tuple[WorkerRecord, float]] = {}
        self._boots: dict[str, float] = {}
        self._pins: dict[str, str] = {}
        self._timers: dict[str, float] = {}
        self._ledger: dict[str, tuple[Message, float]] = {}
        self._outbox: dict[str, tuple[Message, float]] = {}
        self._deliveries: dict[str, Delivery] = {}
        self.stream: list[Event] = []
        self._feed: list[FeedEntry] = []
        self._fed = 0
        self._followers: set[asyncio.Queue[str]] = set()

    def _publish(self, message: Message, change: Change) -> None:
        if message.key is not None:
            self._ledger[message.key] = (message, change.now)
        if self._push is not None:
            self._push(message)
            return
        outbox_id = new_id()
        self._outbox[outbox_id] = (message, change.now)
        change.outbox.append(outbox_id)

    def _tell(self, kind: NewsKind, name: str, task_id: str = "", job_id: str = "") -> None:
        for listener in self._listeners:
            listener(News(kind, name, task_id, job_id))

    def _append(self, events: Sequence[Event], job: Job | None = None) -> None:
        for event in events:
            told = self._events.setdefault(event.job_id, [])
            told.append(event)
            self.stream.append(event)
            self._fed += 1
            self._feed.append(FeedEntry(str(self._fed), event, len(told), job if event is events[-1] else None))
            for follower in self._followers:
                follower.put_nowait(event.job_id)

    def _settle(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._ledger.pop(key, None)


def take_out(held: dict[str, dict[str, str]], boot_id: str, task_id: str) -> str | None:
    """Takes a task off what a boot holds; its capability, if it was held."""
    capability = held.get(boot_id, {}).pop(task_id, None)
    if not held.get(boot_id, True):
        del held[boot_id]
    return capability
