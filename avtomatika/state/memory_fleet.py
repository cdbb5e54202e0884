"""The fleet in memory: registered processes, which of them are idle for a task, outcomes and reputations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from avtomatika.errors import RegistrationError
from avtomatika.jobs import Message, WorkerRecord
from avtomatika.state.base import Candidate, Candidates, CommitResult, Order, Reputation
from avtomatika.state.memory_base import MemoryBase, take_out
from avtomatika.state.values import disowned_by

#: Slots of a worker that names no limit.
UNLIMITED = 1_000_000_000

OUTCOMES_KEPT = 200


class MemoryFleet(MemoryBase):
    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        super().__init__(push)
        #: Workers that failed to take an assigned task, until they are heard of again.
        self._doubted: set[str] = set()
        #: By worker: tasks that it does not take by its latest record, although it had a slot for them.
        self._refused: dict[str, set[str]] = {}
        self._turns: dict[str, dict[str, int]] = {}
        self._picked = 0
        self._outcomes: dict[str, list[tuple[float, str]]] = {}
        self._reputations: dict[str, Reputation] = {}
        self._sockets: dict[str, float] = {}

    def _live(self, now: float) -> list[WorkerRecord]:
        return [record for _, (record, expires) in sorted(self._workers.items()) if expires > now]

    def _known(self, task_type: str, now: float) -> list[WorkerRecord]:
        return [record for record in self._live(now) if task_type in record.tasks]

    def _is_warm(self, task_type: str, now: float) -> bool:
        return any(task_type in record.hot_skills for record in self._known(task_type, now))

    def _slots(self, record: WorkerRecord, capability: str) -> tuple[int, int]:
        """Slots of a capability that are free, and slots taken over all of them."""
        held = [*self._claimed.get(record.boot_id, {}).values(), *self._assigned.get(record.boot_id, {}).values()]
        taken = Counter(held)
        most = record.max_concurrent_tasks or UNLIMITED
        return min(record.capabilities.get(capability, most) - taken[capability], most - len(held)), len(held)

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        found = self._workers.get(worker_id)
        if found is None or found[0].boot_id != boot_id or boot_id not in self._boots:
            return False
        self._workers[worker_id] = (replace(record or found[0], seen_at=now), now + ttl)
        self._boots[boot_id] = now + ttl
        if record is not None or worker_id in self._doubted or self._refused.get(worker_id) or found[1] <= now:
            self._note_refused(self._workers[worker_id][0])  # its record is what it said last
        self._doubted.discard(worker_id)
        return True

    def _note_refused(self, record: WorkerRecord) -> None:
        """One that says that it is busy because it is full takes tasks again as soon as an attempt of it has ended."""
        takes = record.supported_tasks if record.status == "idle" else ()
        others = set(record.tasks).difference(takes)
        self._refused[record.id] = {task for task in others if self._slots(record, self._pins.get(task, task))[0] > 0}

    def _refuse(self, worker_id: str, boot_id: str, task_type: str) -> None:
        """An attempt is over that its worker has not ended: until its next record nobody knows whether the slot is free."""
        found = self._workers.get(worker_id)
        if found is not None and found[0].boot_id == boot_id:
            capability = self._pins.get(task_type, task_type)
            same = {task for task in found[0].tasks if self._pins.get(task, task) == capability}
            self._refused.setdefault(worker_id, set()).update(same)

    def _forget_worker(self, worker_id: str, boot_id: str) -> WorkerRecord | None:
        found = self._workers.get(worker_id)
        if found is None or found[0].boot_id != boot_id:
            return None
        del self._workers[worker_id]
        self._doubted.discard(worker_id)
        self._refused.pop(worker_id, None)
        self._turns.pop(worker_id, None)
        return found[0]

    async def pin_tasks(self, tasks: dict[str, str | None]) -> dict[str, str]:
        for task, capability in tasks.items():
            pinned = self._pins.get(task)
            if pinned is not None and capability is not None and pinned != capability:
                raise RegistrationError(
                    f"task {task!r} belongs to the capability {pinned!r}, pinned by its first worker, not to {capability!r}; "
                    f"declare it with task_type={pinned!r}, or give it another name"
                )
        return {task: self._pins.setdefault(task, capability or task) for task, capability in tasks.items()}

    async def capability_of(self, task_type: str) -> str | None:
        return self._pins.get(task_type)

    async def capabilities(self) -> dict[str, str]:
        return dict(self._pins)

    async def ended_boots(self, now: float) -> Sequence[str]:
        return [boot for boot, expires in self._boots.items() if expires <= now]

    async def claims(self, boot_id: str) -> tuple[dict[str, str], Sequence[str]]:
        jobs = {job: key for job, (boot, key) in self._job_claims.items() if boot == boot_id}
        return jobs, sorted(self._claimed.get(boot_id, ()))

    async def assigned(self, boot_id: str) -> Sequence[str]:
        return sorted(self._assigned.get(boot_id, ()))

    async def disown(self, boot_id: str, jobs: dict[str, str], task_ids: Sequence[str], now: float) -> CommitResult:
        ended = disowned_by(boot_id)
        for job_id, key in jobs.items():
            if self._job_claims.get(job_id) == (boot_id, key):
                self._job_claims[job_id] = (ended, key)
                self._boots[ended] = 0
        for task_id in task_ids:
            capability, record = take_out(self._claimed, boot_id, task_id), self._tasks.get(task_id)
            if capability is not None and record is not None and record.boot_id == boot_id:
                self._tasks[task_id] = replace(record, boot_id=ended)
                self._claimed.setdefault(ended, {})[task_id] = capability
                self._claim_calls.pop(task_id, None)
                self._boots[ended] = 0
        return CommitResult(True)

    async def drop_claim(self, boot_id: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        if job_id is not None and self._job_claims.get(job_id, ("", ""))[0] == boot_id:
            del self._job_claims[job_id]
        if task_id is not None:
            take_out(self._claimed, boot_id, task_id)

    def _candidate(self, record: WorkerRecord, task_type: str) -> Candidate:
        free, taken = self._slots(record, self._pins.get(task_type, task_type))
        reputation = self._reputations.get(record.id, Reputation()).value
        turn = self._turns.get(record.id, {}).get(task_type, 0)
        doubted = record.id in self._doubted or task_type in self._refused.get(record.id, ())
        return Candidate(record, free, taken, reputation, turn, task_type in record.hot_skills, free > 0 and not doubted)

    async def knowing(self, task_type: str, now: float) -> Sequence[Candidate]:
        return [self._candidate(record, task_type) for record in self._known(task_type, now)]

    async def candidates(
        self, task_type: str, order: Order, now: float, *, offset: int = 0, count: int = 16, seed: int = 0
    ) -> Candidates:
        known = [self._candidate(record, task_type) for record in self._known(task_type, now)]
        idle = [candidate for candidate in known if candidate.idle]
        rows = sorted((_value(candidate, order, task_type), n) for n, candidate in enumerate(idle))
        if order is Order.WARM:
            rows = [row for row in rows if idle[row[1]].warm]
        ties = sum(value == rows[0][0] for value, _ in rows)
        turn = seed % ties if ties else 0
        turned = rows[turn:ties] + rows[:turn] + rows[ties:]
        found = tuple(idle[n] for _, n in turned[offset : offset + count])
        return Candidates(found, len(known), len(idle), sum(c.warm for c in known), offset + count < len(rows))

    async def note_outcome(self, worker_id: str, outcome: str, now: float) -> None:
        self._note_outcome(worker_id, outcome, now)

    def _note_outcome(self, worker_id: str, outcome: str, now: float) -> None:
        self._outcomes[worker_id] = [*self._outcomes.get(worker_id, ()), (now, outcome)][-OUTCOMES_KEPT:]

    async def outcomes(self, worker_id: str) -> Sequence[tuple[float, str]]:
        return list(self._outcomes.get(worker_id, ()))

    async def set_reputation(self, worker_id: str, reputation: Reputation) -> None:
        self._reputations[worker_id] = reputation

    async def reputations(self, worker_ids: Sequence[str]) -> dict[str, Reputation]:
        return {i: self._reputations[i] for i in worker_ids if i in self._reputations}


def _value(candidate: Candidate, order: Order, task_type: str) -> float:
    """What an order sorts by, lowest first."""
    cost = candidate.worker.cost_of(task_type)
    match order:
        case Order.LOAD:
            return candidate.taken
        case Order.TURN:
            return candidate.turn
        case Order.VALUE:
            return cost / max(candidate.reputation, 0.001)
        case _:
            return cost
