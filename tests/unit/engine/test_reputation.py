"""Reputations: what outcomes make of them, and that they are computed for those who live."""

from __future__ import annotations

import pytest

from avtomatika.engine.reputation import recompute, reputation_of
from avtomatika.state.base import Reputation
from tests.support.board import Board
from tests.support.records import NOW

DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("outcomes", "value", "samples"),
    [
        ([], 1.0, 0),
        (["success"] * 50, 1.0, 50),
        (["status"] * 5, 1.0, 5),
        (["lost"], 10 / 11, 1),
        (["transient"] * 10, 0.5, 10),
        (["permanent"] * 90, 0.1, 90),
        (["timeout"] * 10 + ["success"] * 20, 0.75, 30),
        (["late"] * 10, 0.75, 10),
        (["failure", "invalid_input", "cancelled", "something new"] * 20, 1.0, 0),
        (["success", "cancelled", "lost"], 11 / 12, 2),
    ],
)
def test_what_outcomes_make(outcomes: list[str], value: float, samples: int) -> None:
    found = reputation_of([(NOW - 1, outcome) for outcome in outcomes], NOW)

    assert found.value == pytest.approx(value, abs=1e-4)
    assert (found.samples, found.computed_at) == (samples, NOW)
    assert found.made_of == {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


def test_only_a_week_counts() -> None:
    outcomes = [(NOW - 8 * DAY, "lost"), (NOW - 7.1 * DAY, "lost"), (NOW - 6.9 * DAY, "timeout"), (NOW, "success")]

    found = reputation_of(outcomes, NOW)

    assert (found.made_of, found.samples) == ({"timeout": 1, "success": 1}, 2)


async def test_every_live_worker_has_its_own() -> None:
    board = Board()
    for name in ("good", "bad", "new"):
        await board.worker(name)
    await board.store.note_outcome("good", "success", NOW)
    for outcome in ("lost", "timeout", "success"):
        await board.store.note_outcome("bad", outcome, NOW)
    await board.store.note_outcome("gone", "lost", NOW)

    await recompute(board.store, NOW)

    found = await board.store.reputations(["good", "bad", "new", "gone"])
    assert {name: (reputation.value, reputation.samples) for name, reputation in found.items()} == {
        "good": (1.0, 1),
        "bad": (round(11 / 13, 4), 3),
    }
    candidates = {candidate.worker.id: candidate.reputation for candidate in await board.store.knowing("draw", NOW)}
    assert candidates == {"good": 1.0, "bad": round(11 / 13, 4), "new": 1.0}


async def test_a_bad_one_recovers() -> None:
    board = Board()
    await board.worker("w")
    await board.store.set_reputation("w", Reputation(0.2, 50, {"lost": 50}, NOW - 60))
    for _ in range(10):
        await board.store.note_outcome("w", "success", NOW)

    await recompute(board.store, NOW)

    assert (await board.store.reputations(["w"]))["w"].value == 1.0


async def test_the_better_value_is_chosen_by_it() -> None:
    board = Board()
    await board.worker("cheap", cost_per_second=1.0)
    await board.worker("sound", cost_per_second=1.2)
    for _ in range(10):
        await board.store.note_outcome("cheap", "lost", NOW)
    await recompute(board.store, NOW)

    task_id = await board.task(dispatch_strategy="best_value")
    await board.pump()

    assert await board.at(task_id) == ["sound"]
