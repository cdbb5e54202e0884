"""`python -m tests.soak`: runs a soak and reports it; its exit status is 1 where an invariant did not hold."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import JobStatus
from tests.faults.apps.shapes.limits import LIMITS, SLOTS
from tests.soak.faults import Faults
from tests.soak.installation import NAMESPACE, Installation
from tests.soak.load import Load
from tests.soak.memory import TOLERANCE_BYTES, TOLERANCE_SHARE, Memory
from tests.support.checker import Evidence, violations
from tests.support.engine import Engine, opened_engine
from tests.support.evidence import gather, leftovers, uncovered

#: So many jobs may be unfinished at a time.
MOST_UNFINISHED = 150
DRAIN_SECONDS = 150.0
_GOOD_ENDS = {
    "long": {JobStatus.CANCELLED, JobStatus.FINISHED},
    "asks": {JobStatus.FINISHED},
}


class Soak:
    def __init__(self, installation: Installation, seconds: float, fault_seconds: float, seed: int) -> None:
        self.town = installation
        self.seconds = seconds
        self.fault_seconds = fault_seconds
        self.seed = seed
        self.memory = Memory()
        self.faults = Faults(installation, random.Random(seed))
        self.stuck: list[str] = []
        self.unfinished = 0
        self.began = time.monotonic()

    async def run(self) -> dict[str, Any]:
        self.town.start()
        async with opened_engine(self.town.env) as engine:
            load = Load(self.town.facades, random.Random(self.seed + 1))
            self.began = time.monotonic()
            watching = asyncio.ensure_future(self._watch(engine))
            breaking = asyncio.ensure_future(self.faults.run(self.fault_seconds))
            try:
                await load.run(lambda: self._elapsed() < self.seconds, lambda: self.unfinished < MOST_UNFINISHED)
                breaking.cancel()
                await self.faults.healed()
                await load.people_are_done()
                drained = await self._drain(engine)
            finally:
                watching.cancel()
                breaking.cancel()
                await load.close()
            return self._report(load, await self._evidence(engine, load), drained)

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    @staticmethod
    async def _count(engine: Engine) -> int:
        counts = await engine.service.store.count_by_status()
        return sum(count for status, count in counts.items() if not status.is_terminal)

    async def _watch(self, engine: Engine) -> None:
        """Counts what is unfinished, samples memory, and looks for jobs that nothing leads on."""
        looked = 0.0
        while True:
            try:
                self.unfinished = await self._count(engine)
                pids = {name: member.pid for name, member in self.town.members.items() if member.running}
                self.memory.sample(self._elapsed(), pids)
                if self._elapsed() - looked > 15:
                    looked = self._elapsed()
                    with self.town.client() as client:
                        self.stuck += await uncovered(engine.service.store, client, NAMESPACE)
            except (StoreUnavailableError, redis.RedisError):
                pass  # it is one of the faults
            except Exception as exc:
                self.faults.log.append(f"the watch failed: {exc!r}")
            await asyncio.sleep(0.5)

    async def _drain(self, engine: Engine) -> float:
        """Waits until nothing is left; the seconds that it took, or infinity."""
        began, told = time.monotonic(), {}
        while (elapsed := time.monotonic() - began) < DRAIN_SECONDS:
            with self.town.client() as client:
                left = {name: count for name, count in leftovers(client, NAMESPACE, client).items() if count}
            unfinished = await self._count(engine)
            if unfinished == 0 and not left:
                return round(elapsed, 1)
            if left != told:
                told = left
                self.faults.log.append(f"left after {elapsed:.0f} s: {unfinished} jobs, {left}")
            await asyncio.sleep(1)
        return float("inf")

    async def _evidence(self, engine: Engine, load: Load) -> Evidence:
        with self.town.client() as client:
            return await gather(
                engine.service.store, client, NAMESPACE, log=self.town.log, accepted=list(load.accepted), broker=client,
                slots=SLOTS, limits=LIMITS, died=self.town.died,
            )  # fmt: skip

    def _report(self, load: Load, evidence: Evidence, drained: float) -> dict[str, Any]:
        found = [*violations(evidence), *(f"in the middle of the run: {sentence}" for sentence in self.stuck)]
        for job_id, job in evidence.jobs.items():
            good = _GOOD_ENDS.get(load.accepted.get(job_id, ""), {JobStatus.FINISHED})
            if job.status.is_terminal and job.status not in good:
                found.append(f"job {job_id} ({load.accepted.get(job_id, 'child')}) is {job.status.value}: {job.error_message}")
        found += self.memory.violations()
        if drained == float("inf"):
            found.append(f"after {DRAIN_SECONDS:g} s without faults something was still left: see the fault log")
        return {
            "seed": self.seed,
            "seconds": round(self._elapsed(), 1),
            "jobs": len(evidence.jobs),
            "shapes": dict(sorted(load.made.items())),
            "runs of tasks": len(evidence.runs),
            "killed runs": sum(run.ended is None for run in evidence.runs),
            "faults": dict(sorted(self.faults.done.items())),
            "fault log": self.faults.log,
            "drained after": drained,
            "memory (MiB, first and last third)": {
                name: [round(first / 2**20, 1), round(last / 2**20, 1)] for name, first, last in self.memory.thirds()
            },
            "violations": found,
        }


def _print(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if name in ("violations", "fault log"):
            continue
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key}: {item}")
        else:
            print(f"{name}: {value}")
    print(f"(memory may grow by {TOLERANCE_SHARE:.0%}, or {TOLERANCE_BYTES // 2**20} MiB)")
    print(f"violations: {len(report['violations'])}")
    for sentence in report["violations"][:50]:
        print(f"  {sentence}")


def main() -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "1200"))
    fault_seconds = float(os.environ.get("SOAK_FAULT_SECONDS", "5"))
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns() % 1_000_000)))
    directory = Path(tempfile.mkdtemp(prefix="avtomatika-soak-"))
    print(f"soak of {seconds:g} s, seed {seed}, logs in {directory}", flush=True)
    installation = Installation(directory)
    try:
        report = asyncio.run(Soak(installation, seconds, fault_seconds, seed).run())
    finally:
        installation.close()
    _print(report)
    Path(os.environ.get("SOAK_REPORT", "soak-report.json")).write_text(json.dumps(report, indent=2) + "\n")
    if report["violations"]:
        print(f"the logs are kept in {directory}")
        sys.exit(1)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
