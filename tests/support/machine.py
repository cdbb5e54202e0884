"""The testing kit's machine, driven by hand: messages one after the other, and a clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import Job, JobStatus
from avtomatika.settings import read_settings
from avtomatika.testing import machine as kit
from avtomatika.testing.machine import Killed as Killed
from tests.support.records import NOW


class Machine(kit.Machine):
    """
    Args:
        workers: task name -> function of its params; it returns an envelope or a value, or raises `Killed`.
    """

    def __init__(
        self,
        *blueprints: Blueprint,
        workers: dict[str, Callable[..., Any]] | None = None,
        push: bool = True,
        slots: int = 1000,
        store: Any = None,
        **settings: Any,
    ) -> None:
        routes = {"fleet.*": {"queue": "fleet"}}
        super().__init__(
            read_settings(**settings), now=NOW, workers=workers, push=push, slots=slots, store=store, task_routes=routes
        )
        # Past the static check: many a blueprint here is broken on purpose.
        self.registry._by_name.update((blueprint.name, blueprint) for blueprint in blueprints)

    async def start(self) -> Machine:
        """Registers an orchestrator and a worker; the worker's tasks are pinned to `cpu`."""
        await self.restart_orchestrator()
        await self.add_worker("worker")
        return self

    async def run(self, blueprint: str, **initial_data: Any) -> Job:
        """A new job, driven until it ends or nothing more happens by itself."""
        job_id = await self.create(blueprint, **initial_data)
        await self.drive()
        return await self.job(job_id)

    async def pump(self) -> None:
        """Delivers messages, oldest first, until none is left."""
        while self.queue:
            await self.deliver(self.queue.pop(0))

    async def drive(self) -> None:
        """Delivers all there is and lets time pass up to the next timer, until neither a message nor a timer is left."""
        while True:
            await self.pump()
            await self.tick()
            if self.queue:
                continue
            timers = self.timers()
            if not timers:
                return
            await self.tick(max(0.0, timers[0].due - self.now))


def ended(job: Job) -> tuple[JobStatus, str, Any]:
    return job.status, job.current_state, job.result
