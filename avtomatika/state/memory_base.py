"""What the parts of the store in memory share: its dictionaries, publishing, and what a change in the making led to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from avtomatika.jobs import Event, Job, Message, WorkerRecord, new_id
from avtomatika.state.base import CommitResult, TaskRecord


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

    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        self._push = push
        self._jobs: dict[str, Job] = {}
        self._job_claims: dict[str, tuple[str, str]] = {}
        self._events: dict[str, list[Event]] = {}
        self._tasks: dict[str, TaskRecord] = {}
        #: By boot: what it runs, and what lies in its direct queues; task -> capability.
        self._claimed: dict[str, dict[str, str]] = {}
        self._assigned: dict[str, dict[str, str]] = {}
        self._stops: dict[str, set[str]] = {}
        self._workers: dict[str, tuple[WorkerRecord, float]] = {}
        self._boots: dict[str, float] = {}
        self._pins: dict[str, str] = {}
        self._timers: dict[str, float] = {}
        self._ledger: dict[str, tuple[Message, float]] = {}
        self._outbox: dict[str, tuple[Message, float]] = {}
        self.stream: list[Event] = []

    def _publish(self, message: Message, change: Change) -> None:
        if message.key is not None:
            self._ledger[message.key] = (message, change.now)
        if self._push is not None:
            self._push(message)
            return
        outbox_id = new_id()
        self._outbox[outbox_id] = (message, change.now)
        change.outbox.append(outbox_id)

    def _append(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.setdefault(event.job_id, []).append(event)
            self.stream.append(event)

    def _settle(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._ledger.pop(key, None)


def take_out(held: dict[str, dict[str, str]], boot_id: str, task_id: str) -> str | None:
    """Takes a task off what a boot holds; its capability, if it was held."""
    capability = held.get(boot_id, {}).pop(task_id, None)
    if not held.get(boot_id, True):
        del held[boot_id]
    return capability
