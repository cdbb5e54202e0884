"""A job as a test sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from avtomatika.engine.orders import Orders
from avtomatika.jobs import JSON, Approval, Event, Job, JobStatus

if TYPE_CHECKING:
    from avtomatika.testing.harness import BlueprintHarness

#: Events whose `next_state` the job does not enter with them.
_NOT_ENTERED = frozenset({"tasks_dispatched", "fan_out_settled"})


def path_of(events: Sequence[Event]) -> list[str]:
    """The states that a job has entered, by its history."""
    path: list[str] = []
    for event in events:
        entered = event.next_state
        if event.event_type in ("job_created", "aggregated"):
            entered = event.state
        if entered is not None and event.event_type not in _NOT_ENTERED:
            path.append(entered)
    return path


class HarnessJob:
    """One job of a `BlueprintHarness`. Every attribute shows the job as it is now.

    An order (`decide`, `cancel`, `pause`, `resume`, `retry`) lets the job go on, as `BlueprintHarness.finish` does.
    """

    def __init__(self, harness: BlueprintHarness, job_id: str) -> None:
        self._harness = harness
        self.id = job_id

    def __repr__(self) -> str:
        said = f", error={self.error!r}" if self.error else ""
        return f"<HarnessJob {self.record.blueprint_name} {self.status.value} path={self.path}{said}>"

    @property
    def record(self) -> Job:
        """The job as the engine stores it."""
        return self._harness._driver.store._jobs[self.id]

    @property
    def status(self) -> JobStatus:
        """Where it stands; equal to its name: ``job.status == "finished"``."""
        return self.record.status

    @property
    def state(self) -> str:
        """The state that it is in."""
        return self.record.current_state

    @property
    def path(self) -> list[str]:
        """The states that it has entered, in order, the start state first; one that is entered again comes again."""
        return path_of(self.events)

    @property
    def result(self) -> Any:
        """What its end state's handler returned."""
        return self.record.result

    @property
    def data(self) -> JSON:
        """Its state_history: what its steps and tasks have left."""
        return self.record.state_history

    @property
    def error(self) -> str | None:
        """Why it failed, or why its latest retry was needed."""
        return self.record.error_message

    @property
    def events(self) -> Sequence[Event]:
        """Its history, oldest first."""
        return tuple(self._harness._driver.store._events.get(self.id, ()))

    @property
    def children(self) -> list[HarnessJob]:
        """The jobs that it has started with `run_blueprint`, in order."""
        return [HarnessJob(self._harness, child) for child in self.record.child_job_ids]

    @property
    def question(self) -> Approval | None:
        """What it asks a person; None where it asks nothing."""
        waiting = self.record.waiting
        return waiting if isinstance(waiting, Approval) else None

    async def decide(self, decision: str, comment: str | None = None, *, who: str = "test") -> None:
        """Answers its question.

        Raises:
            UnknownDecisionError: the decision leads nowhere.
            WrongStateError: it asks nothing.
        """
        await self._harness._decide(self.id, decision, comment, who)
        await self._harness.finish(self)

    async def cancel(self, *, force: bool = False) -> None:
        """Cancels it; raises WrongStateError where it has ended."""
        await Orders(self._harness._driver.engine).cancel(self.id, who="test", force=force)
        await self._harness.finish(self)

    async def pause(self) -> None:
        """Pauses it before its next step; raises WrongStateError where it has ended."""
        await Orders(self._harness._driver.engine).pause(self.id, who="test")
        await self._harness.finish(self)

    async def resume(self) -> None:
        """Lets it go on after a pause; raises WrongStateError where it is not paused."""
        await Orders(self._harness._driver.engine).resume(self.id, who="test")
        await self._harness.finish(self)

    async def retry(self) -> None:
        """Tries it again after it has failed or was quarantined; raises WrongStateError where it has not."""
        await Orders(self._harness._driver.engine).retry(self.id, who="test")
        await self._harness.finish(self)
