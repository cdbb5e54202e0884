"""What people ask of a job while it lives or after it has failed: cancel it, pause it, let it go on, try it again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

from avtomatika.broker.control import revoke
from avtomatika.engine.clock import deadline_of
from avtomatika.engine.draft import Draft
from avtomatika.engine.edits import NO_EDIT, Edit
from avtomatika.engine.endings import drop_all, plain_tasks
from avtomatika.engine.mishaps import over_task
from avtomatika.engine.results import Engine
from avtomatika.engine.verdict import Judgement, Verdict, by_transition
from avtomatika.errors import FailureCode, HoldChangedError, UnknownJobError, WrongStateError
from avtomatika.jobs import Approval, Failure, FanOut, Job, JobStatus, Result, SubJob, TaskInfo, TaskState, Timer
from avtomatika.state.base import Commit, Hold, TaskRecord
from avtomatika.state.listed import HELD_BY, LISTED

logger = logging.getLogger(__name__)

#: How long an order waits for the step that is under way; then that one's decision does not count.
HANDLER_SECONDS = 1.0
LOOK_SECONDS = 0.02

#: The status with which a task says that it goes on later, and the transition for it.
PAUSED = "paused"

#: Of a fan-out's attempts, how many are looked at together.
_AT_ONCE = 50
_RUNS = (TaskState.CLAIMED, TaskState.DONE)
_MAY_RETRY = (JobStatus.FAILED, JobStatus.QUARANTINED)


def cancelled(transitions: Mapping[str, str], reason: str | None) -> Judgement:
    """Where a job goes whose task, child or question was cancelled: to its `cancelled` transition, or to its end."""
    return by_transition(transitions, Result.CANCELLED, reason, "")


def _as_held(draft: Draft, hold: Hold | None) -> Commit:
    """A change that was drafted for a blueprint that is held back by this, or by nothing, and applies only while that is so."""
    return replace(draft.commit(), hold=hold, unheld=hold is None and draft.job.blueprint_name in LISTED)


class Orders:
    """Each order is a compare-and-set on the job's version, repeated until it fits; so it never loses against the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = engine.store

    async def cancel(
        self, job_id: str, *, who: str = "", force: bool = False, settles: tuple[str, ...] = ()
    ) -> tuple[Job, TaskRecord | None]:
        """Cancels a job. What has not started is removed; what runs is told to stop, and the job ends after its clean-up.

        A second order changes nothing, unless it is forced: then the job ends at once, whatever its clean-up does.

        Returns:
            The job, and the attempt that was told to stop, if one runs.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it has ended.
        """
        while True:
            job = await self._live(job_id)
            if job.cancel_requested and not force:
                await self._store.settle(settles)
                return job, await self._running(job)
            draft = Draft(job, self._engine.clock(), self._engine.compiler, settles=settles)
            draft.event("cancel_requested", state=job.current_state, details={"by": who, **({"force": True} if force else {})})
            draft.set(cancel_requested=True, pause_requested=False)
            running, plain = await self._stop(draft, who, force), await plain_tasks(self._store, job)
            commit = draft.commit()
            if await self._commit(commit):
                if plain:
                    await revoke(self._engine.compiler.app, plain)
                logger.info("job cancelled by %s", who or "nobody", extra={"action": "cancel", "job_id": job_id})
                return commit.job, running

    async def _stop(self, draft: Draft, who: str, force: bool) -> TaskRecord | None:
        """Puts into the draft what stops the job; the attempt that runs, where its end has to be waited for."""
        job = draft.job
        transitions: Mapping[str, str] = {}
        match job.waiting:
            case TaskInfo() as info:
                record = await self._running(job)
                if record is not None and not force:
                    draft.set(cancel_of=info.id)
                    draft.cancel_tasks.append(info.id)
                    draft.timers.append(Timer("cancel", info.id, draft.now + self._engine.settings.cancel_grace_seconds))
                    return record
                if not (force or info.is_plain):
                    draft.unbegun = (info.id,)
                transitions = info.transitions
            case SubJob() as child:
                draft.messages.append(self._engine.compiler.cancel_message(child.job_id, who, draft.now, force=force))
                if not force:
                    draft.set(cancel_of=child.job_id)
                    return None
            case Approval() as approval:
                transitions = approval.transitions
        draft.leave_waiting()
        judgement = cancelled({} if force else transitions, f"cancelled by {who}" if who else "cancelled")
        if judgement.verdict is Verdict.NEXT:
            assert judgement.state is not None
            draft.events[-1] = replace(draft.events[-1], next_state=judgement.state)  # the order leads there
            draft.go_to(judgement.state)
        else:
            draft.end(JobStatus.CANCELLED, judgement.reason)
        return None

    async def _running(self, job: Job) -> TaskRecord | None:
        if not isinstance(job.waiting, TaskInfo) or job.waiting.is_plain:
            return None
        record = await self._store.get_task(job.waiting.id)
        return record if record is not None and record.state in _RUNS else None

    async def pause(self, job_id: str, *, who: str = "", hold: Hold | None = None) -> Job:
        """Pauses a job before its next step: at once where it is between two, else when what it waits for has ended.

        What no worker has begun is taken back, and the job pauses there: a task with a `paused` transition, a batch of hosts.

        Args:
            hold: it is paused since its blueprint is held back by this, and only while it is. What has begun goes on then.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it has ended, or is being cancelled.
            HoldChangedError: `hold` is over.
        """
        while True:
            job = await self._live(job_id)
            if hold is not None and await self._hold_of(job) != hold:
                raise HoldChangedError("the queue is held no longer by this order")
            if job.cancel_requested:
                raise WrongStateError(f"job {job_id} is being cancelled: it cannot be paused")
            if job.status is JobStatus.PAUSED or job.pause_requested:
                return job
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            draft.event("pause_requested", state=job.current_state, details={"by": who})
            if job.waiting is None or (job.status is JobStatus.AWAITING_RETRY and isinstance(job.waiting, FanOut)):
                draft.pause()  # an aggregator between two tries, too: its branches have ended
            elif (back := await self._taken_back(job)) is not None:
                state, draft.unbegun = back
                draft.leave_waiting()
                draft.enter(state)
                draft.pause()
            elif hold is not None:
                return job
            else:
                draft.set(pause_requested=True)
            commit = replace(draft.commit(), hold=hold)
            if await self._commit(commit):
                return commit.job

    async def _taken_back(self, job: Job) -> tuple[str, tuple[str, ...]] | None:
        """Where a job goes on whose attempts (second item) no worker has begun; None where it has to wait for one of them."""
        match job.waiting:
            case TaskInfo(id=task_id, transitions=transitions) if PAUSED in transitions:
                return None if await self._running(job) is not None else (transitions[PAUSED], (task_id,))
            case FanOut() if job.blueprint_name in LISTED:
                branches = await self._store.branches(job.id)
                ended = any(result is not None for result in branches.values())
                return None if ended or await self._have_begun(tuple(branches)) else (job.current_state, tuple(branches))
        return None

    async def _have_begun(self, task_ids: tuple[str, ...]) -> bool:
        for begin in range(0, len(task_ids), _AT_ONCE):
            records = await asyncio.gather(*map(self._store.get_task, task_ids[begin : begin + _AT_ONCE]))
            if any(record is not None and record.state in _RUNS for record in records):
                return True
        return False

    async def resume(self, job_id: str, *, who: str = "") -> Job:
        """Lets a paused job go on; one of a blueprint that is held back goes on once that is held no longer.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it is not paused, and nobody has asked for it.
            HoldChangedError: `who` is the queue, and it is held again.
        """
        while True:
            job = await self._live(job_id)
            if job.status is not JobStatus.PAUSED and not job.pause_requested:
                raise WrongStateError(f"job {job_id} is {job.status.value}: only a paused job can be resumed")
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            draft.event("job_resumed", state=job.current_state, details={"by": who})
            draft.set(pause_requested=False)
            commit = draft.commit() if job.status is not JobStatus.PAUSED else await self._resumed(draft, who)
            if await self._commit(commit):
                return commit.job

    async def _resumed(self, draft: Draft, who: str) -> Commit:
        """How a paused job goes on: at once, or with the queue."""
        job = draft.job
        hold = await self._hold_of(job)
        if hold is None:
            draft.set(error_message=None)
            self._go_on(draft)
        elif who == HELD_BY:
            raise HoldChangedError("the queue is held again")
        else:
            draft.event("pause_requested", state=job.current_state, details={"by": HELD_BY})
        return _as_held(draft, hold)

    async def _hold_of(self, job: Job) -> Hold | None:
        return await self._store.held(job.blueprint_name) if job.blueprint_name in LISTED else None

    def _go_on(self, draft: Draft) -> None:
        job, compiler = draft.job, self._engine.compiler
        if isinstance(job.waiting, FanOut):  # its branches have ended: the aggregator is the next step
            draft.set(status=JobStatus.WAITING_FOR_PARALLEL_TASKS)
            draft.messages.append(compiler.aggregate_message(job.id, job.waiting.id, draft.now))
        else:
            draft.set(status=JobStatus.RUNNING)
            draft.messages.append(compiler.step_message(job.id, draft.next_version, draft.now))

    async def retry(self, job_id: str, *, who: str = "", edit: Edit = NO_EDIT) -> Job:
        """Tries a failed or quarantined job again, from the state in which it went wrong; its time begins anew.

        One of a blueprint that is held back is paused there, until that is held no longer.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it has not failed; or the state to go on with is none of its blueprint; or it is a queue task,
                whose data were admitted by its policy, and is to be edited.
        """
        while True:
            job = await self.load(job_id)
            if job.status not in _MAY_RETRY:
                raise WrongStateError(f"job {job_id} is {job.status.value}: only a failed or quarantined job can be tried again")
            await self._assert_nobody_has_gone_on(job)
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            state = await self._state_to_retry(job, edit.state)
            details = {"by": who, "was": job.status.value, "reason": job.error_message, **edit.details}
            draft.event("job_retried", state=job.current_state, next_state=state, details=details)
            draft.set(error_message=None, failure=None, result=None, cancel_requested=False, retry_count=job.retry_count + 1)
            blueprint = self._engine.blueprints.get(job.blueprint_name)
            deadline = deadline_of(blueprint, self._engine.settings, draft.now)
            draft.set(blueprint_version=blueprint.version, pinned=False, deadline_at=deadline)
            if blueprint.admit is not None and edit != NO_EDIT:
                raise WrongStateError(f"job {job_id} is a queue task, tried again as it was admitted: push another one instead")
            draft.set(**edit.applied(job))
            hold = await self._hold_of(job)
            if hold is not None:
                draft.event("pause_requested", state=state, details={"by": HELD_BY})
                draft.set(pause_requested=True)
            draft.go_to(state)
            commit = _as_held(draft, hold)
            if await self._commit(commit):
                return commit.job

    async def quarantine(self, job_id: str, *, who: str = "", reason: str = "") -> Job:
        """Puts a live job aside: what it waits for is dropped, workers and children are told to stop.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it has ended.
        """
        while True:
            job = await self._live(job_id)
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            plain = await plain_tasks(self._store, job)
            task = over_task(job.waiting, FailureCode.BY_HAND) if isinstance(job.waiting, TaskInfo) else None
            drop_all(draft, who)
            said = f"quarantined by {who or 'nobody'}{f': {reason}' if reason else ''}"
            draft.set(cancel_requested=False)
            draft.end(JobStatus.QUARANTINED, said, task or Failure(FailureCode.BY_HAND, job.step_failures))
            commit = draft.commit()
            if await self._commit(commit):
                if plain:
                    await revoke(self._engine.compiler.app, plain)
                return commit.job

    async def discard(self, job_id: str, *, who: str = "", reason: str = "") -> Job:
        """Gives a quarantined job up for good: it ends as cancelled. Nobody is told once more; why it was there stays.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it is not in quarantine.
        """
        while True:
            job = await self.load(job_id)
            if job.status is not JobStatus.QUARANTINED:
                raise WrongStateError(f"job {job_id} is {job.status.value}: only a quarantined job can be discarded")
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            draft.event("job_discarded", state=job.current_state, details={"by": who, "reason": reason, "was": job.error_message})
            said = f"discarded by {who or 'nobody'}{f': {reason}' if reason else ''}"
            draft.set(status=JobStatus.CANCELLED, error_message=f"{said} (quarantined: {job.error_message or 'no reason'})")
            commit = draft.commit()
            if await self._commit(commit):
                return commit.job

    async def _assert_nobody_has_gone_on(self, job: Job) -> None:
        """A child whose parent was told of its failure: nobody would take what it comes to now."""
        if job.parent_job_id is None:
            return
        parent = await self._store.load(job.parent_job_id)
        if parent is None or not isinstance(parent.waiting, SubJob) or parent.waiting.job_id != job.id:
            raise WrongStateError(
                f"job {job.id} is a child of job {job.parent_job_id}, which has gone on without it: try that one again"
            )

    async def _state_to_retry(self, job: Job, wanted: str | None) -> str:
        """The state that is wanted, else the job's; where that is an end state, the latest one that decided something."""
        blueprint = self._engine.blueprints.get(job.blueprint_name)
        state, seen = wanted or job.current_state, {job.current_state}
        if not blueprint.has_state(state):
            raise WrongStateError(
                f"blueprint {blueprint.name!r} has no state {state!r} to go on with (any more): name another one "
                f"({', '.join(blueprint.states)}), as in `avtomatika quarantine retry {job.id} --state STATE`"
            )
        if wanted is not None:
            return wanted
        for event in reversed(await self._store.events(job.id)):
            if state not in blueprint.end_states:
                return state
            came_from = event.state is not None and event.state not in seen and blueprint.has_state(event.state)
            if event.next_state == state and event.state is not None and came_from:
                state = event.state
                seen.add(state)
        return state if state not in blueprint.end_states else blueprint.start_state

    async def _commit(self, commit: Commit) -> bool:
        """False where another change came first. A store that is away is said, and not waited for: somebody waits here."""
        done = await self._store.commit(commit)
        if done.applied:
            await self._engine.after(done)
        return done.applied

    async def load(self, job_id: str) -> Job:
        """The job, once nobody has it in his hands for the moment: an order in the middle of a step would undo the step.

        Raises:
            UnknownJobError: no such job.
        """
        until = asyncio.get_running_loop().time() + HANDLER_SECONDS
        while await self._store.is_claimed(job_id, self._engine.clock()):
            if asyncio.get_running_loop().time() >= until:
                break
            await asyncio.sleep(LOOK_SECONDS)
        job = await self._store.load(job_id)
        if job is None:
            raise UnknownJobError(job_id)
        return job

    async def _live(self, job_id: str) -> Job:
        job = await self.load(job_id)
        if job.status.is_terminal:
            raise WrongStateError(f"job {job_id} is {job.status.value}: it has ended already")
        return job
