"""How far a worker can be trusted: from 0 to 1, by how its recent attempts went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from avtomatika.results import LATE, LOST
from avtomatika.state.base import Reputation, Store

WINDOW_SECONDS = 7 * 24 * 3600
#: As if so many successes had gone before: a few samples change little.
PRIOR = 10

#: What an outcome is worth. Those that are missing (cancelled, invalid input, a failure that the task's code means) say nothing
#: about the worker.
WORTH = {"success": 1.0, "status": 1.0, LATE: 0.5, "transient": 0.0, "permanent": 0.0, "timeout": 0.0, LOST: 0.0}


def reputation_of(outcomes: Sequence[tuple[float, str]], now: float) -> Reputation:
    """The reputation that outcomes (time, outcome) make: their mean worth, drawn toward 1 while they are few."""
    recent = [outcome for at, outcome in outcomes if at > now - WINDOW_SECONDS]
    counted = [WORTH[outcome] for outcome in recent if outcome in WORTH]
    value = (sum(counted) + PRIOR) / (len(counted) + PRIOR)
    return Reputation(round(value, 4), len(counted), dict(sorted(Counter(recent).items())), now)


async def recompute(store: Store, now: float) -> None:
    """Computes the reputation of every live worker anew. One of which nothing is known keeps the 1 that everybody begins with."""
    workers = [worker.id for worker in await store.workers(now) if worker.tasks]
    known = await store.reputations(workers)
    for worker_id in workers:
        found = reputation_of(await store.outcomes(worker_id), now)
        before = known.get(worker_id)
        if before is None and not found.made_of:
            continue
        await store.set_reputation(worker_id, found)
