"""What a state store promises about workers: their records, what they hold, and the HTTP workers among them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from avtomatika.jobs import WorkerRecord
from avtomatika.state.values import Candidate, Candidates, CommitResult, News, Order, PullView, Reputation


class WorkerStore(Protocol):
    async def register(self, record: WorkerRecord, now: float, ttl: float) -> CommitResult:
        """Registers a process. Another boot under the same id ends: its claims are given out again by the housekeeping.

        What there is room for now goes to the queues of its tasks.
        """

    async def heartbeat(self, worker_id: str, boot_id: str, now: float, ttl: float, record: WorkerRecord | None = None) -> bool:
        """Refreshes the TTL and replaces the record where one is given; false: not registered (any more), register again."""

    async def take_stops(self, boot_id: str) -> Sequence[str]:
        """Task ids that this process should stop, as `CommitResult.stops` named them, each told once."""

    async def unregister(self, worker_id: str, boot_id: str, now: float) -> CommitResult:
        """An orderly end. What it still held is given out again, as by `forget_boot`."""

    async def workers(self, now: float) -> Sequence[WorkerRecord]: ...

    async def candidates(
        self, task_type: str, order: Order, now: float, *, offset: int = 0, count: int = 16, seed: int = 0
    ) -> Candidates:
        """A page of the idle workers of a task, in an order. Its cost does not depend on how many workers there are.

        Among those with the same lowest value the page begins at a place that `seed` picks, so that ties are taken in turn.
        Page on with the same seed. The capability is the task's pinned one.
        """

    async def knowing(self, task_type: str, now: float) -> Sequence[Candidate]:
        """Every live worker that declares a task, busy or not: for people who ask why a task waits."""

    async def note_outcome(self, worker_id: str, outcome: str, now: float) -> None:
        """Adds an outcome of an attempt (`success`, `transient`, …) to what a worker's reputation is made of.

        The latest 200 are kept, for a week after the last one.
        """

    async def outcomes(self, worker_id: str) -> Sequence[tuple[float, str]]:
        """(time, outcome), oldest first."""

    async def set_reputation(self, worker_id: str, reputation: Reputation) -> None:
        """Keeps it under the worker's id; it outlives a restart of the worker, and ends a week after it was last set."""

    async def reputations(self, worker_ids: Sequence[str]) -> dict[str, Reputation]:
        """Of each worker that has one."""

    async def pin_tasks(self, tasks: dict[str, str | None]) -> dict[str, str]:
        """Pins task -> capability at first sight and returns the pinned ones; raises RegistrationError on a conflict.

        None takes the pinned capability, or the task's own name where nothing is pinned yet. All or nothing.
        """

    async def capability_of(self, task_type: str) -> str | None: ...

    async def capabilities(self) -> dict[str, str]:
        """Every pinned task with its capability."""

    async def ended_boots(self, now: float) -> Sequence[str]:
        """Boots that were replaced, unregistered or fell silent, with claims still on them."""

    async def claims(self, boot_id: str) -> tuple[dict[str, str], Sequence[str]]:
        """What a boot holds: {job id: key of the control message it was claimed for}, and task ids."""

    async def disown(self, boot_id: str, jobs: dict[str, str], task_ids: Sequence[str], now: float) -> CommitResult:
        """A live process says that it does not work on these, claimed for it: {job id: key of its control message}, and task ids.

        They are claims of the boot `disowned_by(boot_id)` from now on, which has ended: the housekeeping gives them out again.
        """

    async def drop_claim(self, boot_id: str, *, job_id: str | None = None, task_id: str | None = None) -> None:
        """Takes one entry off a boot's claims."""

    async def forget_boot(self, boot_id: str, now: float) -> CommitResult:
        """Forgets an ended boot that holds nothing any more, and its worker.

        Unclaimed attempts with limits that only it knew wait in the store again: what nobody can take holds no lease of others.
        """


class PullStore(Protocol):
    """What facades need that hand tasks to HTTP workers. What such a worker runs is claimed for it, under its boot."""

    async def worker(self, worker_id: str, now: float) -> WorkerRecord | None:
        """One live process."""

    async def pull_view(self, worker_id: str, now: float) -> PullView | None:
        """A live HTTP worker with what it holds; None where no such one is registered."""

    async def delivered(self, boot_id: str, task_id: str) -> None:
        """The worker has got the attempt that was claimed for it."""

    async def take_left_behind(self, boot_id: str, before: float, now: float) -> str | None:
        """An attempt whose hand-over began before that time and is not confirmed, once: it is handed over anew."""

    async def pending_stops(self, boot_id: str) -> dict[str, str]:
        """What a process should stop, again each time: task id -> job id ('' where it is not known any more)."""

    async def settle_stop(self, boot_id: str, task_id: str) -> None:
        """It has stopped."""

    def news(self) -> AsyncIterator[News]:
        """What happens from now on, without an end; a store that is away is waited for."""

    async def note_socket(self, name: str, until: float, now: float) -> None:
        """A facade holds a WebSocket of a worker (``*``: one of the global token), and says so again before `until`."""

    async def forget_socket(self, name: str, until: float) -> None:
        """It holds it no longer; what another facade has said since stays."""

    async def has_socket(self, worker_id: str, now: float, *, shared: bool) -> bool:
        """Whether a facade holds a WebSocket of this HTTP worker, or (`shared`) one of the global token."""
