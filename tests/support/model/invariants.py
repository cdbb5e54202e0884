"""What holds at every moment, and what holds once nothing is left to do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from avtomatika.compiler import aggregate_key, child_key, resume_key, step_key
from avtomatika.jobs import Approval, FanOut, Job, JobStatus, SubJob, TaskInfo, TaskState
from avtomatika.testing.job import path_of
from tests.support.model.world import SLOTS, WORKERS, World

_LIMITS = {"one": 1, "two": 2}
_DECISIONS = ("transition", "task_dispatched", "tasks_dispatched", "sub_job_started", "approval_requested")
_ENDS = ("job_finished", "job_failed", "job_cancelled", "job_quarantined")


class Invariants:
    def __init__(self, world: World) -> None:
        self.world = world
        self.store = world.store
        self.versions: dict[str, int] = {}

    async def always(self) -> None:
        """Between any two things that happen."""
        for job in list(self.store._jobs.values()):
            assert job.version >= self.versions.get(job.id, 0), f"the version of {job} has fallen"
            self.versions[job.id] = job.version
            self._effects(job)
            stuck = self._stuck(job)
            assert stuck is None, f"{stuck}: {job}"
        assert all(count == 1 for count in self.world.begun.values()), "an attempt was begun twice"
        for key, holders in self.store._leases.items():
            most = _LIMITS.get(key)
            assert most is None or len(holders) <= most, f"{len(holders)} hold the limit {key}"
        for candidate in await self.store.knowing("work", self.world.now):
            claimed = self.store._claimed.get(candidate.worker.boot_id, {})
            assert len(claimed) <= SLOTS, f"{candidate.worker.id} has claimed {len(claimed)}"
            assert candidate.free >= -1 or not await self.store.assigned(candidate.worker.boot_id)

    def _effects(self, job: Job) -> None:
        """Each step, each attempt, each branch has taken effect once, however often it was tried."""
        events = self.store._events[job.id]
        kinds = Counter(event.event_type for event in events)
        log = job.state_history.get("log", [])
        by_handler = sum(
            event.event_type in ("job_finished", "job_cancelled", "job_failed") and event.state in ("end", "swept") and bool(log)
            for event in events
        )
        decided = sum(kinds[kind] for kind in _DECISIONS)
        assert decided <= len(log) <= decided + by_handler, f"{decided} decisions, and the log {log} of {job}"
        rest = iter(path_of(events))
        assert all(state in rest for state in log), f"the log {log} does not follow the path {path_of(events)}"
        assert len({event.id for event in events}) == len(events)
        for kind in ("task_finished", "branch_finished"):
            ended = Counter(event.task_id for event in events if event.event_type == kind)
            assert all(count == 1 for count in ended.values()), f"an attempt has ended twice: {ended}"
        ends = sum(kinds[kind] for kind in _ENDS)
        assert ends == kinds["job_retried"] + job.status.is_terminal, f"{ends} ends of {job}"

    # --- Nothing is stuck ------------------------------------------------------------------------------------------------------

    def _stuck(self, job: Job) -> str | None:
        """Why nothing would ever go on with a job; None where something will, even if every process died now."""
        if job.status.is_terminal:
            return None
        claim = self.store._job_claims.get(job.id)
        if claim is not None:  # nobody is at work between two things: only the end of its boot lets go of it
            return None if self._is_dead(claim[0]) else "claimed by a process that is not at work on it and that nobody buries"
        if job.status is JobStatus.PAUSED:
            return None
        if job.status is JobStatus.AWAITING_RETRY and not isinstance(job.waiting, TaskInfo):
            kind = "aggregate" if isinstance(job.waiting, FanOut) else "step"
            keys = (step_key(job.id, job.version), aggregate_key(job.waiting.id) if isinstance(job.waiting, FanOut) else "")
            return self._due(f"{kind}|{job.id}|{job.version}", *keys)
        match job.waiting:
            case TaskInfo() as info if job.status is JobStatus.AWAITING_RETRY:
                return self._due(f"task|{job.id}|{info.id}")
            case TaskInfo() as info:
                return self._attempt_stuck(info.id)
            case FanOut() as fanout:
                return self._fan_out_stuck(job, fanout)
            case SubJob() as child:
                return self._child_stuck(child)
            case Approval() as approval:
                return None if approval.deadline_at is None else self._due(f"approval|{job.id}|{approval.id}")
        return self._due("", step_key(job.id, job.version))

    def _is_dead(self, boot_id: str) -> bool:
        """Whether a boot is over, and the housekeeping will find that out."""
        return boot_id in self.store._boots and all(process.boot_id != boot_id for process in self.world.processes.values())

    def _due(self, timer: str, *keys: str) -> str | None:
        known = timer in self.store._timers or any(key in self.store._ledger for key in keys)
        return None if known else f"neither the timer {timer} nor a message {keys}"

    def _attempt_stuck(self, task_id: str) -> str | None:
        record = self.store._tasks.get(task_id)
        if record is None:
            return f"its attempt {task_id} is not stored"
        match record.state:
            case TaskState.DONE:
                return self._due("", resume_key(task_id))
            case TaskState.CLAIMED:
                assert record.boot_id is not None
                held = task_id in self.store._claimed.get(record.boot_id, ())
                timed = f"timeout|{task_id}" in self.store._timers or resume_key(task_id) in self.store._ledger
                return None if held and timed else f"its attempt is claimed (held: {held}, timed: {timed})"
            case TaskState.DELAYED:
                return self._due(f"branch|{task_id}")
            case TaskState.WAITING:
                key, place = self.store._places[task_id]
                waits = place in self.store._lanes[key.task_type][key].places
                return None if waits else "its attempt is in no lane"
        return None

    def _fan_out_stuck(self, job: Job, fanout: FanOut) -> str | None:
        branches = self.store._branches.get(job.id)
        if branches is None and fanout.total:
            return "its branches are not stored"
        if branches is None or branches.is_clear or fanout.settled:
            return self._due("", aggregate_key(fanout.id))
        out = [task_id for task_id, result in branches.results.values() if result is None]
        return next((why for task_id in out if (why := self._attempt_stuck(task_id)) is not None), None)

    def _child_stuck(self, child: SubJob) -> str | None:
        found = self.store._jobs.get(child.job_id)
        if found is None:
            return "its child is not stored"
        return self._due("", child_key(child.job_id)) if found.status.is_terminal else None

    # --- In the end ------------------------------------------------------------------------------------------------------------

    def drained(self) -> str | None:
        """What is left; None where nothing is."""
        store = self.store
        left: dict[str, Any] = {
            "jobs": [job for job in store._jobs.values() if not job.status.is_terminal],
            "claims of jobs": store._job_claims,
            "attempts": store._tasks,
            "ledger": list(store._ledger),
            "outbox": store._outbox,
            "timers": store._timers,
            "branches": store._branches,
            "leases": store._leases,
            "lanes": store._lanes,
            "claimed": store._claimed,
            "assigned": store._assigned,
            "queued": store._queued,
        }
        said = [f"{name}: {what}" for name, what in left.items() if what]
        return "; ".join(said) or None

    def workers_are_free(self) -> bool:
        return all(not process.attempts for name, process in self.world.processes.items() if name in WORKERS)
