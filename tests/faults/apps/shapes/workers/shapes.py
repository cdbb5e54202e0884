"""Tasks that note each of their runs in the log of effects."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from avtomatika import PermanentError, TransientError, Worker
from tests.faults.apps.shapes.limits import SLOTS
from tests.support.effects import effect

worker = Worker(max_concurrent_tasks=5, task_type_limits=SLOTS)


async def _run(slot: str, params: dict[str, Any], context: dict[str, Any], limits: tuple[str, ...] = ()) -> dict[str, Any]:
    attempt = context["attempt"]
    fields = {"job_id": context["job_id"], "task_id": context["task_id"], "attempt": attempt, "worker": context["worker_id"]}
    with effect(token=params["token"], slot=slot, limits=limits, **fields):
        if "until" in params:
            while not Path(params["until"]).exists():
                await asyncio.sleep(0.02)
        await asyncio.sleep(params.get("seconds", 0))
        if params.get("kills"):
            os.kill(os.getpid(), signal.SIGKILL)
        if attempt <= params.get("failures", 0):
            raise TransientError("it was asked to fail")
        if params.get("fails"):
            raise PermanentError("it was asked to fail for good")
    return {"attempt": attempt}


@worker.task("work", task_type="cpu")
async def work(params: dict[str, Any], **context: Any) -> dict[str, Any]:
    return await _run("cpu", params, context)


@worker.task("limited", task_type="cpu")
async def limited(params: dict[str, Any], **context: Any) -> dict[str, Any]:
    return await _run("cpu", params, context, ("api",))


@worker.task("draw", task_type="gpu")
async def draw(params: dict[str, Any], **context: Any) -> dict[str, Any]:
    return await _run("gpu", params, context)
