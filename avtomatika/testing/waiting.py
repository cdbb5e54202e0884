"""Why a job of a test does not go on, as a sentence that says what to add."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from avtomatika.jobs import FanOut, Job, JobStatus, SubJob, TaskInfo, TaskState
from avtomatika.state.base import TaskRecord

if TYPE_CHECKING:
    from avtomatika.testing.driver import Driver

_SHOWN = 3


def leaf_of(driver: Driver, job: Job) -> Job:
    """The job that a job waits for in the end: its child's child, or itself."""
    while isinstance(job.waiting, SubJob) and job.waiting.job_id in driver.store._jobs:
        job = driver.store._jobs[job.waiting.job_id]
    return job


def attempts_of(driver: Driver, job: Job) -> Iterator[TaskRecord]:
    """The attempts that a job waits for."""
    if isinstance(job.waiting, TaskInfo):
        ids = [job.waiting.id]
    elif isinstance(job.waiting, FanOut) and job.id in driver.store._branches:
        ids = [task_id for task_id, result in driver.store._branches[job.id].results.values() if result is None]
    else:
        return
    yield from (driver.store._tasks[task_id] for task_id in ids if task_id in driver.store._tasks)


def is_unfaked(driver: Driver, record: TaskRecord) -> bool:
    """Whether nobody fakes a task, and nothing ends its waiting: neither a worker to come nor its dispatch timeout."""
    known = {task for worker in driver.fake_workers.values() for task in worker.fakes}
    return record.info.type not in known and record.info.dispatch_timeout_seconds is None


def unfaked(driver: Driver, job: Job) -> str | None:
    """What to add where a job waits for a task that nobody fakes; None where it does not."""
    known = sorted({task for worker in driver.fake_workers.values() for task in worker.fakes})
    for record in attempts_of(driver, job):
        if is_unfaked(driver, record):
            name = record.info.type
            near = get_close_matches(name, known, 1)
            there = f"there are fakes for {', '.join(map(repr, known))}" if known else "there are no fakes yet"
            hint = f"did you mean {near[0]!r}? " if near else ""
            return (
                f"{_named(job)} waits for task {name!r}, which nobody fakes ({there}); {hint}"
                f"add harness.worker({name!r}, …) before the job gets there"
            )
    return None


async def why(driver: Driver, job: Job) -> str:
    """What a job waits for that will not come by itself."""
    job = leaf_of(driver, job)
    missing = unfaked(driver, job)
    if missing is not None:
        return missing
    said = [await _why_attempt(driver, record) for record in attempts_of(driver, job)]
    if said:
        more = f", and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        return f"{_named(job)} waits for {'; '.join(said[:_SHOWN])}{more}"
    if job.status is JobStatus.WAITING_FOR_HUMAN:
        return f"{_named(job)} waits for a person's decision: answer with `await job.decide(…)` or harness.on_question(…)"
    if job.id in driver.store._job_claims:
        return f"{_named(job)} runs the handler of this state, which waits for something that never comes"
    return f"{_named(job)} is {job.status.value}, and nothing lets it go on"


async def _why_attempt(driver: Driver, record: TaskRecord) -> str:
    task = f"task {record.info.type!r}"
    if record.state is TaskState.CLAIMED:
        return f"{task}, which runs on {record.worker_id!r} and waits for something that never comes"
    if not any(record.info.type in worker.fakes for worker in driver.fake_workers.values()):
        return f"{task}, whose workers have all ended"
    explained = await driver.engine.dispatcher.explain(record)
    return f"{task}, which no worker takes: {explained['reason']}"


def _named(job: Job) -> str:
    return f"the job of blueprint {job.blueprint_name!r}, in state {job.current_state!r},"
