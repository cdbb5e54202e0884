"""An attempt ends with its operation, whatever becomes of its reports."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from avtomatika.jobs import Client, Job, TaskInfo
from avtomatika.operations import Family, OperationContext, Params
from avtomatika.operations.run import REPORT_SECONDS, Attempt
from avtomatika.settings import read_settings


class _NoParams(Params):
    """Nothing."""


family = Family("of_this_test")


@family.operation("waits")
async def waits(params: _NoParams, op: OperationContext) -> dict[str, Any]:
    await asyncio.sleep(REPORT_SECONDS + 0.1)
    op.log("done")
    return {"done": True}


class _Store:
    """One task of one job."""

    async def get_task(self, task_id: str) -> Any:
        return SimpleNamespace(info=TaskInfo(task_id, "job", "waits", {}, {}))

    async def load(self, job_id: str) -> Job:
        return Job(job_id, "operation", "run", client=Client("a", role="ops"))


class _LosesACancel(Attempt):
    """asyncio.wait_for, by which a store's client waits, loses a cancel in Python 3.11 that comes as its work is done."""

    lost = 0

    async def _send(self, op: OperationContext) -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            if self.lost:
                raise
            self.lost += 1


async def test_a_report_that_loses_its_cancel(tmp_path: Path) -> None:
    path = tmp_path / "operations.toml"
    path.write_text('[policy.ops]\noperations = ["*"]\n')
    settings = read_settings(operations_config_path=path)
    runtime: Any = SimpleNamespace(store=_Store(), settings=settings, clock=lambda: 0.0, boot_id="boot")
    attempt = _LosesACancel(runtime, family.operations["waits"], "task", "job", 1, None)
    running = asyncio.create_task(attempt.run())
    done, _ = await asyncio.wait({running}, timeout=20)
    assert done, "it still waits for its reporter"
    assert running.result().data == {"done": True}
    assert attempt.lost == 1
