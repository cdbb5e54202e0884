"""The dispatcher: chooses workers for the tasks that wait for a pick.

The pipeline: idle -> task -> resources -> max_cost -> strategy. The store offers the idle workers of a task in the order that a
strategy names, a page at a time, so that a pick costs the same however many workers there are. `Store.assign` counts slots anew,
and decides; so any number of orchestrators may do this at the same time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from avtomatika.broker.publisher import Publisher
from avtomatika.compiler import Compiler
from avtomatika.engine import strategies
from avtomatika.engine.explain import explain
from avtomatika.engine.funnel import Funnel, is_busy, load_seconds, slots_of, suits, why_chosen
from avtomatika.engine.strategies import DEFAULT, Strategy
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JSON, TaskInfo, TaskState
from avtomatika.settings import Settings
from avtomatika.state.base import AssignOutcome, Candidate, Entry, Order, Store, TaskRecord

logger = logging.getLogger(__name__)

PAGE = 8
MAX_PAGE = 1024
LANES = 4
MAX_LANES = 1024
#: So many records may a pump in vain take and still be repeated whenever a slot is free.
CHEAP = 256
#: A pick for which every worker that suits was busy for so long is put next in the direct queue of one of them.
AHEAD_AFTER_SECONDS = 1.0
#: So many tasks of one type are placed in one go; then others have their turn.
PLACEMENTS = 64
#: Of so many tasks that it has given to workers a dispatcher looks whether they were begun.
REMEMBERED = 1000
LOOKED_AT = 64
#: How long what a whole fleet looks like may be relied on: reading it costs as much as there are workers.
FLEET_SECONDS = 0.5


class _Try(StrEnum):
    """What became of one try to place a task."""

    MOVED = "moved"  # it has gone to a worker, is over, or parked by its limit: another one is the first of its lane
    WAITS = "waits"  # it is this task's own matter, and no other's
    NOBODY = "nobody"  # no idle worker suits it, nor any task that wants the same


@dataclass
class _Round:
    """One pump.

    Attributes:
        hopeless: wishes that no idle worker suits; while a pump runs, slots only become fewer.
        crowded: wishes for which no busy worker's queue has room, either.
        tried: ids of tasks.
        read: how many records, of tasks and of workers, it has read in vain.
        warm: how many live workers hold the models of the task's skill; None where nobody has asked yet.
        limited: a limit was used up: its next lease may be free before anybody looks again.
    """

    task_type: str
    capability: str
    now: float
    hopeless: set[str] = field(default_factory=set)
    crowded: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    read: int = 0
    warm: int | None = None
    limited: bool = False


class Dispatcher:
    def __init__(
        self, *, store: Store, compiler: Compiler, publisher: Publisher, settings: Settings, clock: Callable[[], float]
    ) -> None:
        self.store = store
        self.compiler = compiler
        self.publisher = publisher
        self.settings = settings
        self.clock = clock
        self._wanted: dict[str, None] = {}  # in the order of their turns
        self._waiting: set[str] = set()
        self._work: asyncio.Task[None] | None = None
        self._pumping = asyncio.Lock()
        self._capabilities: dict[str, str] = {}
        self._fleets: dict[str, tuple[float, list[Candidate]]] = {}
        self._said: set[str] = set()
        self._given: dict[str, float] = {}  # task -> when it was given to a worker

    # --- When ------------------------------------------------------------------------------------------------------------------

    def wake(self, task_types: Iterable[str]) -> None:
        """Tasks of these types wait for a pick: tries to place them, soon, in the background."""
        self._wanted.update(dict.fromkeys(task_types))
        if self._wanted and (self._work is None or self._work.done()):
            self._work = asyncio.get_running_loop().create_task(self._run())

    def slot_freed(self) -> None:
        """Some worker has a free slot again: what is known to wait is tried. Costs nothing where nothing waits."""
        if self._waiting:
            self.wake(self._waiting)

    async def look(self) -> None:
        """Finds out what waits, whoever let it wait, and tries to place it; and what waits at the wrong worker."""
        self.wake(await self.store.picking())
        await self._move_on()

    async def settled(self) -> None:
        """Waits for the end of what runs in the background."""
        while self._work is not None and not self._work.done():
            await asyncio.wait({self._work})

    async def _run(self) -> None:
        """One type after another, each once however often it was woken. What fails is kept for the next wake."""
        while self._wanted:
            task_type = next(iter(self._wanted))
            del self._wanted[task_type]
            try:
                if await self.pump(task_type, PLACEMENTS) >= PLACEMENTS:
                    self._wanted[task_type] = None  # behind the others
            except StoreUnavailableError as exc:
                self._waiting |= {task_type, *self._wanted}
                self._wanted.clear()
                logger.warning("picks wait for the store: %s", exc, extra={"action": "dispatch", "task_type": task_type})
            except Exception:
                self._waiting.add(task_type)
                logger.exception("tasks could not be placed", extra={"action": "dispatch", "task_type": task_type})

    # --- What ------------------------------------------------------------------------------------------------------------------

    async def pump(self, task_type: str, most: float = float("inf")) -> int:
        """Gives waiting tasks of a type to workers, until nobody suits the first task of any lane; how many have gone.

        Args:
            most: so many are enough for now.
        """
        async with self._pumping:
            turn = _Round(task_type, await self._capability(task_type), self.clock())
            waits, placed = await self._pump(turn, most)
            # What was costly to try in vain is tried again by `look`, not after every result.
            if (waits or turn.limited) and turn.read <= CHEAP:
                self._waiting.add(task_type)
            else:
                self._waiting.discard(task_type)
            return placed

    async def _pump(self, turn: _Round, most: float) -> tuple[bool, int]:
        """Whether tasks are left that wait for a worker, and how many have gone."""
        lanes, placed = LANES, 0
        while placed < most:
            turn.now = self.clock()
            heads = await self.store.heads(turn.task_type, lanes)
            turn.read += len(heads)
            if await self._place_one(turn, heads):
                turn.read = 0
                placed += 1
                continue  # whose turn it is now, the store knows
            if len(heads) < lanes or lanes >= MAX_LANES:
                return bool(heads), placed
            lanes *= 4
        return True, placed

    async def _place_one(self, turn: _Round, heads: Sequence[TaskRecord]) -> bool:
        for head in heads:
            if head.info.id not in turn.tried:
                turn.tried.add(head.info.id)
                if await self._place(turn, head):
                    return True
        return False

    async def _capability(self, task_type: str) -> str:
        """The pinned one; pins never change. What waits for a pick is pinned."""
        found = self._capabilities.get(task_type) or await self.store.capability_of(task_type)
        if found is None:
            return task_type
        self._capabilities[task_type] = found
        return found

    async def _place(self, turn: _Round, head: TaskRecord) -> bool:
        """Whether the task has gone from its place: to a worker, to the queue, or since it was over."""
        info = head.info
        if not info.needs_pick:
            return await self._place_warm(turn, head)
        wishes = _wishes(info)
        if wishes not in turn.hopeless:
            result = await self._to_idle(turn, head)
            if result is _Try.NOBODY:
                turn.hopeless.add(wishes)
            else:
                return result is _Try.MOVED
        if wishes in turn.crowded or _waited(head, turn.now) < AHEAD_AFTER_SECONDS:
            return False
        if await self._ahead(turn, head):
            return True
        turn.crowded.add(wishes)
        return False

    async def _place_warm(self, turn: _Round, head: TaskRecord) -> bool:
        """A task that anybody may run, while some worker holds its models: to that one, or to the queue after a grace."""
        if turn.warm is None:
            result = await self._search(turn, head, replace(strategies.of_default(), order=Order.WARM), Funnel(DEFAULT))
            if result is not _Try.NOBODY:
                return result is _Try.MOVED
            turn.warm = (await self.store.candidates(turn.task_type, Order.WARM, turn.now, count=1)).warm
        if turn.warm and _waited(head, turn.now) < await self._grace(turn):
            return False
        message = self.compiler.task_message(head.info, turn.capability, turn.now)
        done = await self.store.enter(head.info.id, Entry(message), turn.now)
        await self.publisher.flush(done.outbox)
        return True

    async def _to_idle(self, turn: _Round, head: TaskRecord) -> _Try:
        """Looks for an idle worker as the task's strategy says; the default one looks at warm workers first."""
        info = head.info
        strategy = strategies.find(info.dispatch_strategy)
        if strategy is None:
            self._say(f"no strategy {info.dispatch_strategy!r} is loaded here", info)
            return _Try.WAITS
        if strategy.name == DEFAULT:
            result = await self._search(turn, head, replace(strategy, order=Order.WARM), Funnel(DEFAULT))
            if result is not _Try.NOBODY:
                return result
            if await self._warm_is_busy(turn, head):
                return _Try.WAITS
        return await self._search(turn, head, strategy, Funnel(strategy.name))

    async def _warm_is_busy(self, turn: _Round, head: TaskRecord) -> bool:
        """Whether a worker that holds the models suits the task, and its grace has not passed."""
        if not any(candidate.warm and suits(head.info, candidate) for candidate in await self._fleet(turn.task_type, turn.now)):
            return False
        return _waited(head, turn.now) < await self._grace(turn)

    async def _grace(self, turn: _Round) -> float:
        """How long a warm worker is waited for: about as long as loading the models elsewhere would take."""
        return min(load_seconds(turn.task_type, await self._fleet(turn.task_type, turn.now)), self.settings.warm_grace_seconds)

    async def _fleet(self, task_type: str, now: float) -> list[Candidate]:
        """Every worker that knows the task, as it was at most FLEET_SECONDS ago."""
        at, fleet = self._fleets.get(task_type, (float("-inf"), []))
        if now - at >= FLEET_SECONDS:
            fleet = list(await self.store.knowing(task_type, now))
            self._fleets[task_type] = (now, fleet)
        return fleet

    # --- Who -------------------------------------------------------------------------------------------------------------------

    async def _pages(self, info: TaskInfo, order: Order, now: float, funnel: Funnel) -> AsyncIterator[list[Candidate]]:
        """Idle workers that suit, page by page. The index of idle ones is a hint: some may be full by now."""
        offset, count, seed = 0, PAGE, random.getrandbits(31)
        while True:
            page = await self.store.candidates(info.type, order, now, offset=offset, count=count, seed=seed)
            funnel.known, funnel.idle = page.known, page.idle
            yield funnel.narrow(info, [candidate for candidate in page.found if candidate.free > 0])
            if not page.more:
                return
            offset += count
            count = min(MAX_PAGE, 4 * count)

    async def _search(self, turn: _Round, head: TaskRecord, strategy: Strategy, funnel: Funnel) -> _Try:
        """Gives the task to an idle worker; to one that it should avoid only where no other suits it."""
        last: list[Candidate] = []
        async for suitable in self._pages(head.info, strategy.order, turn.now, funnel):
            welcome = [candidate for candidate in suitable if candidate.worker.id not in head.info.avoid]
            last += [candidate for candidate in suitable if candidate.worker.id in head.info.avoid]
            result = await self._offer(turn, head, strategy, funnel, welcome)
            if result is not _Try.NOBODY:
                return result
        turn.read += funnel.looked_at
        return await self._offer(turn, head, strategy, funnel, last)

    async def _offer(
        self, turn: _Round, head: TaskRecord, strategy: Strategy, funnel: Funnel, candidates: Sequence[Candidate]
    ) -> _Try:
        left = list(candidates)
        while left:
            chosen = self._choose(strategy, head.info, left)
            if chosen is None:
                return _Try.WAITS
            funnel.reason = why_chosen(head.info, strategy.order, chosen, len(left))
            match await self._assign(turn, head, chosen, funnel):
                case AssignOutcome.LIMITED:
                    turn.limited = True
                    return _Try.MOVED
                case AssignOutcome.OK | AssignOutcome.GONE:
                    return _Try.MOVED
            left.remove(chosen)
        return _Try.NOBODY

    def _choose(self, strategy: Strategy, info: TaskInfo, candidates: Sequence[Candidate]) -> Candidate | None:
        """What a strategy answers; one that raises or makes up a worker lets the task wait."""
        chosen, problem = strategies.ask(strategy, info, candidates)
        if problem is not None:
            self._say(problem, info)
        return chosen

    async def _assign(
        self, turn: _Round, head: TaskRecord, chosen: Candidate, funnel: Funnel, *, ahead: int = 0
    ) -> AssignOutcome:
        worker = chosen.worker
        funnel.chosen = worker.id
        message = self.compiler.task_message(head.info, turn.capability, turn.now, worker.id)
        decision: JSON = {**funnel.to_dict(), **({"ahead": True} if ahead else {})}
        done = await self.store.assign(head.info.id, worker, turn.capability, message, turn.now, decision, ahead=ahead)
        if done.outcome is AssignOutcome.OK:
            self._given[head.info.id] = turn.now
            if len(self._given) > REMEMBERED:
                del self._given[next(iter(self._given))]
            logger.info(
                "task %s goes to %s: %s", head.info.type, worker.id, funnel.reason,
                extra={"action": "assign", "job_id": head.info.job_id, "task_id": head.info.id, "worker_id": worker.id},
            )  # fmt: skip
        await self.publisher.flush(done.outbox)
        return done.outcome

    async def _ahead(self, turn: _Round, head: TaskRecord) -> bool:
        """Puts a task next in line of a busy worker: plain tasks, which any slot suits, could keep it out for ever."""
        info, fleet = head.info, await self._fleet(turn.task_type, turn.now)
        funnel = Funnel(info.dispatch_strategy, known=len(fleet))
        able = [candidate for candidate in funnel.narrow(info, fleet) if candidate.free == 0 or is_busy(candidate, info.type)]
        able.sort(key=lambda candidate: (candidate.worker.id in info.avoid, candidate.taken / slots_of(candidate)))
        strategy = strategies.find(info.dispatch_strategy)
        if strategy is not None and not strategies.is_built_in(strategy) and able:
            chosen = self._choose(strategy, info, able)
            able = [chosen] if chosen is not None else []
        funnel.reason = "those that suit are busy: it is the next on the least busy one"
        for candidate in able:
            outcome = await self._assign(turn, head, candidate, funnel, ahead=1)
            fleet[fleet.index(candidate)] = replace(candidate, free=-1)
            if outcome is not AssignOutcome.FULL:
                return True
        return False

    async def _move_on(self) -> None:
        """Takes back what lies at a worker that has no slot for it, where another one could begin it now."""
        before = self.clock() - AHEAD_AFTER_SECONDS
        old = [task_id for task_id, at in self._given.items() if at <= before][:LOOKED_AT]
        for task_id in old:
            self._given.pop(task_id, None)
            record = await self.store.get_task(task_id)
            if record is None or record.state is not TaskState.DISPATCHED or record.assigned_to is None:
                continue
            if not (await self.has_no_slot(record) and await self.suits_idle(record.info, record.assigned_to)):
                self._given[task_id] = before  # behind the others
                continue
            done = await self.store.unassign(task_id, self.clock())
            await self.publisher.flush(done.outbox)
            self.wake({record.info.type, *done.picks})

    async def has_no_slot(self, record: TaskRecord) -> bool:
        """Whether the worker that a task was given to has more to do than slots."""
        fleet = await self._fleet(record.info.type, self.clock())
        return any(candidate.worker.id == record.assigned_to and candidate.free < 0 for candidate in fleet)

    async def suits_idle(self, info: TaskInfo, besides: str | None) -> bool:
        """Whether some idle worker besides one could take a task now, and a strategy of the user's would give it to one."""
        strategy = strategies.find(info.dispatch_strategy)
        async for suitable in self._pages(info, Order.COST, self.clock(), Funnel(info.dispatch_strategy)):
            others = [candidate for candidate in suitable if candidate.worker.id != besides]
            if others and (strategy is None or strategies.is_built_in(strategy) or self._choose(strategy, info, others)):
                return True
        return False

    # --- Why -------------------------------------------------------------------------------------------------------------------

    async def explain(self, record: TaskRecord) -> JSON:
        """Why a task waits, as things are now: ``{"funnel", "reason"}``; the funnel is counted over every live worker."""
        return await explain(self.store, record, self.clock(), self.settings.warm_grace_seconds)

    def _say(self, problem: str, info: TaskInfo) -> None:
        """Logs what keeps a task waiting, once: it is tried again twice a second."""
        if len(self._said) > 1000:
            self._said.clear()
        if problem not in self._said:
            self._said.add(problem)
            logger.error("%s; its tasks wait", problem, extra={"action": "dispatch", "job_id": info.job_id, "task_id": info.id})


def _wishes(info: TaskInfo) -> str:
    """What a task asks of a worker, whatever its strategy: tasks with the same wishes suit the same ones."""
    return json.dumps([info.dispatch_strategy, info.resource_requirements, info.max_cost], sort_keys=True)


def _waited(head: TaskRecord, now: float) -> float:
    return now - (head.waiting_since if head.waiting_since is not None else head.info.created_at)
