"""What comes back: results of tasks and branches, ends of child jobs, decisions of people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from avtomatika.compiler import aggregate_key, child_key, resume_key, step_key
from avtomatika.engine.attempts import is_poison, suspected
from avtomatika.engine.clock import is_out_of_time
from avtomatika.engine.draft import Draft, deadline_timer, new_task
from avtomatika.engine.fanout import Aggregated, Standing, Tally, first_failure, reason_of_failure, standing, tally
from avtomatika.engine.mishaps import code_of_result, over_task
from avtomatika.engine.steps import Executor
from avtomatika.engine.verdict import Judgement, Verdict, backoff, by_transition, exhausted, judge, judge_branch, said_of
from avtomatika.errors import FailureCode
from avtomatika.jobs import (
    JSON,
    Event,
    Failure,
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
from avtomatika.state.base import BranchOutcome, ClaimOutcome, Hold, NewTask
from avtomatika.state.listed import HELD_BY, LISTED

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
        if job is not None and not await self._held_back(job, key):
            await self.run(job, (key,))

    async def _held_back(self, job: Job, key: str) -> bool:
        """Pauses a job that begins while its blueprint is held back, whoever made it; false where it goes on."""
        tried: Hold | None = None
        while job.version == 0 and job.blueprint_name in LISTED:
            hold = await self.store.held(job.blueprint_name)
            if hold in (None, tried):
                break
            draft = self.draft(job, (key,))
            draft.event("pause_requested", state=job.current_state, details={"by": HELD_BY})
            draft.pause()
            done = await self._persist(replace(draft.commit(), hold=hold))
            if done.applied:
                await self.after(done)
                return True
            tried = hold  # it is held no more, or by another one; or the job has changed, which its run will find
        return False

    async def resume_plain(self, task_id: str, envelope: Any, failure: Result | None = None) -> None:
        """The answer of a plain Celery task, whose message nobody would repeat: it goes into the ledger first.

        Args:
            failure: where it has raised.
        """
        record = await self.store.get_task(task_id)
        if record is None:
            return
        now, result = self.clock(), failure or _result(envelope, is_plain=record.info.is_plain)
        message = self.compiler.resume_message(record.info, {**result.to_dict(), "meta": {}}, now)
        await self.publisher.flush((await self.store.publish(message, now)).outbox)

    async def resume(self, job_id: str, task_id: str, envelope: Any, fanout_id: str | None = None) -> None:
        """Takes the result of one attempt."""
        self.dispatcher.slot_freed()
        meta = envelope.get("meta") if isinstance(envelope, Mapping) else None
        if meta is None:
            await self.resume_plain(task_id, envelope)
            return
        if fanout_id is not None:
            await self._take_branch(job_id, fanout_id, task_id, Result.from_value(envelope), meta)
            return
        key = resume_key(task_id)
        job = await self._claim(job_id, key)
        if job is None:
            return
        if not isinstance(job.waiting, TaskInfo) or job.waiting.id != task_id:
            await self._unclaim(job, key)
            return
        info = job.waiting
        result = Result.from_value(envelope)
        draft = self.draft(job, (key,))
        draft.drop_tasks.append(task_id)
        judgement = judge(info, result, self.settings.job_max_retries)
        if job.cancel_of == task_id:  # whatever came of it, its cancelling was asked for
            judgement = by_transition(info.transitions, Result.CANCELLED, said_of(result) or "cancelled", "")
        draft.event("task_finished", **_outcome(job, info, result, judgement, meta))
        if judgement.verdict is Verdict.RETRY:
            await self._retry(draft, info, judgement.reason, meta.get("worker_id"))
        else:
            await self._follow(draft, judgement, result, over_task(info, code_of_result(result), meta.get("worker_id")))

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
        if job.status is JobStatus.PAUSED:  # not over: whoever resumes it may have sent this very message
            await self.store.release_job(job_id, self.boot_id)
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
        if job.pause_requested:
            draft = self.draft(job, (key,))
            draft.pause()
            await self.commit(draft.commit())
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
        judgement, result = Judgement(verdict, fanout.failure_state, reason), Result(Result.FAILURE, {"fan_out": found.counts})
        await self._follow(draft, judgement, result, Failure(FailureCode.FAN_OUT_FAILED, 1))

    async def child_ended(self, job_id: str, child_id: str) -> None:
        """Resumes a parent with the end of its child."""
        key = child_key(child_id)
        child = await self.store.load(child_id)
        job = await self._claim(job_id, key)
        if job is None:
            return
        if not isinstance(job.waiting, SubJob) or job.waiting.job_id != child_id:
            await self._unclaim(job, key)
            return
        if child is not None and not child.status.is_terminal:  # it was tried again: its next end sends this message anew
            await self.store.release_job(job_id, self.boot_id)
            return
        status, reason = Result.FAILURE, "its record has expired"
        if child is not None:
            status, reason = _CHILD_RESULT[child.status], child.error_message or ""
            if child.status.value in job.waiting.transitions:
                status = child.status.value
            elif is_out_of_time(child) and Result.TIMEOUT in job.waiting.transitions:
                status = Result.TIMEOUT
        data = _data(child.result) if child is not None and status == Result.SUCCESS else {}
        what = f"child job {child_id} ({job.waiting.blueprint_name})"
        judgement = by_transition(job.waiting.transitions, status, reason or None, what)
        if job.cancel_of == child_id:
            judgement = by_transition(job.waiting.transitions, Result.CANCELLED, reason or "cancelled", "")
        draft = self.draft(job, (key,))
        details = {"job_id": child_id, "status": child.status.value if child is not None else None}
        draft.event("sub_job_finished", state=job.current_state, next_state=judgement.state, details=details)
        await self._follow(draft, judgement, Result(status, data), Failure(FailureCode.SUB_JOB_FAILED, 1))

    async def _claim(self, job_id: str, key: str, version: int | None = None) -> Job | None:
        claim = await self.store.claim_job(job_id, self.boot_id, self.clock(), key, version=version)
        if claim.outcome is ClaimOutcome.STALE:
            await self.store.settle([key])
        return claim.job

    async def _unclaim(self, job: Job, key: str) -> None:
        """The message belongs to something that is over. The claim may have been that of a process that ended in mid-run."""
        await self.give_back(job.id)
        await self.store.settle([key])

    async def _follow(self, draft: Draft, judgement: Judgement, result: Result, failure: Failure) -> None:
        """Merges a result into the job and goes where the judgement says; `failure` is kept where that is no good end."""
        job = draft.job
        draft.set(
            state_history={**job.state_history, **result.data},
            error_message=judgement.reason,
            cancel_of=None,
        )
        if judgement.verdict is Verdict.NEXT:
            assert judgement.state is not None
            draft.enter(judgement.state)
            if job.pause_requested:
                draft.pause()
                await self.commit(draft.commit())
            else:
                await self.go_on(draft)
            return
        ends = JobStatus(judgement.verdict.value)
        draft.end(ends, judgement.reason, None if ends is JobStatus.CANCELLED else failure)
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
        if result.status in (Result.FAILURE, Result.TIMEOUT) or "type" not in meta:
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

    async def attempt_lost(self, info: TaskInfo, reason: str, worker_id: str | None = None, *, alone: bool = True) -> None:
        """The worker of a claimed attempt is gone: the next attempt is dispatched at once, and deaths are counted.

        After JOB_MAX_RETRIES deaths it is a suspect, with all that ran beside it: suspects run one at a time, and the one that
        loses its worker then is taken for the task that kills them; unless something else is as likely.

        Args:
            alone: whether nothing that was beside it is as likely to have done it.
        """
        now, most = self.clock(), self.settings.job_max_retries
        poison = is_poison(info, most, alone=alone)
        again = suspected(info.again(died=True, now=now, avoid=worker_id), most)
        if info.branch is None:
            while not await self._task_lost(info, again, reason, poison, worker_id):
                pass  # something else about the job has changed meanwhile
        elif poison:
            result = Result.failure(FailureCode.WORKER_LOST, f"{reason} ({info.deaths + 1} times)")
            meta = {"attempt": info.attempt, "type": info.type, "worker_id": worker_id}
            assert info.fanout_id is not None
            await self._take_branch(info.job_id, info.fanout_id, info.id, result, meta)
        else:
            new = new_task(again, await self._capability(again), self.compiler, now)
            event = self.branch_event("branch_lost", again, now, reason=reason)
            await self.after(await self.store.replace_branch_task(info, new, event))
        if worker_id is not None:  # last: whoever repeats this after a crash counts it, and nobody else
            await self.store.note_outcome(worker_id, LOST, now)

    async def _task_lost(self, info: TaskInfo, again: TaskInfo, reason: str, poison: bool, worker_id: str | None) -> bool:
        """The same for a single dispatch; false where another change of the job came first."""
        job = await self.store.load(info.job_id)
        if job is None or not isinstance(job.waiting, TaskInfo) or job.waiting.id != info.id:
            return True
        info = job.waiting  # its transitions may have been moved to other states meanwhile
        draft = Draft(job, self.clock(), self.compiler)
        draft.drop_tasks.append(info.id)
        judgement = Judgement(Verdict.RETRY)
        if job.cancel_of == info.id:
            draft.set(cancel_of=None)
            judgement = by_transition(info.transitions, Result.CANCELLED, reason, "")
        elif poison:
            judgement = exhausted(info, f"{reason}, {info.deaths + 1} times: does the task kill its worker?")
            draft.set(error_message=judgement.reason)
        fields = {"state": job.current_state, "next_state": judgement.state, "attempt": info.attempt}
        draft.event("task_lost", task_id=info.id, worker_id=worker_id, details={"reason": reason, "type": info.type}, **fields)
        if judgement.verdict is Verdict.RETRY:
            again = replace(again, transitions=info.transitions)
            draft.set(waiting=again)
            draft.task(again, await self._capability(again))
        elif judgement.verdict is Verdict.NEXT:
            assert judgement.state is not None
            draft.go_to(judgement.state)
        else:
            ends = JobStatus(judgement.verdict.value)
            failure = None if ends is JobStatus.CANCELLED else over_task(info, FailureCode.WORKER_LOST, worker_id)
            draft.end(ends, judgement.reason, failure)
        return await self.commit(draft.commit())


def _result(envelope: Any, *, is_plain: bool) -> Result:
    """What a task has answered. What a plain Celery task returns is data, whatever it looks like."""
    return Result.success(_data(envelope)) if is_plain else Result.from_value(envelope)


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
