"""New versions of blueprints and the jobs of the old ones: which would be stranded, and what can be done about them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.broker.control import revoke
from avtomatika.engine.draft import Draft
from avtomatika.engine.endings import drop_all, plain_tasks
from avtomatika.errors import ConfigurationError, FailureCode
from avtomatika.jobs import Approval, Failure, FanOut, Job, JobStatus, SubJob, TaskInfo, Timer, Waiting

if TYPE_CHECKING:
    from avtomatika.engine.orders import Orders
    from avtomatika.engine.results import Engine

_LIVE = tuple(status for status in JobStatus if not status.is_terminal)
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Missing:
    """A state that a job needs and a blueprint does not have. `role`: what for, in words."""

    state: str
    role: str


@dataclass(frozen=True, slots=True)
class Stranded:
    """A live job that cannot go on in a version of its blueprint; nothing is `missing` where there is no such blueprint."""

    job: Job
    missing: tuple[Missing, ...]

    @property
    def text(self) -> str:
        job = self.job
        if not self.missing:
            what = "its blueprint is not here"
        else:
            what = "; ".join(f"{item.role} {item.state!r} does not exist here" for item in self.missing)
        began = f", began with version {job.blueprint_version}" if job.blueprint_version else ""
        return f"job {job.id} of blueprint {job.blueprint_name!r} ({job.status.value} in {job.current_state!r}{began}): {what}"


def missing_states(job: Job, blueprint: Blueprint) -> tuple[Missing, ...]:
    """What a live job needs that a blueprint does not have: its state, and those that it may go to from there."""
    found = {} if blueprint.has_state(job.current_state) else {job.current_state: Missing(job.current_state, "its state")}
    for role, state, has in _needs(job.waiting, blueprint):
        if not has(state):
            found.setdefault(state, Missing(state, role))
    return tuple(found.values())


def _needs(waiting: Waiting | None, blueprint: Blueprint) -> Iterator[tuple[str, str, Callable[[str], bool]]]:
    match waiting:
        case TaskInfo(transitions=transitions) | SubJob(transitions=transitions) | Approval(transitions=transitions):
            for status, state in transitions.items():
                yield f"the state after {status!r}", state, blueprint.has_state
        case FanOut() as fanout:
            yield "the aggregator of", fanout.aggregate_into, blueprint.has_aggregator
            if fanout.failure_state is not None:
                yield "the state after a bad verdict", fanout.failure_state, blueprint.has_state
    if isinstance(waiting, Approval) and waiting.on_timeout is not None:
        yield "the state after the deadline", waiting.on_timeout, blueprint.has_state


def moved(waiting: Waiting | None, states: Mapping[str, str]) -> Waiting | None:
    """What a job waits for, with other names for the states that follow."""
    match waiting:
        case TaskInfo() | SubJob() | Approval():
            after = {status: states.get(state, state) for status, state in waiting.transitions.items()}
            waiting = replace(waiting, transitions=after)
        case FanOut():
            into, bad = waiting.aggregate_into, waiting.failure_state
            failure_state = None if bad is None else states.get(bad, bad)
            return replace(waiting, aggregate_into=states.get(into, into), failure_state=failure_state)
    if isinstance(waiting, Approval) and waiting.on_timeout is not None:
        return replace(waiting, on_timeout=states.get(waiting.on_timeout, waiting.on_timeout))
    return waiting


class Deploys:
    """Looks at live jobs with the eyes of the blueprints that the engine has loaded, and moves them."""

    def __init__(self, engine: Engine, orders: Orders) -> None:
        self._engine = engine
        self._store = engine.store
        self._orders = orders

    @property
    def blueprints(self) -> BlueprintRegistry:
        return self._engine.blueprints

    async def stranded(self, names: Collection[str] = ()) -> list[Stranded]:
        """The live jobs that could not go on; with names, those of these blueprints alone."""
        found: dict[str, Stranded] = {}
        for status in _LIVE:
            before: tuple[float, str] | None = None
            while rows := await self._store.in_status(status, limit=_PAGE, before=before):
                before = (rows[-1][1], rows[-1][0])
                for job in await self._store.load_many([job_id for job_id, _ in rows]):
                    stranded = self._look(job, names)
                    if stranded is not None:
                        found[job.id] = stranded
        return sorted(found.values(), key=lambda item: (item.job.blueprint_name, item.job.created_at, item.job.id))

    def _look(self, job: Job, names: Collection[str]) -> Stranded | None:
        if job.status.is_terminal or (names and job.blueprint_name not in names):
            return None
        if job.blueprint_name not in self.blueprints:
            return Stranded(job, ())
        missing = missing_states(job, self.blueprints.get(job.blueprint_name))
        return Stranded(job, missing) if missing else None

    def check_moves(self, states: Mapping[str, str], names: Collection[str]) -> None:
        """ConfigurationError where a state that jobs are to be moved to exists in none of these blueprints."""
        for new in states.values():
            if not any(self.blueprints.get(name).has_any(new) for name in names if name in self.blueprints):
                raise ConfigurationError(f"no job can be moved to state {new!r}: no blueprint that is checked has it")

    async def migrate(self, job_id: str, states: Mapping[str, str], who: str = "") -> Job | None:
        """Gives a live job's states other names, and its blueprint's version; what runs for it goes on.

        None where the job would be stranded all the same, or has ended.
        """
        while True:
            job = await self._orders.load(job_id)
            if job.status.is_terminal or job.blueprint_name not in self.blueprints:
                return None
            blueprint = self.blueprints.get(job.blueprint_name)
            state, waiting = states.get(job.current_state, job.current_state), moved(job.waiting, states)
            if missing_states(replace(job, current_state=state, waiting=waiting), blueprint):
                return None
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            details = {"by": who, "states": dict(states), "from": job.blueprint_version, "to": blueprint.version}
            draft.event("job_migrated", state=job.current_state, next_state=state, details=details)
            draft.set(current_state=state, waiting=waiting, blueprint_version=blueprint.version, pinned=False)
            if await self._commit(draft):
                return await self._store.load(job_id)

    async def pin(self, job_id: str, who: str = "") -> Job | None:
        """Binds a live job to the version that it began with: code that lacks its state lets it pause.

        None where it has ended.
        """
        while True:
            job = await self._orders.load(job_id)
            if job.status.is_terminal or job.pinned:
                return None if job.status.is_terminal else job
            draft = Draft(job, self._engine.clock(), self._engine.compiler)
            draft.event("job_pinned", state=job.current_state, details={"by": who, "version": job.blueprint_version})
            draft.set(pinned=True)
            if await self._commit(draft):
                return await self._store.load(job_id)

    async def fail(self, job_id: str, reason: str, who: str = "") -> Job | None:
        """Ends a stranded job as failed; what runs for it is stopped. None where it has ended by itself."""
        while True:
            job = await self._orders.load(job_id)
            if job.status.is_terminal:
                return None
            draft, plain = Draft(job, self._engine.clock(), self._engine.compiler), await plain_tasks(self._store, job)
            drop_all(draft, who)
            draft.end(JobStatus.FAILED, reason, Failure(FailureCode.STRANDED, job.step_failures))
            if await self._engine.commit(draft.commit()):
                if plain:
                    await revoke(self._engine.compiler.app, plain)
                return await self._store.load(job_id)

    async def _commit(self, draft: Draft) -> bool:
        """Commits a change that leaves the job where it is. What goes on by its version gets word of the new one."""
        job, version = draft.job, draft.next_version
        if job.status in (JobStatus.PENDING, JobStatus.RUNNING) and job.waiting is None:
            draft.messages.append(draft.compiler.step_message(job.id, version, draft.now))
        elif job.status is JobStatus.AWAITING_RETRY and not isinstance(job.waiting, TaskInfo):
            kind = "step" if job.waiting is None else "aggregate"
            draft.timers.append(Timer(kind, f"{job.id}|{version}", draft.now))
        return await self._engine.commit(draft.commit())
