"""What this process has in its hands by its own word, and its comparison with the store's.

They differ where the store has lost what it had acknowledged: a Redis that came back with the data of a second ago, say. Then a
claim of a live process may stand in the store for ever, for work that is done, or be missing, for work that goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from avtomatika.errors import StoreUnavailableError
from avtomatika.state.base import ClaimOutcome, CommitResult, TaskClaim

logger = logging.getLogger(__name__)

#: Between two looks that have to find the same before anything is done.
SURE_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class HeldAttempt:
    """An attempt in this process's hands.

    Attributes:
        claim: claims it (again); the answer is the same as the first time where the claim still stands.
        runs: its claim was granted, and it has not been reported.
        told: it was stopped, since it is another's.
    """

    claim: Callable[[], Awaitable[TaskClaim]]
    runs: bool = False
    told: bool = False


class Holdings:
    """Jobs and attempts that this process works on. Of the process's event loop."""

    def __init__(self) -> None:
        self.jobs: Counter[str] = Counter()
        self.attempts: dict[str, HeldAttempt] = {}

    @contextmanager
    def job(self, job_id: str) -> Iterator[None]:
        """A control message of this job is being carried out."""
        self.jobs[job_id] += 1
        try:
            yield
        finally:
            self.jobs[job_id] -= 1
            if not self.jobs[job_id]:
                del self.jobs[job_id]

    @contextmanager
    def attempt(self, task_id: str, claim: Callable[[], Awaitable[TaskClaim]]) -> Iterator[HeldAttempt]:
        """From before its claim until after its report."""
        held = self.attempts[task_id] = HeldAttempt(claim)
        try:
            yield held
        finally:
            if self.attempts.get(task_id) is held:
                del self.attempts[task_id]


_holdings = Holdings()


def holdings() -> Holdings:
    """Those of this process."""
    return _holdings


class ClaimStore(Protocol):
    """What of the store is asked here."""

    async def claims(self, boot_id: str) -> tuple[dict[str, str], Sequence[str]]: ...

    async def disown(self, boot_id: str, jobs: dict[str, str], task_ids: Sequence[str], now: float) -> CommitResult: ...


class Reconciler:
    """
    Args:
        after: does what follows from a change of the store.
        stop: cancels the attempts of these ids.
    """

    def __init__(
        self,
        store: ClaimStore,
        holdings: Holdings,
        boot_id: str,
        after: Callable[[CommitResult], Awaitable[object]],
        stop: Callable[[Sequence[str]], object],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._holdings = holdings
        self._boot_id = boot_id
        self._after = after
        self._stop = stop
        self._clock = clock
        self._orphans: set[tuple[str, str]] = set()  # (job id, key of its control message) and (task id, "")
        self._missing: set[HeldAttempt] = set()

    async def run(self, interval: float) -> None:
        """Until cancelled: a look at each interval, a second one soon where the first found something."""
        while True:
            wait = interval
            try:
                if await self.look():
                    wait = min(SURE_SECONDS, interval)
            except StoreUnavailableError:
                wait = min(SURE_SECONDS, interval)  # it may come back with other data than it went with
            except Exception:
                logger.exception("what is held could not be compared with the store", extra={"action": "reconcile"})
            await asyncio.sleep(wait)

    async def look(self) -> bool:
        """Compares once; what two looks in a row find is mended. Whether there is something to look at again."""
        holdings = self._holdings
        jobs_before, attempts_before = set(holdings.jobs), dict(holdings.attempts)
        jobs, tasks = await self._store.claims(self._boot_id)
        orphans = {(job_id, key) for job_id, key in jobs.items() if job_id not in jobs_before and job_id not in holdings.jobs}
        orphans |= {(i, "") for i in tasks if i not in attempts_before and i not in holdings.attempts}
        missing = {
            held for task_id, held in attempts_before.items()
            if held.runs and not held.told and task_id not in tasks and holdings.attempts.get(task_id) is held
        }  # fmt: skip
        sure, self._orphans = orphans & self._orphans, orphans
        lost, self._missing = missing & self._missing, missing
        if sure:
            await self._disown({job: key for job, key in sure if key}, sorted(task for task, key in sure if not key))
        for task_id, held in attempts_before.items():
            if held in lost:
                await self._claim_again(task_id, held)
        return bool(orphans or missing) and not (sure or lost)

    async def _disown(self, jobs: dict[str, str], task_ids: Sequence[str]) -> None:
        logger.warning(
            "by the store this process works on %d jobs and %d tasks of which it knows nothing: they are given out again",
            len(jobs), len(task_ids), extra={"action": "disown"},
        )  # fmt: skip
        await self._after(await self._store.disown(self._boot_id, jobs, task_ids, self._clock()))

    async def _claim_again(self, task_id: str, held: HeldAttempt) -> None:
        if not held.runs:
            return
        claim = await held.claim()
        await self._after(CommitResult(True, claim.outbox))
        if claim.outcome is ClaimOutcome.OK:
            logger.warning(
                "the store had forgotten that attempt %s runs here: it is claimed again", task_id,
                extra={"action": "claim_again", "task_id": task_id},
            )  # fmt: skip
        elif held.runs:
            held.told = True
            self._stop([task_id])
