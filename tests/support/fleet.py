"""The application `fleet`: workers of any ability, and the log of what they did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avtomatika.jobs import WorkerRecord
from tests.support.engine import Engine, app_environment
from tests.support.polling import eventually_async
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker


@dataclass
class Fleet:
    """Processes of one test over one broker.

    Attributes:
        log: where the workers note the beginning and the end of each run, one JSON object a line.
    """

    processes: Processes
    env: dict[str, str]
    log: Path

    def orchestrator(self, number: int = 1, *, wait: bool = True) -> Orchestrator:
        node = f"orchestrator{number}@{self.env['NAMESPACE']}"
        return self.processes.make(Orchestrator, env=self.env, node=node, wait=wait)

    def worker(self, name: str, env: Mapping[str, str] | None = None, *, wait: bool = True) -> CapabilityWorker:
        """A worker of the capability gpu; FLEET_LIMIT tasks at once, one without it."""
        node = f"{name}@{self.env['NAMESPACE']}"
        return self.processes.make(CapabilityWorker, env={**self.env, **(env or {})}, capabilities=["gpu"], node=node, wait=wait)

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [row for row in rows if event is None or row["event"] == event]

    def most_at_once(self, **having: Any) -> int:
        """How many runs (of those with these params) overlapped at most; one whose worker was killed ends with its next run."""
        changes: list[tuple[float, int]] = []
        begun: dict[Any, float] = {}
        for row in self.lines():
            if any(row.get(name) != value for name, value in having.items()):
                continue
            if row["event"] == "begin":
                begun[row["n"], row["worker"]] = row["at"]
            else:
                changes += [(begun.pop((row["n"], row["worker"])), 1), (row["at"], -1)]
        running = most = 0
        for _, change in sorted(changes):
            running += change
            most = max(most, running)
        return most


def make_fleet(broker: Broker, processes: Processes, directory: Path, **settings: str) -> Fleet:
    """A fleet whose repairs come soon."""
    env = {
        **broker.env,
        **app_environment("fleet"),
        "FLEET_LOG": str(directory / "effects.log"),
        "WATCHER_INTERVAL_SECONDS": "1",
        "CLAIM_GRACE_SECONDS": "2",
        "WORKER_HEALTH_CHECK_INTERVAL_SECONDS": "2",
        "SHUTDOWN_GRACE_SECONDS": "1",
        **settings,
    }
    return Fleet(processes, env, directory / "effects.log")


async def registered(engine: Engine, worker_id: str, deadline: float = 30.0) -> WorkerRecord:
    """Waits until the store knows a worker."""
    import time

    async def look() -> WorkerRecord | None:
        records = await engine.service.store.workers(time.time())
        return next((record for record in records if record.id == worker_id), None)

    found = await eventually_async(look, deadline=deadline)
    assert found is not None
    return found
