"""Operations on real workers: an installation with an operations.toml, and queue tasks in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avtomatika.jobs import Client, Job
from tests.support.engine import Engine, opened_engine
from tests.support.processes import CapabilityWorker, Orchestrator, Processes
from tests.support.servers import Broker


@dataclass
class Site:
    """An orchestrator and a worker that runs operations.

    Attributes:
        config: the operations.toml, which is read again when it changes.
    """

    processes: Processes
    env: dict[str, str]
    config: Path

    def orchestrator(self) -> Orchestrator:
        return self.processes.make(Orchestrator, env=self.env, node=f"orchestrator@{self.env['NAMESPACE']}", wait=False)

    def worker(self, *capabilities: str, name: str = "operator", env: Mapping[str, str] | None = None) -> CapabilityWorker:
        node = f"{name}@{self.env['NAMESPACE']}"
        env = {**self.env, **(env or {})}
        return self.processes.make(CapabilityWorker, env=env, capabilities=list(capabilities), node=node, wait=False)

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        async with opened_engine(self.env) as engine:
            yield engine


async def push(engine: Engine, task_type: str, params: Mapping[str, Any], *, role: str = "default", **options: Any) -> Job:
    """A queue task, as the facade stores it for a client of this role."""
    client = Client(name=f"client-of-{role}", role=role)
    return await engine.service.create("operation", {"task_type": task_type, "params": dict(params), **options}, client=client)


def make_site(broker: Broker, processes: Processes, directory: Path, config: str, **settings: str) -> Site:
    """Nothing is started yet. `config` is the text of the operations.toml."""
    for folder in ("blueprints", "workers"):
        (directory / folder).mkdir(exist_ok=True)
    path = directory / "operations.toml"
    path.write_text(config)
    env = {
        **broker.env,
        "BLUEPRINTS_DIR": str(directory / "blueprints"),
        "WORKERS_DIR": str(directory / "workers"),
        "OPERATIONS_CONFIG_PATH": str(path),
        "RETRY_BACKOFF_SECONDS": "0.1",
        **settings,
    }
    return Site(processes, env, path)
