"""What goes wrong in a job, and what becomes of it then: another try, a pause, quarantine. Pure but for the log."""

from __future__ import annotations

import logging

from avtomatika.engine.draft import Draft
from avtomatika.engine.verdict import attempts, backoff, code_of
from avtomatika.errors import ErrorCode, FailureCode, HandlerError, StrandedError
from avtomatika.jobs import Failure, Job, JobStatus, Result, RetryPolicy, TaskInfo, Timer
from avtomatika.settings import Settings

logger = logging.getLogger(__name__)


def quarantine(draft: Draft, reason: str, failure: Failure) -> None:
    """The job is put aside for a person to look at; whatever it waited for is over."""
    logger.warning("job quarantined: %s", reason, extra={"action": "quarantine", "job_id": draft.job.id})
    draft.leave_waiting()
    draft.end(JobStatus.QUARANTINED, reason, failure)


def over_task(info: TaskInfo, code: str, worker_id: str | None = None) -> Failure:
    """A failure over an attempt, with all that is needed to understand it later."""
    task = {
        "task_id": info.id,
        "type": info.type,
        "params": info.params,
        "attempt": info.attempt,
        "deaths": info.deaths,
        "worker_id": worker_id,
    }
    return Failure(code, attempts(info), task)


def code_of_result(result: Result) -> str:
    """The code of a failure that a result brought about."""
    return code_of(result) or (ErrorCode.TRANSIENT if result.status == Result.FAILURE else FailureCode.UNLISTED_STATUS)


def handler_raised(draft: Draft, exc: Exception, state: str, settings: Settings, loaded: str, *, aggregates: bool) -> None:
    """A handler did not come to a decision.

    Args:
        state: whose handler it was.
        loaded: the version of the job's blueprint that is loaded here; '' where it is not known at all.
        aggregates: it was the state's aggregator.
    """
    if isinstance(exc, StrandedError):
        _stranded(draft, exc, settings, loaded, aggregates)
    elif isinstance(exc, HandlerError):
        quarantine(draft, str(exc), Failure(FailureCode.HANDLER_ERROR, draft.job.step_failures + 1))
    else:
        reason = f"handler of state {state!r} raised {type(exc).__name__}: {exc}"
        logger.warning(reason, exc_info=exc, extra={"action": "handler_failed", "job_id": draft.job.id})
        _again(draft, reason, FailureCode.HANDLER_EXCEPTION, settings, aggregates)


def _stranded(draft: Draft, exc: StrandedError, settings: Settings, loaded: str, aggregates: bool) -> None:
    """The code that is loaded here has no place for the job.

    Perhaps another orchestrator has other code: during an upgrade both run. So it is tried a few times before it is put aside,
    unless this is the very version that it began with.
    """
    job = draft.job
    reason = f"{exc}. {_how_to_mend(job, loaded)}"
    if job.pinned:
        logger.warning("a pinned job pauses: %s", reason, extra={"action": "stranded", "job_id": job.id})
        draft.set(error_message=reason)
        draft.pause()
    elif job.blueprint_version in ("", loaded):
        quarantine(draft, reason, Failure(FailureCode.UNKNOWN_STATE, 1))
    else:
        _again(draft, reason, FailureCode.UNKNOWN_STATE, settings, aggregates)


def _how_to_mend(job: Job, loaded: str) -> str:
    if job.pinned:
        return f"The job is pinned to version {job.blueprint_version}: start that code, then `avtomatika job resume {job.id}`"
    began = f"The job began with version {job.blueprint_version or '(unknown)'}, loaded here is {loaded or 'none'}. "
    return (
        f"{began}Load the code that has it, then `avtomatika quarantine retry {job.id}`; "
        f"or let it go on elsewhere: `avtomatika quarantine retry {job.id} --state STATE`"
    )


def _again(draft: Draft, reason: str, code: str, settings: Settings, aggregates: bool) -> None:
    """Once more after a pause, or quarantine once it has gone wrong too often in a row."""
    job, failures = draft.job, draft.job.step_failures + 1
    if failures > settings.job_max_retries:
        quarantine(draft, f"{reason} ({failures} times in a row)", Failure(code, failures))
        return
    wait = backoff(RetryPolicy(), failures, settings.retry_backoff_seconds)
    draft.set(status=JobStatus.AWAITING_RETRY, step_failures=failures, retry_count=job.retry_count + 1, error_message=reason)
    draft.event("handler_retry", state=job.current_state, attempt=failures, details={"reason": reason})
    kind = "aggregate" if aggregates else "step"
    draft.timers.append(Timer(kind, f"{job.id}|{draft.next_version}", draft.now + wait))
