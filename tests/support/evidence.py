"""Collects what a run has left behind, for the checker: jobs, events, effects, and whatever is left in store and queues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import redis

from avtomatika.jobs import Event, FanOut, Job, JobStatus, SubJob, TaskInfo, TaskState
from avtomatika.state.base import Store
from tests.support import effects
from tests.support.checker import Evidence

#: Families of keys that must be gone once every job has ended, by a pattern of their names.
_GONE = {
    "the outbox": ["outbox", "outbox:at"],
    "the ledger": ["ledger", "ledger:at"],
    "unclaimed attempts": ["unclaimed"],
    "timers": ["timers"],
    "attempts": ["task:*"],
    "branches": ["job:*:branches"],
    "lanes": ["lane:*", "lanes:*", "line:*", "ready:*", "seats:*"],
    "parked lanes": ["parked", "parked:*", "parkings", "specs:*"],
    "queued attempts": ["queued:*"],
    "unrouted attempts": ["unrouted", "unrouted:*"],
    "picks": ["picking"],
    "leases": ["lease:*", "leases"],
    "claims": ["claims:*"],
    "hand-overs": ["handing:*"],
    "deliveries": ["deliveries", "deliveries:*"],
}
_UNACKED = ("unacked", "unacked_index")
_LOOKS = 4


def leftovers(state: redis.Redis, namespace: str, broker: redis.Redis | None = None) -> dict[str, int]:
    """How many entries are left, by what they are; messages in queues and unacknowledged ones where the broker is a Redis."""
    found = {}
    for what, patterns in _GONE.items():
        keys = {key for pattern in patterns for key in _matching(state, f"{namespace}:{pattern}")}
        found[what] = sum(_size(state, key) for key in keys)
    if broker is not None:
        found["unacknowledged messages"] = max(_size(broker, key) for key in _UNACKED)
        lists = [key for key in broker.scan_iter(_type="list", count=1000) if not key.startswith(f"{namespace}:")]
        found["queues"] = sum(_size(broker, key) for key in lists if "pidbox" not in key and "celeryev" not in key)
    return found


def _matching(client: redis.Redis, pattern: str) -> Iterable[str]:
    return client.scan_iter(match=pattern, count=1000) if "*" in pattern else [pattern]


def _size(client: redis.Redis, key: str) -> int:
    commands = {"list": "LLEN", "hash": "HLEN", "set": "SCARD", "zset": "ZCARD"}
    command = commands.get(str(client.type(key)))
    return int(client.execute_command(command, key)) if command else 0  # type: ignore[arg-type]


async def uncovered(store: Store, state: redis.Redis, namespace: str) -> list[str]:
    """Unfinished jobs that neither a claim, a message, an attempt nor a timer leads on: they would stay so for ever.

    Changes go on meanwhile: a job counts only where several looks at the same version have found nothing.
    """
    suspects: dict[str, int] = {}
    for look in range(_LOOKS):
        found = {}
        for status in JobStatus:
            if status.is_terminal or status in (JobStatus.PAUSED, JobStatus.WAITING_FOR_HUMAN):
                continue
            for job_id, _ in await store.in_status(status, limit=100_000):
                if look and job_id not in suspects:
                    continue
                job = await store.load(job_id)
                if job is not None and not job.status.is_terminal and not await _leads_on(store, state, namespace, job):
                    found[job_id] = job.version
        suspects = {j: v for j, v in found.items() if not look or suspects.get(j) == v}
        if not suspects:
            return []
        await asyncio.sleep(0.2)
    jobs = [await store.load(job_id) for job_id in suspects]
    return [f"job {job.id} is {job.status.value} at version {job.version}, and nothing leads it on" for job in jobs if job]


async def _leads_on(store: Store, state: redis.Redis, namespace: str, job: Job) -> bool:
    def in_ledger(key: str) -> bool:
        return bool(state.hexists(f"{namespace}:ledger", key))

    if state.hget(f"{namespace}:job:{job.id}", "c") is not None or in_ledger(f"step:{job.id}:{job.version}"):
        return True
    if job.status is JobStatus.AWAITING_RETRY:
        timers = [f"step|{job.id}|{job.version}", f"aggregate|{job.id}|{job.version}"]
        timers += [f"task|{job.id}|{job.waiting.id}"] if isinstance(job.waiting, TaskInfo) else []
        return any(state.zscore(f"{namespace}:timers", timer) is not None for timer in timers)
    match job.waiting:
        case TaskInfo(id=task_id):
            return in_ledger(f"resume:{task_id}") or await _attempt_leads_on(store, state, namespace, task_id)
        case FanOut(id=fanout_id):
            if in_ledger(f"aggregate:{fanout_id}"):
                return True
            out = [task_id for task_id, result in (await store.branches(job.id)).items() if result is None]
            return bool(out) and all(
                [in_ledger(f"resume:{i}") or await _attempt_leads_on(store, state, namespace, i) for i in out]
            )
        case SubJob(job_id=child_id):
            child = await store.load(child_id)
            return in_ledger(f"child:{child_id}") or (child is not None and not child.status.is_terminal)
    return False


async def _attempt_leads_on(store: Store, state: redis.Redis, namespace: str, task_id: str) -> bool:
    record = await store.get_task(task_id)
    if record is None:
        return False
    match record.state:
        case TaskState.CLAIMED:
            return bool(state.hexists(f"{namespace}:claims:{record.boot_id}", f"t:{task_id}"))
        case TaskState.DISPATCHED:
            return state.zscore(f"{namespace}:unclaimed", task_id) is not None
        case TaskState.DELAYED:
            return state.zscore(f"{namespace}:timers", f"branch|{task_id}") is not None
    return record.state in (TaskState.WAITING, TaskState.UNROUTED)


async def gather(
    store: Store,
    state: redis.Redis,
    namespace: str,
    *,
    log: Path,
    accepted: Collection[str],
    broker: redis.Redis | None = None,
    slots: Mapping[str, int] | None = None,
    limits: Mapping[str, int] | None = None,
    died: Mapping[int, float] | None = None,
    lossy: bool = False,
) -> Evidence:
    """Everything that the checker judges, as it is now. `state` and `broker` are clients with decoded responses."""
    ids = [str(job_id) for job_id in state.zrange(f"{namespace}:jobs", 0, -1)]  # type: ignore[union-attr]
    jobs: dict[str, Job] = {}
    events: dict[str, list[Event]] = {}
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        jobs.update((job.id, job) for job in await store.load_many(chunk))
        pipe = state.pipeline(transaction=False)
        for job_id in chunk:
            pipe.lrange(f"{namespace}:job:{job_id}:events", 0, -1)
        for job_id, rows in zip(chunk, pipe.execute(), strict=True):
            events[job_id] = [Event.from_dict(json.loads(row)) for row in rows]
    rows: Any = state.xrange(f"{namespace}:events")
    return Evidence(
        accepted=accepted,
        jobs=jobs,
        events=events,
        stream=[Event.from_dict(json.loads(fields["e"])) for _, fields in rows],
        runs=effects.read(log),
        leftovers=leftovers(state, namespace, broker),
        uncovered=await uncovered(store, state, namespace),
        slots=slots or {},
        limits=limits or {},
        died=died or {},
        lossy=lossy,
    )
