"""The pull hub: thousands of parked polls of HTTP workers over a few connections.

A poll parks here under the task types that its worker can begin now. News of a task (or a look once a second) has the hub fetch
as many messages as polls wait for that type. Each is leased in the store, under the worker's boot, before it is acknowledged, so
that a hub that dies at any moment loses nothing: an unacknowledged message is the broker's again, and a lease that was not handed
over goes to the worker's next poll, wherever that one comes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from avtomatika.broker.fetch import Fetched, Fetcher
from avtomatika.broker.polls import ParkedPolls, Poll
from avtomatika.broker.queues import queue_name
from avtomatika.compiler import Compiler
from avtomatika.errors import StoreUnavailableError, UnknownWorkerError
from avtomatika.jobs import WorkerRecord
from avtomatika.settings import Settings
from avtomatika.state.base import ClaimOutcome, News, NewsKind, PullView, Store, TaskRecord

logger = logging.getLogger(__name__)

BATCH = 64
SWEEP_SECONDS = 1.0
#: Every so many sweeps each parked worker's own tasks are looked at, should the news of one be lost.
LOOK_SWEEPS = 5
#: How long another facade may take to hand over what it has leased.
HANDING_SECONDS = 5.0
#: Where a message reaches the broker after the news of it, it is looked for again after these times.
LATE_SECONDS = (0.02, 0.1, 0.4)
DELIVERED_WAITS = (0.1, 0.5, 1.0, 2.0, 5.0)


class PullHub:
    """
    Args:
        publish: publishes what lies in the outbox under these ids.
        capability_of: the pinned capability of a task type.
        on_cancelled: is told of an attempt that nobody may begin any more, since it was cancelled.
        on_stop: is told of every stop of an HTTP worker (`News`).
        on_resumed: the subscription begins (again): stops may have been missed.
    """

    def __init__(
        self,
        *,
        store: Store,
        fetcher: Fetcher,
        compiler: Compiler,
        publish: Callable[[Sequence[str]], Awaitable[object]],
        settings: Settings,
        capability_of: Callable[[str], Awaitable[str | None]],
        on_cancelled: Callable[[str], Awaitable[object]],
        on_stop: Callable[[News], Awaitable[None]],
        on_resumed: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._compiler = compiler
        self._publish = publish
        self._settings = settings
        self._capability_of = capability_of
        self._on_cancelled = on_cancelled
        self._on_stop = on_stop
        self._on_resumed = on_resumed
        self._clock = clock
        self._polls = ParkedPolls()
        self._wanted: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._work: list[asyncio.Task[None]] = []
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._capabilities: dict[str, str] = {}
        self._closing = False

    # --- Life ------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for work in (self._listen, self._fetch_wanted, self._sweep):
            self._work.append(asyncio.get_running_loop().create_task(work()))

    def release(self) -> None:
        """Answers every parked poll with nothing: the facade is about to stop."""
        self._closing = True
        self._polls.expire_all()

    async def close(self) -> None:
        self.release()
        tasks = [*self._work, *self._looking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetcher.close()

    @property
    def parked(self) -> int:
        """How many polls are parked."""
        return len(self._polls)

    # --- A poll ----------------------------------------------------------------------------------------------------------------

    async def next_task(self, worker_id: str, seconds: float, gone: Callable[[], bool]) -> TaskRecord | None:
        """The next attempt for a worker, leased to it; None where there is none within this time.

        Whoever gets one says `delivered` or `give_back`.

        Raises:
            UnknownWorkerError: no live HTTP worker of this id is registered.
        """
        until = asyncio.get_running_loop().time() + seconds
        view = await self._view(worker_id)
        boot_id = view.worker.boot_id
        while view.worker.boot_id == boot_id:  # a new start of the worker polls anew
            task_id = await self._left_behind(view) or await self._claim_assigned(view)
            if task_id is None:
                left = until - asyncio.get_running_loop().time()
                wait = min(left, HANDING_SECONDS) if view.handing else left
                task_id = await self._park(await self._poll_of(view, gone), wait)
            if task_id is not None:
                record = await self._store.get_task(task_id)
                if record is not None:
                    return record
            if self._closing or gone() or asyncio.get_running_loop().time() >= until:
                return None
            view = await self._view(worker_id)
        return None

    async def _view(self, worker_id: str) -> PullView:
        view = await self._store.pull_view(worker_id, self._clock())
        if view is None:
            raise UnknownWorkerError(worker_id)
        return view

    async def _left_behind(self, view: PullView) -> str | None:
        """What a facade has leased for this worker and did not live to hand over."""
        now = self._clock()
        if all(at > now - HANDING_SECONDS for at in view.handing.values()):
            return None
        return await self._store.take_left_behind(view.worker.boot_id, now - HANDING_SECONDS, now)

    async def _claim_assigned(self, view: PullView) -> str | None:
        for task_id in view.assigned:
            record = await self._store.get_task(task_id)
            if record is not None and await self._claim(task_id, record.info.type, view.worker) is ClaimOutcome.OK:
                return task_id
        return None

    async def _poll_of(self, view: PullView, gone: Callable[[], bool]) -> Poll:
        types = await self._startable(view)
        return Poll(view.worker, types, gone, narrowed=len(types) < len(view.worker.supported_tasks))

    async def _startable(self, view: PullView) -> frozenset[str]:
        """The tasks that a worker can begin now, by its own word and by its limits."""
        worker = view.worker
        taken = Counter([*view.leases.values(), *view.assigned.values()])
        if 0 < worker.max_concurrent_tasks <= taken.total():
            return frozenset()
        types = []
        for task_type in worker.supported_tasks:
            capability = self._capabilities.get(task_type) or await self._capability_of(task_type)
            if capability is None:
                continue
            self._capabilities[task_type] = capability
            if taken[capability] < worker.capabilities.get(capability, math.inf):
                types.append(task_type)
        return frozenset(types)

    async def _park(self, poll: Poll, seconds: float) -> str | None:
        if self._closing:
            return None
        self._enter(poll)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await asyncio.shield(poll.answer)
        except TimeoutError:
            self._polls.expire(poll)
            return await poll.answer
        except asyncio.CancelledError:
            self._polls.expire(poll)
            task_id = poll.answer.result() if poll.answer.done() else None
            if task_id is not None:
                await asyncio.shield(self._give_back(task_id, poll.worker.boot_id))
            raise
        finally:
            self._polls.leave(poll)

    def _enter(self, poll: Poll) -> None:
        self._polls.enter(poll)
        self._want(poll.types)

    async def delivered(self, record: TaskRecord) -> None:
        """The worker has got it. A store that is away is told later: else the attempt would be handed over anew."""
        if record.boot_id is None:
            return
        for wait in DELIVERED_WAITS:
            try:
                await self._store.delivered(record.boot_id, record.info.id)
                return
            except StoreUnavailableError:
                await asyncio.sleep(wait)

    async def give_back(self, record: TaskRecord) -> None:
        """The worker has not got it: its lease ends, and another poll may have it."""
        if record.boot_id is not None:
            await self._give_back(record.info.id, record.boot_id)

    async def _give_back(self, task_id: str, boot_id: str) -> None:
        now = self._clock()
        if not await self._store.release_task(task_id, boot_id, now):
            return
        record = await self._store.get_task(task_id)
        if record is None or record.assigned_to is not None:
            return
        capability = await self._capability_of(record.info.type)
        # Its own message was acknowledged with the lease.
        done = await self._store.redispatch(task_id, self._compiler.task_message(record.info, capability, now), now)
        await self._publish(done.outbox)

    # --- Tasks for polls -------------------------------------------------------------------------------------------------------

    def slot_freed(self, worker_id: str) -> None:
        """A worker has ended an attempt: its parked polls may get more than before."""
        if any(poll.narrowed for poll in self._polls.of_worker(worker_id)):
            self._look(worker_id)

    def changed(self, worker_id: str) -> None:
        """A worker says something new of itself: its parked polls get what it takes now, no more and no less."""
        if self._polls.of_worker(worker_id):
            self._look(worker_id)

    def _look(self, worker_id: str) -> None:
        """Finds out what was assigned to a parked worker, and what it can begin now."""
        if worker_id not in self._looking:
            task = asyncio.get_running_loop().create_task(self._look_at(worker_id))
            self._looking[worker_id] = task
            task.add_done_callback(lambda _: self._looking.pop(worker_id, None))

    async def _look_at(self, worker_id: str) -> None:
        try:
            view = await self._store.pull_view(worker_id, self._clock())
            polls = [poll for poll in self._polls.of_worker(worker_id) if not poll.claiming and not poll.expired]
            if view is None or not polls:
                return
            poll = polls[0]
            if poll.worker.boot_id != view.worker.boot_id:
                self._polls.expire(poll)
                return
            if view.assigned or view.handing:
                self._polls.begin(poll)
                task_id = None
                try:
                    task_id = await self._left_behind(view) or await self._claim_assigned(view)
                finally:
                    self._end(poll, task_id)
                if task_id is not None:
                    return
            types = await self._startable(view)
            if types != poll.types and not poll.claiming and not poll.expired:
                self._polls.withdraw(poll)
                poll.types, poll.narrowed = types, len(types) < len(view.worker.supported_tasks)
                self._enter(poll)
        except StoreUnavailableError as exc:
            logger.debug("a parked worker is looked at later: %s", exc, extra={"action": "pull", "worker_id": worker_id})

    async def _listen(self) -> None:
        async for news in self._store.news():
            try:
                await self._heard(news)
            except StoreUnavailableError as exc:
                logger.warning("news are late: %s", exc, extra={"action": "news"})
            except Exception:
                logger.exception("news could not be taken", extra={"action": "news"})

    async def _heard(self, news: News) -> None:
        match news.kind:
            case NewsKind.TASK:
                self._want((news.name,))
                if not self._settings.broker_is_state:
                    for seconds in LATE_SECONDS:
                        asyncio.get_running_loop().call_later(seconds, self._want, (news.name,))
            case NewsKind.WORKER:
                self._look(news.name)
            case NewsKind.STOP:
                await self._on_stop(news)
            case NewsKind.RESUMED:
                self._want(self._polls.types)
                for worker_id in self._polls.workers:
                    self._look(worker_id)
                await self._on_resumed()

    async def _sweep(self) -> None:
        """Whatever the news, nothing waits for longer than this."""
        for turn in itertools.count(1):
            await asyncio.sleep(SWEEP_SECONDS)
            self._want(self._polls.types)
            for number, worker_id in enumerate(self._polls.workers):
                if number % LOOK_SWEEPS == turn % LOOK_SWEEPS or any(poll.narrowed for poll in self._polls.of_worker(worker_id)):
                    self._look(worker_id)

    def _want(self, types: Iterable[str]) -> None:
        wanted = [task_type for task_type in types if task_type in self._polls]
        if wanted:
            self._wanted.update(dict.fromkeys(wanted))
            self._wake.set()

    async def _fetch_wanted(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                task_type = next(iter(self._wanted))
                del self._wanted[task_type]
                try:
                    await self._fill(task_type)
                except StoreUnavailableError as exc:
                    logger.warning("polls wait for the store or the broker: %s", exc, extra={"action": "pull"})
                except Exception:  # the sweep tries it again; the other types are not to wait for it
                    logger.exception("tasks could not be fetched", extra={"action": "pull", "task_type": task_type})

    async def _fill(self, task_type: str) -> None:
        """Fetches for the polls that wait for a type, until there are no more of the ones or of the others."""
        capability = await self._capability_of(task_type)
        while capability is not None and (waiting := self._polls.waiting(task_type, BATCH)):
            queue = queue_name(capability, task_type)
            fetched = await self._fetcher.fetch(queue, waiting)
            if not fetched:
                return
            results = await asyncio.gather(*(self._hand(item, task_type) for item in fetched), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _hand(self, item: Fetched, task_type: str) -> None:
        """Leases a fetched task to a poll, then acknowledges its message. What is over is only acknowledged."""
        poll = self._polls.take(task_type)
        if poll is None:
            await self._fetcher.put_back(item)
            return
        try:
            outcome = await self._claim(item.task_id, task_type, poll.worker)
        except BaseException:
            self._end(poll, None)
            with suppress(StoreUnavailableError):
                await self._fetcher.put_back(item)
            raise
        if outcome is ClaimOutcome.GONE:  # the worker has begun anew since, and polls anew
            poll.expired = True
            self._end(poll, None)
            await self._fetcher.put_back(item)
            self._want((task_type,))
            return
        if outcome is ClaimOutcome.FULL:  # by another of its polls, perhaps at another facade
            poll.types, poll.narrowed = frozenset(), True
            self._end(poll, None)
            await self._fetcher.put_back(item)
            self._look(poll.worker.id)
            self._want((task_type,))
            return
        self._end(poll, item.task_id if outcome is ClaimOutcome.OK else None)
        await self._fetcher.settle(item)

    def _end(self, poll: Poll, task_id: str | None) -> None:
        if self._polls.end(poll, task_id):
            self._want(poll.types)
        elif task_id is not None:
            for other in self._polls.of_worker(poll.worker.id):
                if other is not poll:  # it may get less than before
                    other.narrowed = True
                    self._look(poll.worker.id)

    async def _claim(self, task_id: str, task_type: str, worker: WorkerRecord) -> ClaimOutcome:
        capability = await self._capability_of(task_type) or task_type
        seconds = self._settings.worker_timeout_seconds
        claim = await self._store.claim_task(task_id, worker.id, worker.boot_id, self._clock(), seconds, capability, handing=True)
        try:
            await self._publish(claim.outbox)  # others whose turn came with this claim
        except StoreUnavailableError as exc:
            logger.debug("the housekeeping publishes what stays in the outbox: %s", exc, extra={"action": "pull"})
        if claim.outcome is ClaimOutcome.CANCELLED:
            await self._on_cancelled(task_id)
        return claim.outcome
