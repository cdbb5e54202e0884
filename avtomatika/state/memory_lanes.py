"""How tasks wait in memory: lanes, shares and limits, and what follows when one goes."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from avtomatika.jobs import Limit, Message, TaskInfo, TaskState, WorkerRecord
from avtomatika.state.base import WARM, CommitResult, Entry, NewsKind, TaskRecord, queue_room
from avtomatika.state.memory_base import Change, take_out
from avtomatika.state.memory_fleet import MemoryFleet


def nobody(task_type: str) -> str:
    """The name of the limit that keeps a task waiting while no live worker knows its type; no user's has a line's end."""
    return f"\n{task_type}"


@dataclass(frozen=True, slots=True)
class LaneKey:
    """`signature` is None for a lane that waits for the queue."""

    task_type: str
    fairness_key: str
    limits: tuple[Limit, ...]
    plain: bool
    signature: str | None


#: The place of a task in its lane: highest priority first, then oldest; then its id.
Place = tuple[float, int, str]


@dataclass
class Lane:
    """`blocked` counts on with each parking, and is kept until it is served: who has waited longest tries first."""

    places: list[Place] = field(default_factory=list)
    parked_on: str | None = None
    blocked: int | None = None


@dataclass
class Shares:
    """The virtual time of each fairness key of a task type, and of the last one that was served."""

    times: dict[str, float] = field(default_factory=dict)
    served: float = 0.0


class MemoryLanes(MemoryFleet):
    def __init__(self, push: Callable[[Message], None] | None = None) -> None:
        super().__init__(push)
        self._numbers = count()
        #: By task type.
        self._lanes: dict[str, dict[LaneKey, Lane]] = {}
        self._shares: dict[str, Shares] = {}
        self._queued: dict[str, set[str]] = {}
        #: Of each task that waits or is assigned: its lane and its place there; of one that waits for the queue: its message.
        self._places: dict[str, tuple[LaneKey, Place]] = {}
        self._messages: dict[str, Message] = {}
        #: By limit key.
        self._leases: dict[str, set[str]] = {}
        self._starts: dict[str, list[float]] = {}
        self._windows: dict[str, float] = {}

    # Limits

    def _used_up(self, info: TaskInfo, now: float) -> tuple[str, float | None] | None:
        """The first limit that lets no more go, and when its time comes where it is a rate.

        What nobody can take holds no lease of others: a limited task for a queue waits for a worker as if for a limit.
        """
        for_queue = not info.is_plain and self._places[info.id][0].signature is None
        if info.limits and for_queue and not self._known(info.type, now):
            return nobody(info.type), None
        for limit in info.limits:
            if limit.seconds is None:
                if len(self._leases.get(limit.key, ())) >= limit.count:
                    return limit.key, None
                continue
            starts = [at for at in self._starts.get(limit.key, ()) if at > now - limit.seconds]
            if len(starts) >= limit.count:
                return limit.key, starts[len(starts) - limit.count] + limit.seconds
        return None

    def _start(self, info: TaskInfo, now: float) -> None:
        for key in {limit.key for limit in info.limits if limit.seconds is None}:
            self._leases.setdefault(key, set()).add(info.id)
        for limit in info.limits:
            if limit.seconds is not None:
                self._windows[limit.key] = max(limit.seconds, self._windows.get(limit.key, 0.0))
        for key in {limit.key for limit in info.limits if limit.seconds is not None}:
            kept = [at for at in self._starts.get(key, ()) if at > now - self._windows[key]]
            self._starts[key] = [*kept, now]

    def _end_leases(self, info: TaskInfo, change: Change) -> None:
        for key in dict.fromkeys(limit.key for limit in info.limits):
            holders = self._leases.get(key, set())
            if info.id in holders:
                holders.discard(info.id)
                if not holders:
                    del self._leases[key]
                self._unpark(key, change)

    def _park(self, lane: Lane, limit_key: str, due: float | None) -> None:
        lane.parked_on = limit_key
        if lane.blocked is None:
            lane.blocked = next(self._numbers)
        if due is not None:
            timer = f"limit|{limit_key}"
            self._timers[timer] = min(due, self._timers.get(timer, due))

    def _unpark(self, limit_key: str, change: Change) -> None:
        if self._timers.get(f"limit|{limit_key}", change.now + 1) <= change.now:
            del self._timers[f"limit|{limit_key}"]  # who is parked again sets it anew
        parked = [
            (lane.blocked or 0, key)
            for lanes in self._lanes.values()
            for key, lane in lanes.items()
            if lane.parked_on == limit_key
        ]
        for _, key in sorted(parked, key=lambda row: row[0]):
            self._come_back(key)
            self._lanes[key.task_type][key].parked_on = None
            change.types[key.task_type] = None
            if key.signature is not None:
                change.picks.add(key.task_type)

    async def unpark(self, limit_key: str, now: float) -> CommitResult:
        change = Change(now)
        self._unpark(limit_key, change)
        self._flow(change)
        return change.result()

    async def sweep_leases(self, now: float) -> CommitResult:
        change = Change(now)
        held = (TaskState.DISPATCHED, TaskState.CLAIMED)
        for key, holders in list(self._leases.items()):
            over = {i for i in holders if i not in self._tasks or self._tasks[i].state not in held}
            if over:
                self._leases[key] = holders - over
                if not self._leases[key]:
                    del self._leases[key]
                self._unpark(key, change)
        self._flow(change)
        return change.result()

    async def register(self, record: WorkerRecord, now: float, ttl: float) -> CommitResult:
        before = self._workers.get(record.id)
        if before is not None and before[0].boot_id != record.boot_id:
            self._boots[before[0].boot_id] = 0
            self._turns.pop(record.id, None)
        self._workers[record.id] = (record, now + ttl)
        self._boots[record.boot_id] = now + ttl
        self._doubted.discard(record.id)
        self._note_refused(record)
        change = Change(now, types=dict.fromkeys(record.tasks))  # there is more room
        for task_type in record.tasks:
            self._unpark(nobody(task_type), change)
        self._flow(change)
        return change.result()

    async def unregister(self, worker_id: str, boot_id: str, now: float) -> CommitResult:
        change = Change(now)
        self._forget(worker_id, boot_id, change)
        self._flow(change)
        if boot_id in self._boots:
            self._boots[boot_id] = 0
        return change.result()

    async def workers(self, now: float) -> Sequence[WorkerRecord]:
        change = Change(now)
        for record, expires in list(self._workers.values()):
            if expires <= now:
                self._forget(record.id, record.boot_id, change)
        self._flow(change)
        return [replace(record, seen_at=record.seen_at or record.registered_at) for record in self._live(now)]

    async def forget_boot(self, boot_id: str, now: float) -> CommitResult:
        change = Change(now)
        jobs = any(boot == boot_id for boot, _ in self._job_claims.values())
        if jobs or boot_id in self._claimed or boot_id in self._assigned or self._boots.get(boot_id, 0) > now:
            return change.result()
        self._boots.pop(boot_id, None)
        self._stops.pop(boot_id, None)
        self._handing.pop(boot_id, None)
        for record, _ in list(self._workers.values()):
            self._forget(record.id, boot_id, change)
        self._flow(change)
        return change.result()

    def _forget(self, worker_id: str, boot_id: str, change: Change) -> None:
        """Forgets a worker. What only it knew and what holds leases of others is called back out of the queue."""
        record = self._forget_worker(worker_id, boot_id)
        for task_type in record.tasks if record is not None else ():
            if not self._known(task_type, change.now):
                for task_id in sorted(self._queued.get(task_type, ())):
                    self._call_back(task_id, change)

    def _call_back(self, task_id: str, change: Change) -> None:
        info = self._tasks[task_id].info
        if info.limits and task_id in self._messages:
            self._unqueue(info, change)
            self._tasks[task_id] = replace(self._tasks[task_id], state=TaskState.WAITING, waiting_since=change.now)
            self._wait(task_id, change)
            self._end_leases(info, change)

    # Lanes

    def _enter(self, record: TaskRecord, entry: Entry, change: Change) -> None:
        """Lets an attempt wait, at its old place in time if it has one."""
        info = record.info
        signature = entry.signature if entry.message is None else None
        if entry.unless_warm and self._is_warm(info.type, change.now):
            signature = WARM
        before = self._places.get(info.id)
        place = (-info.priority, before[1][1] if before is not None else next(self._numbers), info.id)
        self._leave_lane(info.id)
        self._places[info.id] = (LaneKey(info.type, info.fairness_key, info.limits, info.is_plain, signature), place)
        self._messages.pop(info.id, None)
        if signature is None:
            assert entry.message is not None
            self._messages[info.id] = entry.message
        self._tasks[info.id] = replace(record, state=TaskState.WAITING)
        change.entered.append(info.id)
        self._wait(info.id, change)

    def _wait(self, task_id: str, change: Change) -> None:
        """Puts an attempt into its lane."""
        key, place = self._places[task_id]
        lane = self._lanes.get(key.task_type, {}).get(key)
        if lane is None:
            self._come_back(key)
            lane = self._lanes.setdefault(key.task_type, {})[key] = Lane()
        insort(lane.places, place)
        change.types[key.task_type] = None
        if key.signature is not None and lane.parked_on is None:
            change.picks.add(key.task_type)

    def _leave_lane(self, task_id: str) -> None:
        if task_id not in self._places:
            return
        key, place = self._places[task_id]
        lanes = self._lanes.get(key.task_type, {})
        lane = lanes.get(key)
        if lane is None or place not in lane.places:
            return
        lane.places.remove(place)
        if not lane.places:
            del lanes[key]
        if not lanes:
            del self._lanes[key.task_type]
            self._shares.pop(key.task_type, None)

    def _come_back(self, key: LaneKey) -> None:
        """A lane is about to wait for its turn: its fairness key has saved up nothing while none of its lanes did."""
        shares = self._shares.setdefault(key.task_type, Shares())
        lanes = self._lanes.get(key.task_type, {})
        if not any(other.fairness_key == key.fairness_key and lane.parked_on is None for other, lane in lanes.items()):
            shares.times[key.fairness_key] = max(shares.times.get(key.fairness_key, 0.0), shares.served)

    def _serve(self, info: TaskInfo, change: Change) -> None:
        """The task's turn has come: it leaves its lane, counts against its limits, and its key moves on by its share."""
        key, _ = self._places[info.id]
        shares = self._shares[info.type]
        shares.served = max(shares.times[key.fairness_key], shares.served)
        shares.times[key.fairness_key] = shares.served + 1 / info.fairness_weight
        self._lanes[info.type][key].blocked = None
        self._leave_lane(info.id)
        self._start(info, change.now)

    def _turn(self, key: LaneKey) -> tuple[float, Place]:
        return self._shares[key.task_type].times[key.fairness_key], self._lanes[key.task_type][key].places[0]

    def _ready(self, task_type: str, *, pick: bool) -> list[LaneKey]:
        """Lanes that are not parked, in the order of their turns."""
        lanes = self._lanes.get(task_type, {})
        ready = [key for key, lane in lanes.items() if lane.parked_on is None and (key.signature is not None) is pick]
        return sorted(ready, key=self._turn)

    # What goes

    def _flow(self, change: Change) -> None:
        """Sends what waits for a queue, while there is room in it; who still waits then, waits from now on."""
        while change.types:
            task_type = next(iter(change.types))
            del change.types[task_type]
            self._admit(task_type, change)
        for task_id in change.entered:
            record = self._tasks.get(task_id)
            if record is not None and record.state is TaskState.WAITING and record.waiting_since is None:
                self._tasks[task_id] = replace(record, waiting_since=change.now)

    def _admit(self, task_type: str, change: Change) -> None:
        room = queue_room(len(self._known(task_type, change.now)))
        while True:
            full = len(self._queued.get(task_type, ())) >= room
            ready = [key for key in self._ready(task_type, pick=False) if key.plain or not full]
            if not ready:
                return
            lane = self._lanes[task_type][ready[0]]
            info = self._tasks[lane.places[0][2]].info
            used_up = self._used_up(info, change.now)
            if used_up is not None:
                self._park(lane, *used_up)
                continue
            self._serve(info, change)
            self._send(info, change)

    def _send(self, info: TaskInfo, change: Change) -> None:
        """The message of a task goes to its queue. One with limits may be called back."""
        message = self._messages[info.id]
        if info.is_plain or not info.limits:
            self._goes_for_good(info.id)
        self._dispatched(info, change.now)
        if info.is_plain and info.timeout_seconds is not None:
            self._timers[f"timeout|{info.id}"] = change.now + info.timeout_seconds
        self._publish(message, change)

    def _goes_for_good(self, task_id: str) -> None:
        self._places.pop(task_id, None)
        self._messages.pop(task_id, None)

    def _dispatched(self, info: TaskInfo, now: float) -> None:
        """An attempt lies in a queue that anybody may take it from."""
        self._tasks[info.id] = replace(self._tasks[info.id], state=TaskState.DISPATCHED, dispatched_at=now)
        if not info.is_plain:
            self._queued.setdefault(info.type, set()).add(info.id)
            self._tell(NewsKind.TASK, info.type)

    def _unqueue(self, info: TaskInfo, change: Change) -> None:
        """An attempt lies in the queue no more: others may."""
        queued = self._queued.get(info.type, set())
        queued.discard(info.id)
        if not queued:
            self._queued.pop(info.type, None)
        change.types[info.type] = None

    def _tell_stop(self, worker_id: str, boot_id: str, info: TaskInfo, change: Change) -> None:
        if self._boots.get(boot_id, 0) <= change.now:
            return
        self._stops.setdefault(boot_id, {})[info.id] = info.job_id
        found = self._workers.get(worker_id)
        if found is not None and found[0].http:
            self._tell(NewsKind.STOP, worker_id, info.id, info.job_id)
        else:
            change.stops.append((worker_id, info.id))

    def _cancel_task(self, task_id: str, change: Change) -> None:
        """An attempt is asked to stop: nobody may begin it any more; one that runs goes on until its worker reports."""
        record = self._tasks.get(task_id)
        if record is None:
            return
        self._tasks[task_id] = replace(record, cancel_requested=True)
        if record.worker_id is not None and record.boot_id is not None and record.state is TaskState.CLAIMED:
            self._tell_stop(record.worker_id, record.boot_id, record.info, change)

    def _drop_task(self, task_id: str, change: Change) -> None:
        """An attempt is over. The worker of a claimed one is to stop."""
        for kind in ("timeout", "dispatch", "cancel"):
            self._timers.pop(f"{kind}|{task_id}", None)
        record = self._tasks.pop(task_id, None)
        self._claim_calls.pop(task_id, None)
        if record is None:
            return
        self._leave_lane(task_id)
        self._goes_for_good(task_id)
        for boot_id in list(self._assigned):
            take_out(self._assigned, boot_id, task_id)
        if record.state is TaskState.CLAIMED:
            assert record.worker_id is not None
            assert record.boot_id is not None
            take_out(self._claimed, record.boot_id, task_id)
            self._tell_stop(record.worker_id, record.boot_id, record.info, change)
            self._refuse(record.worker_id, record.boot_id, record.info.type)
        self._end_leases(record.info, change)  # first: those who wait for a lease have their own order
        self._unqueue(record.info, change)
