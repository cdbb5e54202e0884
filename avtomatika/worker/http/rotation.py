"""Whose turn it is among several orchestrators: by priority, and by weight within one priority."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rank:
    """Attributes:
    priority: the lower number comes first.
    weight: its share among those of the same priority.
    """

    priority: int = 1
    weight: int = 1


class Rotation(Generic[K]):
    """Smooth weighted round robin: turns are spread evenly, so that weights 2 and 1 give a, b, a and not a, a, b."""

    def __init__(self, ranks: Mapping[K, Rank]) -> None:
        self._ranks = dict(ranks)
        self._credit: dict[K, int] = dict.fromkeys(ranks, 0)

    def tier(self, reachable: Collection[K]) -> tuple[K, ...]:
        """The reachable ones of the best priority that has any."""
        found = [key for key in self._ranks if key in reachable]
        best = min((self._ranks[key].priority for key in found), default=None)
        return tuple(key for key in found if self._ranks[key].priority == best)

    def is_first(self, key: K) -> bool:
        """Whether none has a better priority."""
        return self._ranks[key].priority == min(rank.priority for rank in self._ranks.values())

    def next(self, candidates: Collection[K]) -> K:
        """Who comes next of these; there must be one."""
        among = [key for key in self._ranks if key in candidates]
        for key in among:
            self._credit[key] += self._ranks[key].weight
        chosen = max(among, key=lambda key: self._credit[key])  # the first one of equals
        self._credit[chosen] -= sum(self._ranks[key].weight for key in among)
        return chosen
