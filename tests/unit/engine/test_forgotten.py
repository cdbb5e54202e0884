"""A process that counted as dead, and was forgotten, may still be at work: what it takes up then is not lost with it."""

from __future__ import annotations

from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.jobs import JobStatus
from tests.support.machine import Killed, Machine, ended


async def test_a_job_of_a_forgotten_orchestrator_that_dies_in_the_middle_goes_on() -> None:
    blueprint, runs = Blueprint("two"), []

    @blueprint.handler_for("start", is_start=True)
    async def start(actions: Any) -> None:
        actions.transition_to("end")

    @blueprint.handler_for("end", is_end=True)
    async def end() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise Killed
        return len(runs)

    machine = await Machine(blueprint).start()
    boot_id = machine.runtime.boot_id
    await machine.store.unregister("orchestrator", boot_id, machine.now)
    await machine.store.forget_boot(boot_id, machine.now)

    job = await machine.run("two")  # its first commit has settled the message that began it

    assert ended(job) == (JobStatus.FINISHED, "end", 2)
    assert (await machine.store.claims(boot_id))[0] == {}
