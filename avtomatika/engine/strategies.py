"""Strategies: which of the workers that suit a task gets it. The built-in ones, and those that a blueprint's file adds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avtomatika.errors import ConfigurationError
from avtomatika.jobs import TaskInfo
from avtomatika.state.base import Candidate, Order

Choose = Callable[[TaskInfo, Sequence[Candidate]], Candidate | None]

DEFAULT = "default"

#: All but `warm`, which holds only a part of the workers.
_ORDERS = tuple(order.value for order in Order if order is not Order.WARM)


@dataclass(frozen=True, slots=True)
class Strategy:
    """
    Attributes:
        choose: gets the task and the workers that suit it, never none of them; None lets the task wait.
        order: the order in which the workers are looked at, a page at a time; `choose` sees the first page with any that suit.
    """

    name: str
    choose: Choose
    order: Order


_known: dict[str, Strategy] = {}


def strategy(name: str, *, order: Order | str = Order.COST) -> Callable[[Choose], Choose]:
    """Makes a function a strategy that `dispatch_strategy` can name. Every orchestrator has to load it.

    Args:
        order: the order in which it wants to look at workers, ``cost``, ``load``, ``value`` or ``turn``: it sees at least the
            first ones in this order that suit.

    Raises:
        ConfigurationError: the name is empty or taken, there is no such order, or this is no function.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a strategy needs a name: write @strategy('mine'), not @strategy({name!r})")
    if order not in _ORDERS:
        raise ConfigurationError(f"strategy {name!r}: order must be one of {', '.join(_ORDERS)}, not {order!r}")
    read = Order(order)

    def register(choose: Choose) -> Choose:
        if not callable(choose):
            raise ConfigurationError(f"strategy {name!r} must be a function of (task, candidates), not {choose!r}")
        taken = _known.get(name)
        if taken is not None and _origin(taken.choose) != _origin(choose):
            raise ConfigurationError(f"there is a strategy {name!r} already: give this one another name")
        _known[name] = Strategy(name, choose, read)
        return choose

    return register


def _origin(choose: Any) -> tuple[object, ...]:
    """Where a function stands: a file that is loaded once more brings the same ones again."""
    code = getattr(choose, "__code__", None)
    return (choose,) if code is None else (code.co_filename, code.co_firstlineno, code.co_qualname)


def known() -> tuple[str, ...]:
    """The names that `dispatch_strategy` can be."""
    return tuple(sorted(_known))


def find(name: str) -> Strategy | None:
    return _known.get(name)


def is_built_in(strategy: Strategy) -> bool:
    return strategy.choose.__module__ == __name__


def of_default() -> Strategy:
    return _known[DEFAULT]


def _any_of_best(candidates: Sequence[Candidate], value: Callable[[Candidate], float]) -> Candidate:
    best = min(map(value, candidates))
    return random.choice([candidate for candidate in candidates if value(candidate) == best])


@strategy(DEFAULT, order=Order.COST)
def default(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
    """One that holds the models, of those the cheapest."""
    warm = [candidate for candidate in candidates if candidate.warm]
    return _any_of_best(warm or candidates, lambda candidate: candidate.worker.cost_of(task.type))


@strategy("round_robin", order=Order.TURN)
def round_robin(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
    """The one that was picked longest ago."""
    return _any_of_best(candidates, lambda candidate: candidate.turn)


@strategy("least_connections", order=Order.LOAD)
def least_connections(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
    """The one with the fewest tasks in its hands."""
    return _any_of_best(candidates, lambda candidate: candidate.taken)


@strategy("cheapest", order=Order.COST)
def cheapest(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
    """The one whose second costs least for this task."""
    return _any_of_best(candidates, lambda candidate: candidate.worker.cost_of(task.type))


@strategy("best_value", order=Order.VALUE)
def best_value(task: TaskInfo, candidates: Sequence[Candidate]) -> Candidate:
    """The one with the lowest cost for its reputation."""
    return _any_of_best(candidates, lambda candidate: candidate.worker.cost_of(task.type) / max(candidate.reputation, 0.001))


def ask(chosen: Strategy, task: TaskInfo, candidates: Sequence[Candidate]) -> tuple[Candidate | None, str | None]:
    """What a strategy answers, or what is wrong with it, as a sentence; neither where it lets the task wait."""
    try:
        found = chosen.choose(task, tuple(candidates))
    except Exception as exc:
        return None, f"strategy {chosen.name!r} raised {type(exc).__name__}: {exc}"
    if found is not None and not any(found is candidate for candidate in candidates):
        return None, f"strategy {chosen.name!r} returned {_short(found)}, which is none of its candidates"
    return found, None


def _short(value: Any) -> str:
    return f"worker {value.worker.id!r}" if isinstance(value, Candidate) else f"{type(value).__name__} {value!r:.80}"
