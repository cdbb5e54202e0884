"""The polls that are parked in a facade: by task type, and by worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from avtomatika.jobs import WorkerRecord


@dataclass(eq=False)
class Poll:
    """A parked poll.

    Attributes:
        types: the tasks that may be given to it now.
        gone: whether its client has hung up.
        narrowed: some of its worker's capabilities were full: what it may get changes when they are free.
        expired: its time is over; it is answered once what is being claimed for it is clear.
        answer: the id of the attempt that was leased for it; None for none.
    """

    worker: WorkerRecord
    types: frozenset[str]
    gone: Callable[[], bool]
    narrowed: bool = False
    expired: bool = False
    claiming: bool = False
    answer: asyncio.Future[str | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def resolve(self, task_id: str | None) -> None:
        if not self.answer.done():
            self.answer.set_result(task_id)


class ParkedPolls:
    """Who waits for what, in the order in which they came. A poll that is being served is parked under no type."""

    def __init__(self) -> None:
        self._by_type: dict[str, dict[Poll, None]] = {}
        self._by_worker: dict[str, set[Poll]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_worker.values()))

    def __contains__(self, task_type: str) -> bool:
        return task_type in self._by_type

    @property
    def types(self) -> list[str]:
        return list(self._by_type)

    @property
    def workers(self) -> list[str]:
        return list(self._by_worker)

    def of_worker(self, worker_id: str) -> list[Poll]:
        return list(self._by_worker.get(worker_id, ()))

    def enter(self, poll: Poll) -> None:
        self._by_worker.setdefault(poll.worker.id, set()).add(poll)
        for task_type in poll.types:
            self._by_type.setdefault(task_type, {})[poll] = None

    def withdraw(self, poll: Poll) -> None:
        """It gets nothing more for now."""
        for task_type in poll.types:
            polls = self._by_type.get(task_type, {})
            polls.pop(poll, None)
            if not polls:
                self._by_type.pop(task_type, None)

    def leave(self, poll: Poll) -> None:
        """It is answered."""
        self.withdraw(poll)
        polls = self._by_worker.get(poll.worker.id, set())
        polls.discard(poll)
        if not polls:
            self._by_worker.pop(poll.worker.id, None)

    def expire(self, poll: Poll) -> None:
        """Its time is over: it is answered with nothing, or with what is being claimed for it."""
        poll.expired = True
        self.withdraw(poll)
        if not poll.claiming:
            poll.resolve(None)

    def expire_all(self) -> None:
        for polls in list(self._by_worker.values()):
            for poll in list(polls):
                self.expire(poll)

    def waiting(self, task_type: str, most: int) -> int:
        """How many wait for a type whose clients are still there, as far as `most`."""
        gone, count = [], 0
        for poll in self._by_type.get(task_type, {}):
            if count >= most:
                break
            if poll.gone():
                gone.append(poll)
            else:
                count += 1
        for poll in gone:
            self.expire(poll)
        return count

    def take(self, task_type: str) -> Poll | None:
        """The one that has waited longest: something is being claimed for it from now on."""
        while polls := self._by_type.get(task_type):
            poll = next(iter(polls))
            if not poll.gone():
                self.begin(poll)
                return poll
            self.expire(poll)
        return None

    def begin(self, poll: Poll) -> None:
        self.withdraw(poll)
        poll.claiming = True

    def end(self, poll: Poll, task_id: str | None) -> bool:
        """What was claimed for it, or nothing: then it waits on (true), unless its time was over meanwhile."""
        poll.claiming = False
        if task_id is not None or poll.expired:
            poll.resolve(task_id)
            return False
        self.enter(poll)
        return True
