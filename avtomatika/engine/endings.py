"""How a job is ended from outside, at once, with all that runs for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from avtomatika.broker.control import revoke
from avtomatika.engine.clock import job_timer
from avtomatika.engine.draft import Draft
from avtomatika.engine.mishaps import over_task
from avtomatika.errors import FailureCode
from avtomatika.jobs import Failure, FanOut, Job, JobStatus, SubJob, TaskInfo
from avtomatika.state.base import Store

if TYPE_CHECKING:
    from avtomatika.engine.results import Engine

logger = logging.getLogger(__name__)

#: Of so many branches those on plain Celery are revoked; the others run in vain.
MAX_REVOKED = 1000


def drop_all(draft: Draft, who: str) -> None:
    """Puts into the draft what stops all that the job waits for: workers are told, a child job is cancelled."""
    if isinstance(draft.job.waiting, SubJob):
        draft.messages.append(draft.compiler.cancel_message(draft.job.waiting.job_id, who, draft.now))
    draft.leave_waiting()


async def plain_tasks(store: Store, job: Job) -> list[str]:
    """Plain Celery tasks that the job waits for: their own workers are to throw them away."""
    if isinstance(job.waiting, TaskInfo):
        return [job.waiting.id] if job.waiting.is_plain else []
    if not isinstance(job.waiting, FanOut):
        return []
    out = [task_id for task_id, result in (await store.branches(job.id)).items() if result is None]
    records = [await store.get_task(task_id) for task_id in out[:MAX_REVOKED]]
    return [record.info.id for record in records if record is not None and record.info.is_plain]


async def time_out(engine: Engine, job_id: str) -> None:
    """The time of a job as a whole is over: it fails, and what runs for it is stopped.

    A handler that runs at this moment decides in vain. One that was being cancelled is cancelled, whatever its clean-up does.
    """
    while True:
        job = await engine.store.load(job_id)
        if job is None or job.status.is_terminal or job.deadline_at is None:
            return
        now = engine.clock()
        if job.deadline_at > now:  # it was given more time meanwhile
            await engine.store.set_timer(job_timer(job.id, job.deadline_at))
            return
        draft, plain = Draft(job, now, engine.compiler), await plain_tasks(engine.store, job)
        reason = f"Job timed out in state {job.current_state!r} ({job.status.value})"
        failure = Failure(FailureCode.JOB_TIMEOUT, job.step_failures)
        if isinstance(job.waiting, TaskInfo):
            failure = over_task(job.waiting, FailureCode.JOB_TIMEOUT)
        drop_all(draft, "its parent, which timed out")
        draft.end(JobStatus.CANCELLED if job.cancel_requested else JobStatus.FAILED, reason, failure)
        if await engine.commit(draft.commit()):
            logger.warning(reason, extra={"action": "job_timeout", "job_id": job.id})
            if plain:
                await revoke(engine.compiler.app, plain)
            return
