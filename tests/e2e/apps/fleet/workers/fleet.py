"""A worker whose abilities come from the environment, and that notes the beginning and the end of each run in one file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from avtomatika import PermanentError, Worker

LIMIT = int(os.environ.get("FLEET_LIMIT", "1"))
MODELS = os.environ.get("FLEET_HOT", "").split()

worker = Worker(
    "painter",
    max_concurrent_tasks=LIMIT,
    task_type_limits={"gpu": LIMIT},
    skill_dependencies={"draw": ["brush"]} if "FLEET_SKILLS" in os.environ else {},
)


def note(event: str, worker_id: str, params: dict[str, Any]) -> None:
    line = json.dumps({"event": event, "worker": worker_id, "at": time.time(), **params})
    with Path(os.environ["FLEET_LOG"]).open("a") as log:
        log.write(line + "\n")


@worker.task("draw", task_type="gpu")
async def draw(params: dict[str, Any], worker_id: str) -> dict[str, str]:
    note("begin", worker_id, params)
    try:
        await asyncio.sleep(params.get("seconds", 0))
        if params.get("fails"):
            raise PermanentError("it was asked to fail")
    except asyncio.CancelledError:
        note("stopped", worker_id, params)
        raise
    note("end", worker_id, params)
    return {"worker": worker_id}


@worker.task("load", task_type="gpu")
async def load(params: dict[str, Any], worker_id: str, add_to_hot_cache: Any) -> dict[str, str]:
    for model in params["models"]:
        add_to_hot_cache(model)
    return {"worker": worker_id}
