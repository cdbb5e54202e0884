"""The application `shapes`: jobs of every shape over real processes, and the checker's evidence of what they did."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from avtomatika.jobs import Job
from tests.faults.apps.shapes.limits import LIMITS, SLOTS
from tests.support import effects
from tests.support.checker import violations
from tests.support.engine import ENDED, Engine
from tests.support.evidence import gather, leftovers
from tests.support.polling import eventually_async
from tests.support.processes import REPOSITORY, CapabilityWorker, ManagedProcess, Orchestrator, Processes

APP = Path(__file__).resolve().parents[1] / "faults" / "apps" / "shapes"


def shapes_environment(redis_url: str, directory: Path, namespace: str, **settings: str) -> dict[str, str]:
    """Of processes whose repairs come soon. Broker and state are one Redis, unless BROKER_URL is among the settings."""
    return {
        "REDIS_URL": redis_url,
        "BROKER_URL": redis_url,
        "NAMESPACE": namespace,
        "PYTHONPATH": str(REPOSITORY),
        "BLUEPRINTS_DIR": str(APP / "blueprints"),
        "WORKERS_DIR": str(APP / "workers"),
        effects.LOG: str(directory / "effects.log"),
        "WATCHER_INTERVAL_SECONDS": "1",
        "CLAIM_GRACE_SECONDS": "2",
        "RETRY_BACKOFF_SECONDS": "0.1",
        "WORKER_HEALTH_CHECK_INTERVAL_SECONDS": "3",
        "SHUTDOWN_GRACE_SECONDS": "1",
        "CANCEL_GRACE_SECONDS": "3",
        **settings,
    }


@dataclass
class Shapes:
    """Processes of one installation, the jobs that it accepted, and who was killed when."""

    processes: Processes
    env: dict[str, str]
    accepted: list[str] = field(default_factory=list)
    died: dict[int, float] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return Path(self.env[effects.LOG])

    def orchestrator(
        self, name: str = "orchestrator", env: Mapping[str, str] | None = None, *, wait: bool = False
    ) -> Orchestrator:
        node = f"{name}@{self.env['NAMESPACE']}"
        return self.processes.make(Orchestrator, env={**self.env, **(env or {})}, node=node, wait=wait)

    def worker(self, name: str = "worker", env: Mapping[str, str] | None = None, *, wait: bool = False) -> CapabilityWorker:
        node = f"{name}@{self.env['NAMESPACE']}"
        return self.processes.make(CapabilityWorker, env={**self.env, **(env or {})}, node=node, wait=wait)

    def kill(self, process: ManagedProcess) -> None:
        pid = process.pid
        process.kill()
        self.died[pid] = effects.now()

    async def create(self, engine: Engine, blueprint: str, **initial_data: Any) -> Job:
        job = await engine.create(blueprint, {"params": {}, **initial_data})
        self.accepted.append(job.id)
        return job

    async def all_ended(self, engine: Engine, job_ids: Collection[str] | None = None, deadline: float = ENDED) -> list[Job]:
        return [await engine.ended(job_id, deadline) for job_id in (self.accepted if job_ids is None else job_ids)]

    def clients(self) -> tuple[redis.Redis, redis.Redis]:
        """Of the state and of the broker, past any proxy; the caller closes them."""
        state, broker = (self.env.get(name, self.env[name.removeprefix("DIRECT_")]) for name in _URLS)
        return redis.Redis.from_url(state, decode_responses=True), redis.Redis.from_url(broker, decode_responses=True)

    async def holds(self, engine: Engine, *, lossy: bool = False, deadline: float = 60.0) -> None:
        """Fails unless every invariant held; what is still on its way is waited for.

        What a killed process had not acknowledged is left out: its broker gives it out again after the visibility timeout, which
        a short test does not wait for.
        """
        ignored = {"unacknowledged messages"} if self.died else set()
        store, namespace = engine.service.store, self.env["NAMESPACE"]
        state, broker = self.clients()
        with state, broker:

            async def nothing_left() -> bool:
                return not any(count for name, count in leftovers(state, namespace, broker).items() if name not in ignored)

            with contextlib.suppress(AssertionError):  # the evidence says what is left
                await eventually_async(nothing_left, deadline=deadline, interval=0.2)
            evidence = await gather(
                store, state, namespace, log=self.log, accepted=self.accepted, broker=broker,
                slots=SLOTS, limits=LIMITS, died=self.died, lossy=lossy,
            )  # fmt: skip
        left = {name: count for name, count in evidence.leftovers.items() if name not in ignored}
        found = violations(replace(evidence, leftovers=left))
        assert not found, "\n".join(found[:20])
        assert evidence.runs or not self.accepted, "no effect was noted"


_URLS = ("DIRECT_REDIS_URL", "DIRECT_BROKER_URL")
