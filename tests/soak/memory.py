"""The memory of processes over a run."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

import psutil

#: A process is judged that lived so long; its first seconds are left out: it loads and fills its pools.
LEAST_SECONDS = 60.0
WARM_UP_SECONDS = 20.0
#: The median of the last third may be so much above that of the first, without the largest step between two tenths: an
#: orchestrator that comes to do the housekeeping loads what it takes, once; what leaks grows all the time.
TOLERANCE_SHARE = 0.10
TOLERANCE_BYTES = 10 * 1024 * 1024


class Memory:
    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)

    def sample(self, at: float, pids: Mapping[str, int]) -> None:
        for name, pid in pids.items():
            try:
                rss = psutil.Process(pid).memory_info().rss
            except psutil.Error:
                continue
            self._samples[name, pid].append((at, rss))

    def thirds(self) -> Iterable[tuple[str, int, int]]:
        """(process, bytes in the first third of its life, in the last), of those that lived long enough."""
        for name, steady in self._judged():
            third = len(steady) // 3
            yield name, int(statistics.median(steady[:third])), int(statistics.median(steady[-third:]))

    def _judged(self) -> Iterable[tuple[str, list[int]]]:
        for (name, pid), samples in sorted(self._samples.items()):
            began, ended = samples[0][0], samples[-1][0]
            steady = [rss for at, rss in samples if at >= began + WARM_UP_SECONDS]
            if ended - began < LEAST_SECONDS or len(steady) < 6:
                continue
            yield f"{name} ({pid})", steady

    def violations(self) -> list[str]:
        steps = {name: _largest_step(steady) for name, steady in self._judged()}
        return [
            f"{name} grew from {first / 2**20:.1f} to {last / 2**20:.1f} MiB"
            for name, first, last in self.thirds()
            if last - first - steps[name] > max(TOLERANCE_BYTES, TOLERANCE_SHARE * first)
        ]


def _largest_step(samples: list[int]) -> float:
    size = max(1, len(samples) // 10)
    tenths = [statistics.median(samples[at : at + size]) for at in range(0, len(samples) - size + 1, size)]
    return max(0.0, *(after - before for before, after in itertools.pairwise(tenths)))
