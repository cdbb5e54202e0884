"""The executor: runs handlers, turns what they decide into commits, and goes on while nobody has to be waited for."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avtomatika.blueprint.actions import (
    Action,
    ActionFactory,
    AwaitApproval,
    DispatchParallel,
    DispatchTask,
    RunBlueprint,
    TransitionTo,
)
from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.context import JobContext
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.publisher import Publisher
from avtomatika.compiler import Compiler, step_key
from avtomatika.engine.approvals import ask
from avtomatika.engine.attempts import assert_plain, first_attempt
from avtomatika.engine.dispatch import Dispatcher
from avtomatika.engine.draft import Draft, deadline_timer, new_job, new_job_commit
from avtomatika.engine.fanout import Aggregated, fan_out_of
from avtomatika.engine.mishaps import handler_raised, quarantine
from avtomatika.errors import FailureCode, HandlerError, StoreUnavailableError, StrandedError, UnknownBlueprintError
from avtomatika.jobs import JSON, Failure, FanOut, Job, JobStatus, SubJob, TaskInfo
from avtomatika.settings import Settings
from avtomatika.state.base import Commit, CommitResult, Store

logger = logging.getLogger(__name__)

#: End states whose name is a terminal status give the job that status; every other end state means finished.
_END_STATUS = {"failed": JobStatus.FAILED, "cancelled": JobStatus.CANCELLED}


#: How long a result's commit waits for the next state's handler, to be made in one call with what that decides.
TOGETHER_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Decision:
    """What one handler call came to."""

    action: Action | None
    state_history: JSON
    value: Any
    is_end: bool
    duration_ms: float


class Executor:
    """Runs jobs that this process has claimed."""

    def __init__(
        self,
        *,
        store: Store,
        compiler: Compiler,
        publisher: Publisher,
        blueprints: BlueprintRegistry,
        settings: Settings,
        boot_id: str,
        clock: Callable[[], float] = time.time,
        stop: Callable[[Sequence[tuple[str, str]]], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            stop: tells workers, (worker id, task id) each, that what they run is over.
        """
        self.store = store
        self.compiler = compiler
        self.publisher = publisher
        self.blueprints = blueprints
        self.settings = settings
        self.boot_id = boot_id
        self.clock = clock
        self._stop = stop
        self.dispatcher = Dispatcher(
            store=store, compiler=compiler, publisher=publisher, settings=settings, clock=lambda: self.clock()
        )
        self._capabilities: dict[str, str] = {}

    def draft(self, job: Job, settles: tuple[str, ...] = ()) -> Draft:
        return Draft(job, self.clock(), self.compiler, self.boot_id, settles)

    async def commit(self, commit: Commit) -> bool:
        """Applies a commit and publishes what it could not push itself; false where another change came first."""
        done = await self._persist(commit)
        if not done.applied:
            if commit.boot_id is not None:
                await self.give_back(commit.job.id)
            return False
        await self.after(done)
        return True

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

    async def after(self, done: CommitResult) -> None:
        """What follows from an applied change: messages to publish, tasks to place, workers to stop."""
        await self.publisher.flush(done.outbox)
        if done.picks:
            self.dispatcher.wake(done.picks)
        if done.stops and self._stop is not None:
            await self._stop(done.stops)

    async def _persist(self, commit: Commit) -> CommitResult:
        """Commits as soon as the store answers: a handler that has run shall not run again because Redis restarts."""
        wait = 0.1
        while True:
            try:
                return await self.store.commit(commit)
            except StoreUnavailableError as exc:
                logger.warning("a commit waits for the store: %s", exc, extra={"action": "commit", "job_id": commit.job.id})
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)

    async def capability_of(self, task_type: str) -> str | None:
        """The pinned capability; pins never change, so that a known one is remembered."""
        found = self._capabilities.get(task_type)
        if found is None:
            found = await self.store.capability_of(task_type)
            if found is not None:
                self._capabilities[task_type] = found
        return found

    async def run(self, job: Job, settles: tuple[str, ...] = (), aggregated: Aggregated | None = None) -> None:
        """Runs the job's handlers until it waits or ends. The job must be claimed by this process.

        After MAX_TRANSITIONS_PER_STEP handlers it goes back to the queue, so that no job keeps an orchestrator to itself.
        """
        for turn in range(1, self.settings.max_transitions_per_step + 1):
            draft = self.draft(job, settles)
            try:
                decision = await self._decide(job, aggregated)
            except Exception as exc:
                await self._handler_raised(draft, exc, aggregated)
                return
            last = turn == self.settings.max_transitions_per_step
            after = await self._carry_out(self.draft(job, settles), decision, aggregated, last=last)
            if after is None:
                return
            job, settles, aggregated = after, (), None

    async def go_on(self, opening: Draft) -> None:
        """Goes on with the state that a draft enters: commits it, and runs its handler.

        A handler that is done within moments is committed together with the draft, which saves a call to the store; for a slower
        one the draft is committed first, so that the job shows where it is.
        """
        commit = opening.commit(keep_claim=True)
        deciding = asyncio.ensure_future(self._decide(commit.job, None))
        try:
            await asyncio.wait({deciding}, timeout=TOGETHER_SECONDS)
            if deciding.done() and not deciding.cancelled() and deciding.exception() is None:
                after = await self._carry_out(opening, deciding.result(), None)
                if after is not None:
                    await self.run(after)
                return
            if not await self.commit(commit):
                return
            try:
                decision = await deciding
            except asyncio.CancelledError:
                if not _let_out():
                    raise
                await self._handler_raised(self.draft(commit.job), RuntimeError(_LET_OUT), None)
                return
            except Exception as exc:
                await self._handler_raised(self.draft(commit.job), exc, None)
                return
            after = await self._carry_out(self.draft(commit.job), decision, None)
            if after is not None:
                await self.run(after)
        finally:
            deciding.cancel()

    async def _carry_out(
        self, base: Draft, decision: Decision, aggregated: Aggregated | None, *, last: bool = False
    ) -> Job | None:
        """Commits a decision on top of a draft; the job where it goes on at once.

        Args:
            last: it must not go on at once, but over the queue.
        """
        draft = base.fork()
        try:
            goes_on = await self._apply(draft, decision, aggregated)
            if goes_on and last:
                draft.messages.append(self.compiler.step_message(draft.job.id, draft.next_version, draft.now))
                goes_on = False
            commit = draft.commit(keep_claim=goes_on)
            _assert_json(commit.job, base.job.current_state if aggregated is None else aggregated.state)
        except HandlerError as exc:
            quarantine(base, str(exc), Failure(FailureCode.HANDLER_ERROR, base.job.step_failures + 1))
            commit, goes_on = base.commit(), False
        applied = await self.commit(commit)
        return commit.job if applied and goes_on else None

    async def _handler_raised(self, draft: Draft, exc: Exception, aggregated: Aggregated | None) -> None:
        job = draft.job
        state = job.current_state if aggregated is None else aggregated.state
        loaded = self.blueprints.get(job.blueprint_name).version if job.blueprint_name in self.blueprints else ""
        handler_raised(draft, exc, state, self.settings, loaded, aggregates=aggregated is not None)
        await self.commit(draft.commit())

    async def _decide(self, job: Job, aggregated: Aggregated | None) -> Decision:
        blueprint = self._blueprint(job.blueprint_name, StrandedError)
        context = self._context(job, blueprint, aggregated)
        handler = blueprint.select(context) if aggregated is None else blueprint.aggregator(aggregated.state)
        began = time.perf_counter()
        try:
            value = await handler.call(context)
        except asyncio.CancelledError as exc:
            if not _let_out():
                raise
            raise RuntimeError(_LET_OUT) from exc
        except (SystemExit, KeyboardInterrupt, MemoryError) as exc:  # a handler's, not ours: it must not end the orchestrator
            raise RuntimeError(f"{type(exc).__name__}: {exc}") from exc
        duration = round((time.perf_counter() - began) * 1000, 3)
        action = context.actions.action
        if handler.is_end and action is not None:
            raise HandlerError(
                f"{handler.name} handles the end state {job.current_state!r} and decided an action; "
                "an end state decides none: drop the action, or is_end=True"
            )
        if not handler.is_end and action is None:
            raise HandlerError(
                f"{handler.name} handled state {context.current_state!r} and decided no action; "
                "call one of the actions on every path, or mark the state is_end=True"
            )
        return Decision(action, context.state_history, value, handler.is_end, duration)

    def _blueprint(self, name: str, missing: type[HandlerError] = HandlerError) -> Blueprint:
        try:
            return self.blueprints.get(name)
        except UnknownBlueprintError as exc:
            raise missing(f"this orchestrator does not know the blueprint: {exc}") from None

    def _context(self, job: Job, blueprint: Blueprint, aggregated: Aggregated | None) -> JobContext:
        # Deep copies: what a handler changes counts only if its step is committed.
        return JobContext(
            job_id=job.id,
            current_state=job.current_state if aggregated is None else aggregated.state,
            initial_data=copy.deepcopy(job.initial_data),
            state_history=copy.deepcopy(job.state_history),
            actions=ActionFactory(job.id),
            client=job.client,
            data_stores=blueprint.data_stores,
            tracing_context=dict(job.tracing_context),
            **({} if aggregated is None else aggregated.inputs()),
        )

    async def _apply(self, draft: Draft, decision: Decision, aggregated: Aggregated | None) -> bool:
        """Puts a decision into the draft; true where the job goes on at once."""
        draft.set(state_history=decision.state_history)
        if draft.job.step_failures:  # it has worked at last
            draft.set(error_message=None)
        if aggregated is not None:
            draft.leave_waiting()
            draft.set(current_state=aggregated.state)
            draft.event("aggregated", state=aggregated.state, duration_ms=decision.duration_ms, details=aggregated.counts)
        state = draft.changes.get("current_state", draft.job.current_state)
        match decision.action:
            case None:
                draft.set(result=decision.value)
                draft.end(_END_STATUS.get(state, JobStatus.FINISHED))
                return False
            case TransitionTo(target):
                draft.event("transition", state=state, next_state=target, duration_ms=decision.duration_ms)
                draft.enter(target)
                return True
            case DispatchTask() as action:
                info = self._task_info(draft, action)
                draft.wait(JobStatus.WAITING_FOR_WORKER, info)
                draft.event("task_dispatched", state=state, task_id=info.id, attempt=1, details={"type": info.type})
                draft.task(info, await self._capability(info))
            case DispatchParallel() as action:
                await self._fan_out(draft, action, state)
            case RunBlueprint() as action:
                self._run_child(draft, action, state)
            case AwaitApproval() as action:
                await ask(draft, action, state, self.store, self.settings)
        return False

    async def _capability(self, info: TaskInfo) -> str | None:
        return None if info.is_plain else await self.capability_of(info.type)

    def _task_info(self, draft: Draft, action: DispatchTask, fanout: FanOut | None = None, branch: int | None = None) -> TaskInfo:
        is_plain = action.queue is not None or self.compiler.is_routed(action.type)
        return first_attempt(draft.job, action, draft.now, fanout, branch, is_plain, self.settings.worker_timeout_seconds)

    async def _fan_out(self, draft: Draft, action: DispatchParallel, state: str) -> None:
        fanout = fan_out_of(action, draft.now)
        draft.wait(JobStatus.WAITING_FOR_PARALLEL_TASKS, fanout)
        types = sorted({task.type for task in action.tasks})
        draft.event(
            "tasks_dispatched",
            state=state,
            next_state=action.aggregate_into,
            details={"count": fanout.total, "types": types, "on_failure": fanout.on_failure},
        )
        if fanout.deadline_at is not None:
            draft.timers.append(deadline_timer(draft.job.id, fanout.id, fanout.deadline_at))
        for index, task in enumerate(action.tasks):
            info = self._task_info(draft, task, fanout, index)
            draft.task(info, await self._capability(info))
        if not action.tasks:
            draft.messages.append(self.compiler.aggregate_message(draft.job.id, fanout.id, draft.now))

    def _run_child(self, draft: Draft, action: RunBlueprint, state: str) -> None:
        blueprint = self._blueprint(action.blueprint_name)
        assert_plain(f"initial_data of blueprint {action.blueprint_name!r}", action.initial_data)
        parent = draft.job
        child = new_job(
            blueprint,
            self.settings,
            draft.now,
            initial_data=action.initial_data,
            client=parent.client,
            priority=parent.priority,
            tags=parent.tags,
            parent_job_id=parent.id,
            tracing_context=parent.tracing_context,
        )
        draft.wait(JobStatus.WAITING_FOR_SUB_JOB, SubJob(child.id, blueprint.name, action.transitions))
        draft.set(child_job_ids=(*parent.child_job_ids, child.id))
        draft.event("sub_job_started", state=state, details={"job_id": child.id, "blueprint": blueprint.name})
        draft.children.append(new_job_commit(child, self.compiler, draft.now))


_LET_OUT = "CancelledError: the handler let the cancellation of something that it awaited out"


def _let_out() -> bool:
    """Whether a cancellation is a handler's, and not this process's."""
    this = asyncio.current_task()
    return this is not None and not this.cancelling()


def _assert_json(job: Job, state: str) -> None:
    try:
        json.dumps(job.state_history, allow_nan=False)
        json.dumps(job.result, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise HandlerError(
            f"the handler of state {state!r} left something in state_history (or returned something) "
            f"that is not JSON: {exc}; keep plain values there, and references to everything else"
        ) from None
