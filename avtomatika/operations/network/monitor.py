"""The same check again and again: how often it fails, and how long answers take."""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.network.checks import Verdict, check
from avtomatika.operations.network.family import family
from avtomatika.operations.network.params import NetworkMonitor, guard
from avtomatika.results import JSON

_COUNTERS = ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv", "errin", "errout", "dropin", "dropout")


@dataclass
class Statistics:
    """What the looks have shown so far."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    outages: list[JSON] = field(default_factory=list)
    last_was_ok: bool = True

    def add(self, verdict: Verdict, now: datetime) -> None:
        if verdict.failure is None:
            self.seconds.append(verdict.seconds)
            if not self.last_was_ok:
                self.outages[-1]["until"] = now.isoformat()
        else:
            self.errors[verdict.failure.code.value] += 1
            if self.last_was_ok:
                self.outages.append({"since": now.isoformat(), "until": None, "error_code": verdict.failure.code.value})
        self.last_was_ok = verdict.ok

    @property
    def looks(self) -> int:
        return len(self.seconds) + self.errors.total()

    @property
    def loss(self) -> float:
        """Percent of looks that failed."""
        return 100.0 * self.errors.total() / self.looks if self.looks else 0.0

    def to_dict(self) -> JSON:
        ordered = sorted(self.seconds)
        return {
            "sent": self.looks,
            "received": len(ordered),
            "loss_percent": round(self.loss, 3),
            "errors": dict(self.errors),
            "outages": self.outages[:100],
            "seconds": None if not ordered else {
                "min": round(ordered[0], 6),
                "avg": round(sum(ordered) / len(ordered), 6),
                "p95": round(percentile(ordered, 95), 6),
                "max": round(ordered[-1], 6),
                "jitter": round(jitter(self.seconds), 6),
            },
        }  # fmt: skip


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that so many percent of all are not above (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def jitter(values: list[float]) -> float:
    """How far a value is from the one before it, on average."""
    return sum(abs(b - a) for a, b in pairwise(values)) / max(1, len(values) - 1)


def _counters() -> dict[str, int] | None:
    """What the machine's interfaces have counted; None where psutil is missing."""
    with suppress(ImportError):
        found = importlib.import_module("psutil").net_io_counters()
        return None if found is None else {name: int(getattr(found, name)) for name in _COUNTERS}
    return None


@family.operation("network_monitor", timeout_seconds=7200, max_retries=0, guard=guard)
async def network_monitor(params: NetworkMonitor, op: OperationContext) -> JSON:
    """Repeats a check for a while, and says how often it failed and how long answers took."""
    left = op.seconds_left()
    if left is not None and params.duration > left:
        raise OperationError(
            TaskErrorCode.VALIDATION_OUT_OF_RANGE,
            f"it would take {params.duration:g} s, and the task's timeout_seconds leave {left:.0f}: raise them",
        )
    statistics, before = Statistics(), _counters()
    began = time.monotonic()
    end, due = began + params.duration, began
    while True:
        was_ok = statistics.last_was_ok
        verdict = await check(params.kind, params, op)
        statistics.add(verdict, datetime.now(UTC))
        if verdict.ok is not was_ok:
            op.log("it is well again" if verdict.ok else f"it fails: {verdict.failure}")
        op.progress((time.monotonic() - began) / params.duration, f"{statistics.looks} looks, {statistics.loss:.1f} % lost")
        # By the clock, not by the end of the last look; what a slow answer has covered is left out.
        due = max(due + params.interval, time.monotonic())
        if due >= end:
            break
        await asyncio.sleep(due - time.monotonic())
    after = _counters()
    result = {
        "check": params.kind,
        "host": params.host or params.host_of_url,
        **statistics.to_dict(),
        "duration": round(time.monotonic() - began, 3),
        "interfaces": None if before is None or after is None else {name: after[name] - before[name] for name in _COUNTERS},
    }
    if params.max_loss is not None and statistics.loss > params.max_loss:
        worst = TaskErrorCode(statistics.errors.most_common(1)[0][0])
        raise OperationError(worst, f"{statistics.loss:.1f} % of {statistics.looks} looks failed", details=result)
    return result
