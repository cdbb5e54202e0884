"""Who listens to which job: one reader of the store's events for all of them, which runs only while somebody listens."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field

from avtomatika.errors import StoreUnavailableError
from avtomatika.state.base import Progress, Store

logger = logging.getLogger(__name__)

#: Seconds between two looks at the progress of the tasks that are listened to.
PROGRESS_INTERVAL = 0.5
_AT_ONCE = 500
_READERS = 8
_MAX_PAUSE = 2.0


@dataclass(eq=False)
class Listener:
    """One who listens to a job.

    Attributes:
        task_id: whose progress it wants to hear of.
        progress: of that task, as it was last seen; None where its worker has said nothing.
        fresh: nobody has taken that progress yet.
        closed: the facade stops.
    """

    job_id: str
    task_id: str | None = None
    progress: Progress | None = None
    fresh: bool = False
    closed: bool = False
    _news: bool = False
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, *, news: bool = True) -> None:
        self._news = self._news or news
        self._woken.set()

    def attend(self, task_id: str | None) -> None:
        """From now on it hears of this task's progress."""
        if task_id != self.task_id:
            self.task_id, self.progress, self.fresh = task_id, None, False

    async def woken(self, patience: float) -> bool:
        """Waits for something to look at; false where nothing came in that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._woken.wait()
        return self._woken.is_set()

    def take(self) -> bool:
        """Whether the job has news since this was asked last; it sleeps again."""
        self._woken.clear()
        news, self._news = self._news, False
        return news

    def take_progress(self) -> Progress | None:
        """The progress, where nobody has taken it yet."""
        fresh, self.fresh = self.fresh, False
        return self.progress if fresh else None


class Listeners:
    """The listeners of one facade. Each is woken when its job has an event, and then reads the job's own list.

    Attributes:
        turn: held while one reads, so that thousands who are woken at once share a few connections.
    """

    def __init__(self, store: Store) -> None:
        self.turn = asyncio.Semaphore(_READERS)
        self._store = store
        self._by_job: defaultdict[str, set[Listener]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._by_job.values()))

    @property
    def running(self) -> bool:
        """Whether the store is being read."""
        return bool(self._tasks)

    @contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        listener = Listener(job_id, closed=self._closed)
        self._by_job[job_id].add(listener)
        if not self._tasks and not self._closed:
            self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._look())]
        try:
            yield listener
        finally:
            self._by_job[job_id].discard(listener)
            if not self._by_job[job_id]:
                del self._by_job[job_id]
            if not self._by_job:
                self._stop()

    async def close(self) -> None:
        """Sends everybody away: the facade stops."""
        self._closed = True
        for listener in self._everyone():
            listener.closed = True
            listener.wake()
        tasks = self._tasks
        self._stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    def _everyone(self) -> list[Listener]:
        return [listener for listeners in self._by_job.values() for listener in listeners]

    async def _read(self) -> None:
        """Wakes the listeners of every job that gets an event. Whatever breaks, it begins again."""
        pause = 0.1
        while True:
            try:
                async with aclosing(self._store.changes()) as changes:
                    first = True
                    async for job_ids in changes:
                        self._wake(self._by_job if first else job_ids)  # at first all: of what was before nobody tells
                        first, pause = False, 0.1
            except StoreUnavailableError as exc:
                logger.warning("listeners wait for the store: %s", exc, extra={"action": "events_interrupted"})
            except Exception:
                logger.exception("the reader of events failed and begins again", extra={"action": "events_failed"})
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE, pause * 2)

    def _wake(self, job_ids: Collection[str]) -> None:
        for job_id in job_ids:
            for listener in self._by_job.get(job_id, ()):
                listener.wake()

    async def _look(self) -> None:
        """Tells listeners of their tasks' progress."""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            wanted: defaultdict[str, list[Listener]] = defaultdict(list)
            for listener in self._everyone():
                if listener.task_id is not None:
                    wanted[listener.task_id].append(listener)
            ids = list(wanted)
            for at in range(0, len(ids), _AT_ONCE):
                try:
                    found = await self._store.progress_of(ids[at : at + _AT_ONCE])
                except StoreUnavailableError:
                    break
                except Exception:
                    logger.exception("the progress of tasks cannot be read", extra={"action": "progress_failed"})
                    break
                for task_id, progress in found.items():
                    _tell(wanted[task_id], task_id, progress)


def _tell(listeners: list[Listener], task_id: str, progress: Progress) -> None:
    for listener in listeners:
        if listener.task_id == task_id and listener.progress != progress:
            listener.progress, listener.fresh = progress, True
            listener.wake(news=False)
