"""What comes back: results of tasks and branches, ends of child jobs, decisions of people."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from avtomatika.compiler import aggregate_key, child_key, resume_key, step_key
from avtomatika.engine.draft import Draft, deadline_timer, new_task
from avtomatika.engine.fanout import Aggregated, Standing, Tally, first_failure, reason_of_failure, standing, tally
from avtomatika.engine.steps import Executor
from avtomatika.engine.verdict import Judgement, Verdict, backoff, by_transition, exhausted, judge, judge_branch
from avtomatika.errors import UnknownJobError, WrongStateError
from avtomatika.jobs import (
    JSON,
    Approval,
    Event,
    FanOut,
    Job,
    JobStatus,
    Result,
    SubJob,
    TaskInfo,
    TaskState,
    Timer,
)
from avtomatika.results import LOST
from avtomatika.state.base import BranchOutcome, ClaimOutcome, NewTask

logger = logging.getLogger(__name__)

_CHILD_RESULT = {
    JobStatus.FINISHED: Result.SUCCESS,
    JobStatus.FAILED: Result.FAILURE,
    JobStatus.QUARANTINED: Result.FAILURE,
    JobStatus.CANCELLED: Result.CANCELLED,
}


class Engine(Executor):
    """Takes control messages. Each of them may come twice, late, or out of order: what does not fit does nothing."""

    async def step(self, job_id: str, version: int) -> None:
        """Goes on with a job at one version."""
        key = step_key(job_id, version)
        job = await self._claim(job_id, key, version)
        if job is not None:
            await self.run(job, (key,))

    async def resume(self, job_id: str, task_id: str, envelope: Any, fanout_id: str | None = None) -> None:
        """Takes the result of one attempt."""
        self.dispatcher.slot_freed()
        meta = envelope.get("meta") if isinstance(envelope, Mapping) else None
        if fanout_id is not None:
            record = await self.store.get_task(task_id) if meta is None else None
            result = _result(envelope, record is not None and record.info.is_plain)
            await self._take_branch(job_id, fanout_id, task_id, result, meta or {})
            return
        key = resume_key(task_id)
        job = await self._claim(job_id, key)
        if job is None:
            return
        if not isinstance(job.waiting, TaskInfo) or job.waiting.id != task_id:
            await self._unclaim(job, key)
            return
        info = job.waiting
        result = _result(envelope, info.is_plain)
        draft = self.draft(job, (key,))
        draft.drop_tasks.append(task_id)
        judgement = judge(info, result, self.settings.job_max_retries)
        draft.event("task_finished", **_outcome(job, info, result, judgement, meta or {}))
        if judgement.verdict is Verdict.RETRY:
            await self._retry(draft, info, judgement.reason, (meta or {}).get("worker_id"))
        else:
            await self._follow(draft, judgement, result)

    async def aggregate(self, job_id: str, fanout_id: str) -> None:
        """Finds the verdict on a fan-out: the aggregator runs, or the job goes where a bad one leads, or nothing is clear yet.

        What is still out then is dropped, and its workers are told, before the aggregator runs: however long that takes, and
        however often it is tried, it sees the same results.
        """
        key = aggregate_key(fanout_id)
        job = await self._claim(job_id, key)
        if job is None:
            return
        if not isinstance(job.waiting, FanOut) or job.waiting.id != fanout_id:
            await self._unclaim(job, key)
            return
        results = await self.store.branches(job_id)
        if len(results) < job.waiting.total:  # a process that counted as dead has gone on meanwhile: this run is over
            await self._unclaim(job, key)
            return
        found = tally(results)
        match standing(job.waiting, found, self.clock()):
            case Standing.OPEN:  # too early: the branch that makes it clear will publish it, or the deadline's timer
                if job.waiting.deadline_at is not None:  # whose clock was a little ahead of this one
                    await self.store.set_timer(deadline_timer(job_id, fanout_id, job.waiting.deadline_at))
                await self.store.release_job(job_id, self.boot_id)
                return
            case Standing.BAD:
                await self._fan_out_failed(self.draft(job, (key,)), job.waiting, found)
                return
        state = job.waiting.aggregate_into
        if found.missing and not job.waiting.settled:
            draft = self.draft(job)
            draft.settle_branches = True
            draft.event("fan_out_settled", state=job.current_state, next_state=state, details=found.counts)
            draft.set(waiting=replace(job.waiting, settled=True))
            commit = draft.commit(keep_claim=True)
            if not await self.commit(commit):
                return
            job, results = commit.job, await self.store.branches(job_id)  # from here on nothing changes them
        await self.run(job, (key,), Aggregated(state, results))

    async def _fan_out_failed(self, draft: Draft, fanout: FanOut, found: Tally) -> None:
        first = ""
        for event in await self.store.events(draft.job.id) if found.failed else ():
            if event.event_type == "branch_finished" and event.task_id in found.failed:
                first = first_failure(str(event.details.get("type") or "a task"), found.failed[event.task_id])
                break
        reason = reason_of_failure(fanout, found, first)
        draft.leave_waiting()
        details = {**found.counts, "reason": reason}
        draft.event("fan_out_failed", state=draft.job.current_state, next_state=fanout.failure_state, details=details)
        verdict = Verdict.FAILED if fanout.failure_state is None else Verdict.NEXT
        await self._follow(
            draft, Judgement(verdict, fanout.failure_state, reason), Result(Result.FAILURE, {"fan_out": found.counts})
        )

    async def child_ended(self, job_id: str, child_id: str) -> None:
        """Resumes a parent with the end of its child."""
        key = child_key(child_id)
        child = await self.store.load(child_id)
        job = await self._claim(job_id, key)
        if job is None:
            return
        waits = isinstance(job.waiting, SubJob) and job.waiting.job_id == child_id
        if not isinstance(job.waiting, SubJob) or not waits or child is None or not child.status.is_terminal:
            await self._unclaim(job, key)
            return
        status = _CHILD_RESULT[child.status]
        if child.status.value in job.waiting.transitions:
            status = child.status.value
        data = _data(child.result) if status == Result.SUCCESS else {}
        what = f"child job {child.id} ({child.blueprint_name})"
        judgement = by_transition(job.waiting.transitions, status, child.error_message, what)
        draft = self.draft(job, (key,))
        details = {"job_id": child_id, "status": child.status.value}
        draft.event("sub_job_finished", state=job.current_state, next_state=judgement.state, details=details)
        await self._follow(draft, judgement, Result(status, data))

    async def decide(
        self, job_id: str, decision: str, *, comment: str | None = None, who: str = "", token: str | None = None
    ) -> Job:
        """Answers the question that a job waits with; the job goes on in the state that the decision leads to.

        Args:
            token: where given, it must be the single-use token of this very question.

        Raises:
            UnknownJobError: no such job.
            WrongStateError: it waits for no decision, the decision is not among its transitions, or the token is not its.
        """
        job = await self.store.load(job_id)
        if job is None:
            raise UnknownJobError(job_id)
        if not isinstance(job.waiting, Approval):
            raise WrongStateError(f"job {job_id} is {job.status.value}: it waits for no decision")
        approval = job.waiting
        if token is not None and not hmac.compare_digest(hashlib.sha256(token.encode()).hexdigest(), approval.token_hash):
            raise WrongStateError("this token does not belong to the question that the job waits with")
        state = approval.transitions.get(decision)
        if state is None:
            listed = ", ".join(sorted(approval.transitions)) or "none"
            raise WrongStateError(f"decision {decision!r} is none of: {listed}")
        draft = Draft(job, self.clock(), self.compiler)
        details = {"decision": decision, "by": who, **({"comment": comment} if comment else {})}
        draft.event("approval_decided", state=job.current_state, next_state=state, details=details)
        said = {"approval": {"decision": decision, "comment": comment, "by": who}}
        draft.set(state_history={**job.state_history, **said})
        draft.enter(state)
        draft.messages.append(self.compiler.step_message(job.id, draft.next_version, draft.now))
        commit = draft.commit()
        if not await self.commit(commit):
            raise WrongStateError(f"job {job_id} was decided by somebody else at the same time")
        return commit.job

    async def give_back(self, job_id: str) -> None:
        """Lets go of a job whose message was not carried out to its end, and makes sure that another message goes on with it.

        Commits on the way have settled the message that began the run, so that repeating that one would do nothing.
        """
        job = await self.store.load(job_id)
        message = None
        if job is not None and job.status is JobStatus.RUNNING and job.waiting is None:
            known = await self.store.ledger_get(step_key(job_id, job.version))
            message = self.compiler.step_message(job_id, job.version, self.clock()) if known is None else None
        await self.after(await self.store.release_job(job_id, self.boot_id, message, self.clock()))

    async def _claim(self, job_id: str, key: str, version: int | None = None) -> Job | None:
        claim = await self.store.claim_job(job_id, self.boot_id, self.clock(), key, version=version)
        if claim.outcome is ClaimOutcome.STALE:
            await self.store.settle([key])
        return claim.job

    async def _unclaim(self, job: Job, key: str) -> None:
        """The message belongs to something that is over."""
        await self.store.release_job(job.id, self.boot_id)
        await self.store.settle([key])

    async def _follow(self, draft: Draft, judgement: Judgement, result: Result) -> None:
        """Merges a result into the job and goes where the judgement says."""
        job = draft.job
        draft.set(state_history={**job.state_history, **result.data}, error_message=judgement.reason or job.error_message)
        if judgement.verdict is Verdict.NEXT:
            assert judgement.state is not None
            draft.enter(judgement.state)
            await self.go_on(draft)
            return
        draft.end(JobStatus(judgement.verdict.value), judgement.reason)
        await self.commit(draft.commit())

    async def _retry(self, draft: Draft, info: TaskInfo, reason: str | None, worker_id: str | None) -> None:
        """Another attempt, after a pause, under a new id, by another worker than this one where there is a choice."""
        again = info.again(now=draft.now, avoid=worker_id)
        wait = backoff(info.retries, info.attempt - info.deaths, self.settings.retry_backoff_seconds)
        draft.set(status=JobStatus.AWAITING_RETRY, waiting=again, retry_count=draft.job.retry_count + 1, error_message=reason)
        draft.event(
            "task_retry",
            state=draft.job.current_state,
            task_id=again.id,
            attempt=again.attempt,
            details={"reason": reason, "type": info.type},
        )
        draft.timers.append(Timer("task", f"{draft.job.id}|{again.id}", draft.now + wait))
        await self.commit(draft.commit())

    async def _take_branch(self, job_id: str, fanout_id: str, task_id: str, result: Result, meta: Mapping[str, Any]) -> None:
        key = resume_key(task_id)
        if result.status == Result.FAILURE or "type" not in meta:
            record = await self.store.get_task(task_id)
            if record is None:
                await self.store.settle([key])
                return
            info = record.info
            if judge_branch(info, result, self.settings.job_max_retries) is Verdict.RETRY:
                await self._retry_branch(info, result, key, meta.get("worker_id"))
                return
            meta = {"type": info.type, "attempt": info.attempt, "worker_id": record.worker_id, **meta}
        now = self.clock()
        details: dict[str, Any] = {"status": result.status, "type": meta.get("type")}
        if result.error is not None:
            details["error"] = result.to_dict()["error"]
        event = Event(
            f"{job_id}:{task_id}",
            job_id,
            "branch_finished",
            now,
            task_id=task_id,
            worker_id=meta.get("worker_id"),
            attempt=meta.get("attempt"),
            duration_ms=meta.get("duration_ms"),
            details=details,
        )
        aggregate = self.compiler.aggregate_message(job_id, fanout_id, now)
        outcome, done = await self.store.branch_done(job_id, fanout_id, task_id, result, event, [key], aggregate)
        if outcome is BranchOutcome.STALE:
            await self.store.settle([key])
        await self.after(done)

    async def _retry_branch(self, info: TaskInfo, result: Result, key: str, worker_id: str | None) -> None:
        now = self.clock()
        again = info.again(now=now, avoid=worker_id)
        wait = backoff(info.retries, info.attempt - info.deaths, self.settings.retry_backoff_seconds)
        event = self.branch_event("branch_retry", again, now, reason=result.error.message if result.error else "")
        timer = Timer("branch", again.id, now + wait)
        done = await self.store.replace_branch_task(info, NewTask(again, TaskState.DELAYED), event, timers=[timer], settles=[key])
        if done.applied:
            await self.after(done)
        else:
            await self.store.settle([key])

    @staticmethod
    def branch_event(event_type: str, info: TaskInfo, now: float, **details: Any) -> Event:
        return Event(
            f"{info.job_id}:{info.id}:{event_type}",
            info.job_id,
            event_type,
            now,
            task_id=info.id,
            attempt=info.attempt,
            details={"type": info.type, **details},
        )

    async def attempt_lost(self, info: TaskInfo, reason: str, worker_id: str | None = None) -> None:
        """The worker of a claimed attempt is gone: the next attempt is dispatched at once, and deaths are counted.

        After more than JOB_MAX_RETRIES deaths the task itself is suspected of killing its workers.
        """
        now = self.clock()
        poison = info.deaths >= self.settings.job_max_retries
        again = info.again(died=True, now=now, avoid=worker_id)
        if info.branch is None:
            while not await self._task_lost(info, again, reason, poison):
                pass  # something else about the job has changed meanwhile
        elif poison:
            result = Result.failure("WORKER_LOST", f"{reason} ({info.deaths + 1} times)")
            meta = {"attempt": info.attempt, "type": info.type, "worker_id": worker_id}
            assert info.fanout_id is not None
            await self._take_branch(info.job_id, info.fanout_id, info.id, result, meta)
        else:
            new = new_task(again, await self._capability(again), self.compiler, now)
            event = self.branch_event("branch_lost", again, now, reason=reason)
            await self.after(await self.store.replace_branch_task(info, new, event))
        if worker_id is not None:  # last: whoever repeats this after a crash counts it, and nobody else
            await self.store.note_outcome(worker_id, LOST, now)

    async def _task_lost(self, info: TaskInfo, again: TaskInfo, reason: str, poison: bool) -> bool:
        """The same for a single dispatch; false where another change of the job came first."""
        job = await self.store.load(info.job_id)
        if job is None or not isinstance(job.waiting, TaskInfo) or job.waiting.id != info.id:
            return True
        draft = Draft(job, self.clock(), self.compiler)
        draft.drop_tasks.append(info.id)
        draft.event("task_lost", state=job.current_state, task_id=info.id, attempt=info.attempt, details={"reason": reason})
        if not poison:
            draft.set(waiting=again)
            draft.task(again, await self._capability(again))
            return await self.commit(draft.commit())
        judgement = exhausted(info, f"{reason}, {info.deaths + 1} times: does the task kill its worker?")
        if judgement.verdict is Verdict.NEXT:
            assert judgement.state is not None
            draft.set(error_message=judgement.reason)
            draft.enter(judgement.state)
            draft.messages.append(self.compiler.step_message(job.id, draft.next_version, draft.now))
        else:
            draft.end(JobStatus.QUARANTINED, judgement.reason)
        return await self.commit(draft.commit())


def _result(envelope: Any, is_plain: bool) -> Result:
    """The envelope that a message carries. What a plain Celery task returns is data, whatever it looks like.

    Envelopes of ours carry `meta`, which tells them from a plain task's value.
    """
    if is_plain and not (isinstance(envelope, Mapping) and "meta" in envelope):
        return Result.success(_data(envelope))
    return Result.from_value(envelope)


def _data(value: Any) -> JSON:
    """A value as it is merged into a state_history."""
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {"result": value}


def _outcome(job: Job, info: TaskInfo, result: Result, judgement: Judgement, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `task_finished` event."""
    details: dict[str, Any] = {"status": result.status, "type": info.type}
    if result.error is not None:
        details["error"] = {"code": result.error.code, "message": result.error.message}
    return {
        "state": job.current_state,
        "next_state": judgement.state,
        "task_id": info.id,
        "worker_id": meta.get("worker_id"),
        "attempt": info.attempt,
        "duration_ms": meta.get("duration_ms"),
        "details": details,
    }
